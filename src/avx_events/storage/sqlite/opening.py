"""Opens the connections to a SQLite database: durable, in write-ahead mode, with the tables that are asked for."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Final

from avx_events.storage.sqlite.failures import store_error
from avx_events.storage.sqlite.location import Location, OpenFile
from avx_events.storage.sqlite.schema import Tables, is_prepared, prepare

_CACHE_KIB: Final = 16_384
# Of 4 KiB, four times SQLite's own number: pages that every commit writes anew, as the last ones of the indexes, are
# copied from the write-ahead log into the file a quarter as often.
_CHECKPOINT_PAGES: Final = 4_000
_WAL_RETRY_S: Final = 0.01


async def open_database(location: Location, url: str, tables: Tables) -> sqlite3.Connection:
    """Open a connection that writes; the file and ``tables`` are made where they are not there.

    Raises:
        StoreSchemaError: The file is no database, damaged, or of a newer version.
        StoreUnavailableError: It cannot be opened now: locked, not permitted, disk full.
    """
    opening = _Opening(location, url, tables)
    try:
        return await asyncio.to_thread(opening.run)
    except (sqlite3.Error, UnicodeDecodeError) as exc:
        raise store_error(exc, url) from exc
    except asyncio.CancelledError:
        opening.give_up()
        raise


def open_for_reading(location: Location, file: OpenFile) -> sqlite3.Connection:
    """Open a connection that reads, for one thread at a time; it blocks.

    Raises:
        StoreUnavailableError: It is not ``file`` any more that is there.
        sqlite3.Error: It cannot be opened.
    """
    file.check()  # for the clear error, where nothing is there
    connection = _open(location, mode="rw")  # and it is not made again
    try:
        file.check()
    except BaseException:
        connection.close()
        raise
    return connection


class _Opening:
    """A connection on its way from the thread that opens it, closed where nobody waits for it any more."""

    def __init__(self, location: Location, url: str, tables: Tables) -> None:
        self._location = location
        self._url = url
        self._tables = tables
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        self._is_given_up = False

    def run(self) -> sqlite3.Connection:
        connection = _open_for_writing(self._location, self._url, self._tables)
        with self._lock:
            self._opened = connection
            if self._is_given_up:
                connection.close()
        return connection

    def give_up(self) -> None:
        with self._lock:
            self._is_given_up = True
            if self._opened is not None:
                self._opened.close()


def _open_for_writing(location: Location, url: str, tables: Tables) -> sqlite3.Connection:
    connection = _open(location, mode="rwc")
    try:
        is_prepared(connection, url, tables)  # first: what cannot be a store of ours stays as it is
        _use_wal(connection, location)
        prepare(connection, url, tables)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, location: Location) -> None:
    # SQLite does not wait here for another process that does the same.
    deadline = time.monotonic() + location.busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        else:
            return
        time.sleep(_WAL_RETRY_S)


def _open(location: Location, *, mode: str) -> sqlite3.Connection:
    # Used by one thread at a time, but not always by the same.
    connection = sqlite3.connect(
        ":memory:" if location.path is None else f"{Path(location.path).as_uri()}?mode={mode}",
        timeout=location.busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:  # the file is no database, say
        connection.close()
        raise
    return connection
