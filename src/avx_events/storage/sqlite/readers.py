"""Connections that read, each used by one thread at a time, so that reads never wait for writes nor hold the loop."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from avx_events.core.errors import ClosedError
from avx_events.storage.sqlite.failures import store_error

ResultT = TypeVar("ResultT")

_MOST_READERS: Final = 4
# Of SQLite's machine, some ten milliseconds: so often a long read asks whether anybody still waits for it.
_STEPS: Final = 1_000_000


class Readers:
    """Up to four threads, each with the connection it opened on first use."""

    def __init__(self, open_connection: Callable[[], sqlite3.Connection], url: str) -> None:
        """Read from what ``open_connection`` opens."""
        self._open = open_connection
        self._url = url
        self._idle: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(_MOST_READERS, thread_name_prefix="avx-events sqlite reader")
        self._is_closed = False

    async def run(self, read: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what ``read`` returns. When the caller is cancelled, the read is ended as well.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: It is damaged.
            ClosedError: The readers are closed.
        """
        if self._is_closed:
            raise ClosedError("the event store", "read")
        is_over = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read, is_over)
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            raise store_error(exc, self._url) from exc
        except asyncio.CancelledError:
            is_over.set()
            raise

    async def close(self) -> None:
        """Wait for the reads that run, then close the connections. Harmless when repeated."""
        self._is_closed = True
        await asyncio.to_thread(self._shut)

    def _read(self, read: Callable[[sqlite3.Connection], ResultT], is_over: threading.Event) -> ResultT:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        try:
            connection.set_progress_handler(is_over.is_set, _STEPS)
            return read(connection)
        finally:
            self._idle.append(connection)

    def _shut(self) -> None:
        self._threads.shutdown(wait=True)
        while self._idle:
            self._idle.pop().close()
