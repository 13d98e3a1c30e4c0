"""How fast events can be kept in PostgreSQL with asyncpg: one connection that commits together what has come together.

Hand-written for speed alone. A group goes by COPY, a single event by a prepared INSERT; positions are counted here, so
that nobody else may write. No upcasting, no check of what is written, no failure but what the database says.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import msgspec

from bench.limits.bus import SUFFIXES, Ids
from bench.limits.sqlite import BareStored, KeptMetadata, Stored
from bench.workload import PlainUserCreated

Row: TypeAlias = tuple[int, str, int, str, str, int, bytes, bytes]

PAGE_EVENTS = 500
GROUP_EVENTS = 2_000
SCHEMA = """
CREATE TABLE events (
    position bigint PRIMARY KEY, stream text NOT NULL, version bigint NOT NULL, event_id text NOT NULL,
    event_type text NOT NULL, timestamp bigint NOT NULL, metadata bytea NOT NULL, data bytea NOT NULL,
    UNIQUE (stream, version)
);
"""
INSERT = "INSERT INTO events VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
SELECT = "SELECT position, stream, version, event_id, event_type, timestamp, metadata, data FROM events "
OF_STREAM = SELECT + "WHERE stream = $1 AND version > $2 ORDER BY version LIMIT $3"
OF_LOG = SELECT + "WHERE position > $1 ORDER BY position LIMIT $2"

encode = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(PlainUserCreated).decode
decode_metadata = msgspec.msgpack.Decoder(KeptMetadata).decode


class LimitStore(Ids):
    """Appends to streams, and reads."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        super().__init__()
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._position = 0
        self._waiting: deque[tuple[asyncio.Future[None], Row]] = deque()
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str) -> "LimitStore":
        connection = await asyncpg.connect(url, server_settings={"jit": "off"})
        await connection.execute(SCHEMA)
        return cls(connection)

    async def append(self, stream: str, event: PlainUserCreated, *, version: int) -> None:
        """Return when the event is on disk, committed with what else waits."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((done, self._row(stream, event, version)))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())  # noqa: TID251 - no library here
        await done

    async def insert(self, stream: str, event: PlainUserCreated, *, version: int) -> None:
        """Return when the event is on disk, committed by itself."""
        await self._connection.execute(INSERT, *self._row(stream, event, version))

    async def fill(self, stream: str, events: list[PlainUserCreated], *, version: int) -> None:
        """Append many at once."""
        rows = [self._row(stream, event, version + number) for number, event in enumerate(events, start=1)]
        await self._connection.copy_records_to_table("events", records=rows)

    async def read_bare(self, stream: str | None) -> AsyncIterator[list[BareStored]]:
        """Give the events of one stream, or of the whole log, by the page, without event type and metadata."""
        async for page in self._pages(stream):
            yield [
                BareStored(decode_event(data), event_id, at, name, version, position)
                for position, name, version, event_id, _, at, _, data in page
            ]

    async def read(self, stream: str | None) -> AsyncIterator[list[Stored]]:
        """Give the same with event type and metadata."""
        async for page in self._pages(stream):
            yield [
                Stored(decode_event(data), event_id, at, name, version, position, event_type, decode_metadata(packed))
                for position, name, version, event_id, event_type, at, packed, data in page
            ]

    async def close(self) -> None:
        await self._connection.close()

    async def _pages(self, stream: str | None) -> AsyncIterator[list[Any]]:
        after = 0
        while True:
            if stream is None:
                page = await self._connection.fetch(OF_LOG, after, PAGE_EVENTS)
            else:
                page = await self._connection.fetch(OF_STREAM, stream, after, PAGE_EVENTS)
            yield page
            if len(page) < PAGE_EVENTS:
                return
            after = page[-1][0 if stream is None else 2]

    def _row(self, stream: str, event: PlainUserCreated, version: int) -> Row:
        now_ns = time.time_ns()
        taken = self.taken
        if now_ns >= self.until_ns or taken == 0x10000:
            taken = self.renew(now_ns)
        self.taken = taken + 1
        self._position += 1
        metadata = encode((event.user_id,))  # as a KeptMetadata without its defaults
        event_id = self.prefix + SUFFIXES[taken]
        return self._position, stream, version, event_id, "user.created", now_ns, metadata, encode(event)

    async def _write(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_EVENTS))]
            await self._connection.copy_records_to_table("events", records=[row for _, row in group])
            for done, _ in group:
                done.set_result(None)
            await asyncio.sleep(0)  # those who were told append again
        self._writing = None
