"""Time as a dependency: what reads or waits for it is given a clock, so that tests can own it."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None:
        """Forget the callback; harmless once it has run."""
        ...


class Clock(Protocol):
    """Wall time for what is recorded, a monotonic timer for what is waited for."""

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds; it may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; they never go back."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Run ``callback`` on the running loop after ``delay_s`` seconds."""
        ...


class SystemClock:
    """The machine's time and the running loop's timers."""

    # Plain functions, so that a hot path pays one call and no wrapper.
    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Run ``callback`` on the running loop after ``delay_s`` seconds."""
        return asyncio.get_running_loop().call_later(delay_s, callback)


SYSTEM_CLOCK = SystemClock()
