"""Keeps a busy event loop from starving the thread that writes.

A thread that waits for Python's lock gets it when the holder blocks or, asked after 5 ms, gives it up. A loop that is
busy all the time blocks in each of its turns for some microseconds: too short for the thread to wake up, and enough for
its 5 ms to begin anew. Turns of 0.05 to 5 ms without a pause may keep it waiting for seconds, each time that it comes
out of SQLite, which is several times in a commit. So while the thread has something to do and does not get on with it,
the loop stands still for a part of that time, and the lock is free.

Who is not starved needs no help, and the time that the thread has had the processor tells which it is:

- *at work* in SQLite, it has had it meanwhile, though the loop had the lock;
- *asleep*, for the disk or another process's lock, it has not, and does nothing with a standstill either;
- *starved*, it has not, and gets on as soon as the loop stands still.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

_PATIENCE_S: Final = 0.001
_LONGEST_S: Final = 0.01
_PART: Final = 0.25
"""Of the time that the thread has been waiting: what the loop loses at the most."""

_GLANCE_S: Final = 0.00025
"""A standstill that finds out whether the thread still sleeps."""

_AT_WORK: Final = 0.2
"""Of the time that has passed: who has had the processor for so much of it is not starved, on a crowded machine too."""


class StarvationGuard:
    """Watches over the work of one thread, for one loop. All but ``progress`` is called on the loop.

    Attributes:
        standstills: How often the loop stood still.
        stood_still_s: For how long in all, at the most.
        is_asleep: Whether the thread slept when it last did.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, is_at_rest: Callable[[], bool], cpu_s: Callable[[], float] | None
    ) -> None:
        """Watch for ``loop``, on a thread.

        Args:
            loop: The one that stands still.
            is_at_rest: Tells that the thread has nothing to do.
            cpu_s: Tells how long the thread has had the processor, in seconds; without it, whoever does not get on
                counts as starved.
        """
        self._loop = loop
        self._is_at_rest = is_at_rest
        self._cpu_s = cpu_s
        self._progress = threading.Event()
        self._patience_s = self._since_s = self._looked_s = self._cpu_seen_s = 0.0
        self._is_watching = False
        self.standstills = 0
        self.stood_still_s = 0.0
        self.is_asleep = False

    def handed_over(self) -> None:
        """Say that the thread has something to do."""
        if not self._is_watching and not self._loop.is_closed():
            self._is_watching = True
            self._begin()

    def progress(self) -> None:
        """Say that something is done; called on the thread."""
        self._progress.set()

    def _begin(self) -> None:
        self._since_s = self._loop.time()
        self.is_asleep = False
        self._patience_s = _PATIENCE_S
        self._progress.clear()
        self._look_after(_PATIENCE_S)

    def _look_after(self, delay_s: float) -> None:
        self._looked_s = self._loop.time()
        self._cpu_seen_s = self._cpu_time()
        self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        if self._is_at_rest():
            self._is_watching = False
        elif self._progress.is_set():
            self._begin()
        elif self._is_at_work():
            self._let_it_work()
        else:
            self._stand_still()

    def _is_at_work(self) -> bool:
        return self._cpu_time() - self._cpu_seen_s > _AT_WORK * (self._loop.time() - self._looked_s)

    def _let_it_work(self) -> None:
        # On a crowded machine who is at work has the processor now and then: the longer the look, the surer it is.
        self._since_s = self._loop.time()
        self._patience_s = min(2 * self._patience_s, _LONGEST_S / _PART)
        self._look_after(self._patience_s)

    def _stand_still(self) -> None:
        share_s = min(_PART * (self._loop.time() - self._since_s), _LONGEST_S)
        pause_s = _GLANCE_S if self.is_asleep else share_s
        cpu_before_s = self._cpu_time()
        self.standstills += 1
        self.stood_still_s += pause_s
        self._progress.wait(pause_s)
        self.is_asleep = self._cpu_s is not None and self._cpu_time() == cpu_before_s
        self._look_after(share_s * (1 / _PART - 1))

    def _cpu_time(self) -> float:
        try:
            return 0.0 if self._cpu_s is None else self._cpu_s()
        except OSError:  # the thread has ended
            return self._cpu_seen_s


def cpu_clock_of(thread: threading.Thread) -> Callable[[], float] | None:
    """Return what tells how long ``thread``, which runs, has had the processor, in seconds; None where nothing does."""
    if thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    clock = time.pthread_getcpuclockid(thread.ident)
    return lambda: time.clock_gettime(clock)
