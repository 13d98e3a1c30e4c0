"""How fast events can be kept in SQLite: one writer thread that commits together what has come together, and reads.

Hand-written for speed alone, with the durability of the library: WAL, and ``synchronous=FULL``. No upcasting, no check
of what is written, no failure but a conflict.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import msgspec

from bench.limits.bus import SUFFIXES, Ids
from bench.workload import PlainUserCreated

Row: TypeAlias = tuple[str, int, str, str, int, bytes, bytes]

PAGE_EVENTS = 1_000
GROUP_EVENTS = 2_000

# Rows in one statement: a step of SQLite gives up the GIL, and the thread must win it back from the loop.
ROWS_IN_A_STATEMENT = (256, 64, 16, 4, 1)

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -65536;
PRAGMA mmap_size = 268435456;
PRAGMA temp_store = MEMORY;
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
    event_type TEXT NOT NULL, timestamp INTEGER NOT NULL, metadata BLOB NOT NULL, data BLOB NOT NULL,
    UNIQUE (stream, version)
);
"""
COLUMNS = 8
INSERT = {
    count: f"INSERT INTO events VALUES {','.join(['(?,?,?,?,?,?,?,?)'] * count)}"  # noqa: S608 - no value is in it
    for count in ROWS_IN_A_STATEMENT
}
OF_STREAM = "FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT ?"
SELECT_ALL = f"SELECT position, version, event_id, event_type, timestamp, metadata, data {OF_STREAM}"
SELECT_BARE = f"SELECT position, version, event_id, timestamp, data {OF_STREAM}"


class KeptMetadata(msgspec.Struct, array_like=True, gc=False):
    """What is not in a column of its own; the correlation id is None where it is the event's own id."""

    aggregate_id: str
    correlation_id: str | None = None
    causation_id: str | None = None
    user_id: str | None = None


class BareStored(msgspec.Struct, gc=False):
    """An event and its place."""

    event: PlainUserCreated
    event_id: str
    timestamp: int
    stream: str
    version: int
    position: int


class Stored(BareStored, gc=False):
    """The same with all of its metadata, left as it was kept."""

    event_type: str
    metadata: KeptMetadata


encode = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(PlainUserCreated).decode
decode_metadata = msgspec.msgpack.Decoder(KeptMetadata).decode


class ConflictError(Exception):
    """The stream is at another version."""


class LimitStore(Ids):
    """Appends to streams, and reads of one stream."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(SCHEMA)
        self._reader = ThreadPoolExecutor(1)
        self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._reading.executescript("PRAGMA mmap_size = 268435456;")
        self._versions: dict[str, int] = {}
        self._position = 0
        self._waiting: deque[tuple[asyncio.Future[int], str, int, list[Row]]] = deque()
        self._is_asleep = False
        self._is_closing = False
        self._alarm: SimpleQueue[None] = SimpleQueue()
        self._writer = Thread(target=self._write)
        self._writer.start()

    async def append(self, stream: str, events: list[PlainUserCreated], *, expected_version: int) -> int:
        """Return the position of the last event once it is on disk."""
        rows: list[Row] = []
        version = expected_version
        for event in events:
            now_ns = time.time_ns()
            taken = self.taken
            if now_ns >= self.until_ns or taken == 0x10000:
                taken = self.renew(now_ns)
            self.taken = taken + 1
            version += 1
            event_id = self.prefix + SUFFIXES[taken]
            metadata = encode((event.user_id,))  # as a KeptMetadata without its defaults
            rows.append((stream, version, event_id, "user.created", now_ns, metadata, encode(event)))
        done: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((done, stream, expected_version, rows))
        if self._is_asleep:
            self._is_asleep = False
            self._alarm.put(None)
        return await done

    async def read(self, stream: str) -> AsyncIterator[list[Stored]]:
        """Give the events of one stream by the page, read in a thread."""
        async for page in self._pages(SELECT_ALL, stream):
            yield [
                Stored(decode_event(data), event_id, at, stream, version, position, event_type, decode_metadata(packed))
                for position, version, event_id, event_type, at, packed, data in page
            ]

    async def read_bare(self, stream: str) -> AsyncIterator[list[BareStored]]:
        """Give the same without event type and metadata."""
        async for page in self._pages(SELECT_BARE, stream):
            yield [
                BareStored(decode_event(data), event_id, at, stream, version, position)
                for position, version, event_id, at, data in page
            ]

    def close(self) -> None:
        self._is_closing = True
        self._alarm.put(None)
        self._writer.join()
        self._reader.shutdown()
        self._connection.close()
        self._reading.close()

    async def _pages(self, select: str, stream: str) -> AsyncIterator[list[Any]]:
        version = 0
        while True:
            page = await self._loop.run_in_executor(self._reader, self._page, select, stream, version)
            yield page
            if len(page) < PAGE_EVENTS:
                return
            version = page[-1][1]

    def _page(self, select: str, stream: str, version: int) -> list[Any]:
        return self._reading.execute(select, (stream, version, PAGE_EVENTS)).fetchall()

    def _write(self) -> None:
        while True:
            if self._waiting:
                self._commit()
            elif self._is_closing:
                return
            else:
                self._is_asleep = True
                if self._waiting or self._is_closing:  # it came before the flag was up
                    self._is_asleep = False
                else:
                    self._alarm.get()

    def _commit(self) -> None:
        waiting, versions, position = self._waiting, self._versions, self._position
        values: list[object] = []
        outcomes: list[tuple[asyncio.Future[int], int]] = []
        while waiting and len(values) < GROUP_EVENTS * COLUMNS:
            done, stream, expected_version, rows = waiting.popleft()
            version = versions.get(stream)
            if version is None:
                version = self._version_of(stream)
            if version != expected_version:
                outcomes.append((done, 0))
                continue
            for row in rows:
                position += 1
                values += (position, *row)
            versions[stream] = version + len(rows)
            outcomes.append((done, position))
        self._position = position
        self._insert(values)
        self._loop.call_soon_threadsafe(tell, outcomes)

    def _version_of(self, stream: str) -> int:
        found: int | None
        (found,) = self._connection.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()
        return found or 0

    def _insert(self, values: list[object]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        start = 0
        for count in ROWS_IN_A_STATEMENT:
            taken = count * COLUMNS
            while len(values) - start >= taken:
                execute(INSERT[count], values[start : start + taken])
                start += taken
        execute("COMMIT")


def tell(outcomes: list[tuple[asyncio.Future[int], int]]) -> None:
    for done, position in outcomes:
        if position:
            done.set_result(position)
        else:
            done.set_exception(ConflictError())
