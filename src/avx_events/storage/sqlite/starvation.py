"""Keeps a busy event loop from starving the thread that writes.

A thread that waits for Python's lock gets it when the holder blocks or, asked after 5 ms, gives it up. A loop that is
busy all the time blocks in each of its turns for some microseconds: too short for the thread to wake up, and enough for
its 5 ms to begin anew. Turns of 0.05 to 5 ms without a pause may keep it waiting for seconds. So while the thread has
something to do and does not get on with it, the loop stands still for a part of that time, and the lock is free.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

_PATIENCE_S: Final = 0.001
_LONGEST_S: Final = 0.01
_PART: Final = 0.25
"""Of the time that the thread has been waiting: what the loop loses at the most."""


class StarvationGuard:
    """Watches over the work of one thread, for one loop. All but ``progress`` is called on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_at_rest: Callable[[], bool]) -> None:
        """Watch for ``loop``, on a thread of which ``is_at_rest`` tells that it has nothing to do."""
        self._loop = loop
        self._is_at_rest = is_at_rest
        self._progress = threading.Event()
        self._since_s = 0.0
        self._is_watching = False
        self.standstills = 0

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
        self._progress.clear()
        self._loop.call_later(_PATIENCE_S, self._look)

    def _look(self) -> None:
        if self._is_at_rest():
            self._is_watching = False
        elif self._progress.is_set():
            self._begin()
        else:
            self._stand_still()

    def _stand_still(self) -> None:
        pause_s = min(_PART * (self._loop.time() - self._since_s), _LONGEST_S)
        self.standstills += 1
        self._progress.wait(pause_s)
        self._loop.call_later(pause_s * (1 / _PART - 1), self._look)
