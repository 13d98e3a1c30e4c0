"""Deadlines for many waits with few timers: those that end within one tick share one."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from avx_events.core.clock import Clock, Timer

if TYPE_CHECKING:
    import asyncio

TICK_S: Final = 0.01
"""How coarse deadlines are, in seconds: a wait ends at its deadline or up to a tick later, never before. Long waits
have longer ticks, a 512th of themselves, so that waits that ended in time leave few timers behind."""

_LONGEST_S: Final = 1e9  # a float has no use for more


class Deadlines:
    """Ends futures that were not done in time.

    A timer costs as much as the rest of a request, and nearly all are cancelled; here they are one for each tick, and a
    wait that ends in time takes itself out of a set.
    """

    __slots__ = ("_buckets", "_clock", "_on_late", "_timers")

    def __init__(self, clock: Clock, on_late: Callable[["asyncio.Future[object]"], None]) -> None:
        """Call ``on_late`` with each future that is late and not done."""
        self._clock = clock
        self._on_late = on_late
        self._buckets: dict[int, set[asyncio.Future[object]]] = {}
        self._timers: dict[int, Timer] = {}

    def add(self, future: "asyncio.Future[object]", timeout_s: float) -> int:
        """Watch ``future`` for ``timeout_s`` seconds; the number returned is for ``discard``."""
        now_s = self._clock.monotonic()
        timeout_s = min(timeout_s, _LONGEST_S)
        ticks = max(int(timeout_s / TICK_S) >> 9, 1)
        tick = math.ceil((now_s + timeout_s) / TICK_S / ticks) * ticks
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            self._timers[tick] = self._clock.call_later(max(tick * TICK_S - now_s, 0.0), lambda: self._end(tick))
        bucket.add(future)
        return tick

    def discard(self, future: "asyncio.Future[object]", tick: int) -> None:
        """Watch ``future`` no longer."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(future)

    def _end(self, tick: int) -> None:
        self._timers.pop(tick, None)
        for future in self._buckets.pop(tick, ()):
            if not future.done():
                self._on_late(future)
