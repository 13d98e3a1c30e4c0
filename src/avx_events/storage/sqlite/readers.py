"""Connections that read, each used by one thread at a time, so that reads never wait for writes nor hold the loop."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from avx_events.core.errors import ClosedError
from avx_events.storage.sqlite.failures import store_error
from avx_events.storage.sqlite.interruption import Interruption

ResultT = TypeVar("ResultT")

_MOST_READERS: Final = 4
# Of the loop, for a thread that does not get the processor.
_LONGEST_STANDSTILL_S: Final = 0.001


class Readers:
    """Up to four threads, each with the connection it opened on first use."""

    def __init__(self, open_connection: Callable[[], sqlite3.Connection], url: str) -> None:
        """Read from what ``open_connection`` opens."""
        self._open = open_connection
        self._url = url
        self._idle: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(_MOST_READERS, thread_name_prefix="avx-events sqlite reader")
        self._unfinished = 0
        self._is_closed = False

    def begin(self, read: Callable[[sqlite3.Connection], ResultT]) -> "asyncio.Future[ResultT]":
        """Begin to ``read``, and return the future of what it returns. When that is cancelled, the read is ended.

        Raises:
            StoreUnavailableError: The database cannot be read now; where the future is awaited.
            StoreSchemaError: It is damaged; likewise.
            ClosedError: The readers are closed.
        """
        return self._begin(read, threading.Event())

    def begin_at_once(self, read: Callable[[sqlite3.Connection], ResultT]) -> "asyncio.Future[ResultT]":
        """Do as ``begin``, and let the loop stand still until a thread that is free reads: some 50 microseconds.

        To begin, a thread needs the GIL. A caller that has work to do for the loop would keep it, and the thread would
        read afterwards instead of meanwhile.

        Raises:
            StoreUnavailableError: As ``begin``.
            StoreSchemaError: As ``begin``.
            ClosedError: As ``begin``.
        """
        has_begun = threading.Event()
        future = self._begin(read, has_begun)
        if self._unfinished <= _MOST_READERS:
            has_begun.wait(_LONGEST_STANDSTILL_S)
        return future

    async def close(self) -> None:
        """Wait for the reads that run, then close the connections. Harmless when repeated."""
        self._is_closed = True
        await asyncio.to_thread(self._shut)

    def _begin(
        self, read: Callable[[sqlite3.Connection], ResultT], has_begun: threading.Event
    ) -> "asyncio.Future[ResultT]":
        if self._is_closed:
            raise ClosedError("the event store", "read")
        interruption = Interruption()

        def end(_: object) -> None:
            self._unfinished -= 1
            interruption.end()

        self._unfinished += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._read, read, has_begun, interruption)
        future.add_done_callback(end)
        return future

    def _read(
        self,
        read: Callable[[sqlite3.Connection], ResultT],
        has_begun: threading.Event,
        interruption: Interruption,
    ) -> ResultT:
        try:
            connection = self._connection()
            try:
                has_begun.set()
                return interruption.run(read, connection)
            finally:
                self._idle.append(connection)
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            raise store_error(exc, self._url) from exc

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _shut(self) -> None:
        self._threads.shutdown(wait=True)
        while self._idle:
            self._idle.pop().close()
