"""A clock that a test owns: time stands still until the test moves it."""

import asyncio
import heapq
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from avx_events.core.arguments import seconds, whole
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.metadata import EPOCH

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class ManualTimer:
    """A callback that waits for a ``ManualClock`` to come to ``due_ns``.

    Attributes:
        due_ns: When it is called, in the clock's nanoseconds.
        callback: What is called; None once it was called or cancelled.
    """

    __slots__ = ("callback", "due_ns")

    def __init__(self, due_ns: int, callback: Callable[[], object]) -> None:
        """Wait until ``due_ns``."""
        self.due_ns = due_ns
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless once it has run."""
        self.callback = None


class ManualClock:
    """Time for tests: give it to a bus or store as ``clock=``, and move it with ``advance``.

    Pauses of retries, deadlines of handlers and timestamps then take no time at all, and are exact; a request is late
    up to 10 ms after its ``timeout_s``, or a 500th of it where that is more, as on every clock. To wait until the code
    under test has planned a pause, ``await clock.planned()``.
    """

    def __init__(self, now: datetime = _START) -> None:
        """Stand at ``now``, which has a time zone.

        Raises:
            InvalidArgumentError: It has none.
        """
        if now.tzinfo is None:
            raise InvalidArgumentError("now", now, expected="a datetime with a time zone, as datetime.now(UTC)")
        self._now_ns = (now - EPOCH) // _MICROSECOND * 1000
        self._timers: list[tuple[int, int, ManualTimer]] = []
        self._numbers = count()
        self._watchers: list[asyncio.Event] = []  # made where they wait: the next test has another loop

    @property
    def now(self) -> datetime:
        """The time it shows, aware UTC."""
        return EPOCH + self._now_ns // 1000 * _MICROSECOND

    @property
    def pauses_s(self) -> list[float]:
        """In how many seconds the planned callbacks are due, the next one first."""
        waiting = sorted(timer.due_ns for _, _, timer in self._timers if timer.callback is not None)
        return [(due_ns - self._now_ns) / 1e9 for due_ns in waiting]

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return self._now_ns

    def monotonic(self) -> float:
        """Return the same time in seconds."""
        return self._now_ns / 1e9

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> ManualTimer:
        """Call ``callback`` once the clock was moved by ``delay_s`` seconds."""
        timer = ManualTimer(self._now_ns + round(delay_s * 1e9), callback)
        heapq.heappush(self._timers, (timer.due_ns, next(self._numbers), timer))
        for has_changed in self._watchers:
            has_changed.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock, and call what becomes due on the way, each at its own time.

        What the callbacks wake up runs when the test waits next, as with ``await bus.settled()``.

        Raises:
            InvalidArgumentError: Time would go back, or for ever on.
        """
        if not 0 <= seconds < math.inf:
            raise InvalidArgumentError("seconds", seconds, expected="a finite number, 0 or more")
        end_ns = self._now_ns + round(seconds * 1e9)
        while self._timers and self._timers[0][0] <= end_ns:
            due_ns, _, timer = heapq.heappop(self._timers)
            self._now_ns = max(self._now_ns, due_ns)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self._now_ns = end_ns

    async def planned(self, count: int = 1, *, timeout_s: float = 5.0) -> None:
        """Wait until at least ``count`` callbacks wait for the clock.

        Raises:
            TimeoutError: They did not within ``timeout_s`` seconds of real time.
            InvalidArgumentError: The count or the time is outside its range.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        whole("count", count, least=1)
        seconds("timeout_s", timeout_s)
        has_changed = asyncio.Event()
        self._watchers.append(has_changed)
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.pauses_s) < count:
                    has_changed.clear()
                    await has_changed.wait()
        except TimeoutError:
            text = f"{count} expected to wait for the clock within {timeout_s:g} s, {len(self.pauses_s)} do"
            raise TimeoutError(text) from None
        finally:
            self._watchers.remove(has_changed)
