"""Ends what SQLite does for a caller who has given up; a write that is ended takes its transaction with it.

SQLite could ask, every so many steps, whether somebody still waits, but for the question it would need Python's lock:
beside a busy loop a long statement took three times as long.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from avx_events.storage.sqlite.writers import Work, Writer

ResultT = TypeVar("ResultT")

# A short statement comes to its end, so that its transaction is not undone for it.
_GRACE_S: Final = 0.01


class Interruption:
    """Lets the loop end what a thread does on a connection."""

    __slots__ = ("_connection", "_is_over", "_lock", "_loop")

    def __init__(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_over = False

    def run(self, work: Callable[[sqlite3.Connection], ResultT], connection: sqlite3.Connection) -> ResultT:
        """Do ``work``, which ``end`` ends; called on a thread, once.

        Raises:
            CancelledError: It was ended before it began.
            Exception: What ``work`` raised.
        """
        with self._lock:
            if self._is_over:
                raise asyncio.CancelledError
            self._connection = connection
        try:
            return work(connection)
        finally:
            with self._lock:
                self._connection = None

    def end(self) -> None:
        """End what ``run`` does, if it takes longer; what has not begun is not begun any more. Called on the loop."""
        with self._lock:
            self._is_over = True
            is_running = self._connection is not None
        if is_running and not self._loop.is_closed():
            self._loop.call_later(_GRACE_S, self._interrupt)

    def _interrupt(self) -> None:
        with self._lock:  # so that it is this work that is interrupted, and not the next
            if self._connection is None:
                return
            self._connection.interrupt()
        # Again, as between two statements it is without effect.
        self._loop.call_later(_GRACE_S, self._interrupt)


async def run_while_awaited(writer: Writer, work: Work[ResultT]) -> ResultT:
    """Do ``work`` on ``writer`` as ``Writer.run`` does; when the caller is cancelled, what SQLite does is ended.

    A writer on the loop cannot be told: nobody is cancelled while the loop stands still.

    Raises:
        Exception: What ``work`` raised.
    """
    interruption = Interruption()
    try:
        return await writer.run(lambda connection: interruption.run(work, connection))
    except BaseException:
        interruption.end()
        raise
