"""The engine: appends through one connection, reads through others."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.tasks import TaskScope
from avx_events.storage.postgres.failures import FAILURES, check_statement, statement_error
from avx_events.storage.postgres.listener import Listener
from avx_events.storage.postgres.location import Location, parse
from avx_events.storage.postgres.log_writer import LogWriter, Member
from avx_events.storage.postgres.opening import open_prepared
from avx_events.storage.postgres.sessions import Connection, PooledConnection, Sessions
from avx_events.storage.postgres.transaction import postgres_transaction, refuse_inside
from avx_events.store.append_signal import AppendSignal
from avx_events.store.log_filter import filtered_pages
from avx_events.store.owning_loop import OwningLoop
from avx_events.store.ports import (
    PAGE_EVENTS,
    STRETCH_EVENTS,
    AppendResult,
    LogFilter,
    LogPage,
    NewRecordTuple,
    RecordTuple,
    SnapshotRecord,
    StreamTuple,
)
from avx_events.store.ports import Connection as StoreConnection

if TYPE_CHECKING:
    import asyncio

ResultT = TypeVar("ResultT")

_SELECT: Final = "SELECT position, stream, version, recorded_at, event_id, event_type, metadata, data FROM avx_events "
_OF_STREAM: Final = (
    _SELECT + "WHERE stream = $1 AND version > $2 AND version <= $3 AND recorded_at <= $4 ORDER BY version LIMIT $5"
)
_OF_LOG: Final = _SELECT + "WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"
_OF_FILTERED_LOG: Final = (
    _SELECT + "WHERE position > $1 AND position <= $2 AND ($4::text[] IS NULL OR event_type = ANY($4))"
    " AND starts_with(stream, $5) ORDER BY position LIMIT $3"
)
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM avx_events WHERE stream = $1"
_POSITION: Final = "SELECT coalesce(max(position), 0) FROM avx_events"
# From name to name over the index of streams and versions; a scan would read every record.
_STREAMS: Final = """
    WITH RECURSIVE names(stream, number) AS (
        (SELECT stream, 1 FROM avx_events WHERE stream {begins} $1 ORDER BY stream LIMIT 1)
        UNION ALL
        SELECT (SELECT stream FROM avx_events WHERE stream > names.stream ORDER BY stream LIMIT 1), number + 1
        FROM names WHERE starts_with(stream, $2) AND number < $3
    )
    SELECT names.stream, last.version, last.position, last.recorded_at
    FROM names CROSS JOIN LATERAL (
        SELECT version, position, recorded_at FROM avx_events WHERE stream = names.stream ORDER BY version DESC LIMIT 1
    ) AS last
    WHERE starts_with(names.stream, $2)
    ORDER BY number
"""
_STREAMS_AFTER: Final = _STREAMS.format(begins=">")
_STREAMS_FROM: Final = _STREAMS.format(begins=">=")
_PUT_SNAPSHOT: Final = (
    "INSERT INTO avx_snapshots (stream, kind, fingerprint, version, recorded_at, state) VALUES ($1, $2, $3, $4, $5, $6)"
    " ON CONFLICT (stream, kind) DO UPDATE SET fingerprint = excluded.fingerprint, version = excluded.version,"
    " recorded_at = excluded.recorded_at, state = excluded.state"
)
_GET_SNAPSHOT: Final = (
    "SELECT stream, kind, fingerprint, version, recorded_at, state FROM avx_snapshots WHERE stream = $1 AND kind = $2"
)
_CONNECTION_READS: Final = "its connection has a fetch() of its own, which sees what the block wrote"
# A query leaves its session as it was, unless it calls one of these; another statement, as SET, may not.
_PLAIN: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values|table|show|explain)\b", re.IGNORECASE | re.DOTALL
)
_SETTING: Final = re.compile(r"set_config|advisory|setseed|currval|dblink", re.IGNORECASE)
_GREATEST_INTEGER: Final = 2**63 - 1


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "PostgresEngine":
    """Open the store in a PostgreSQL database; its tables are made where they are not there.

    Args:
        url: ``postgresql://user:password@host:5432/database``. Options, as a query: ``schema=``, ``pool_size=4``,
            ``timeout_s=10``, ``poll_s=1``, see ``Location``; and those of libpq, as ``sslmode=verify-full``.
        clock: Gives ``recorded_us``.

    Raises:
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, has no such database, or permits too little.
        StoreSchemaError: The database has other tables of these names, is at a newer version, or not in UTF-8.
        StoreUnavailableError: The server cannot be reached now.
    """
    location = parse(url)
    sessions = Sessions(location)
    connection = await open_prepared(sessions, location)
    return PostgresEngine(sessions, connection, location, clock=clock)


class PostgresEngine:
    """Records in a PostgreSQL database; ``connect`` opens one."""

    def __init__(self, sessions: Sessions, connection: Connection, location: Location, *, clock: Clock) -> None:
        """Append on ``connection``, to a database that is prepared, for the running loop."""
        self._owner: Final = OwningLoop()
        self._check: Final = self._owner.check
        self._name: Final = location.name
        self._timeout_s: Final = location.timeout_s
        self._sessions: Final = sessions
        self._signal: Final = AppendSignal(poll_s=location.poll_s)
        self._listener: Final = Listener(sessions, self._signal, timeout_s=location.timeout_s)
        self._log: Final = LogWriter(sessions, connection, location=location, clock=clock, announce=self._announce)
        self._scope: Final = TaskScope()
        self._writing: Final = self._scope.spawn(self._log.run(), name="avx-events: append to PostgreSQL")
        self._listening: Final = TaskScope()
        self._listening.spawn(self._listener.run(), name="avx-events: listen to PostgreSQL")

    def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> Awaitable[AppendResult]:
        """Add ``records`` to the end of ``stream``, in one commit with what else waits; see ``StoreEngine.append``."""
        self._check("append")
        refuse_inside(self._sessions, "append")
        future: asyncio.Future[AppendResult] = self._owner.loop.create_future()
        self._log.submit(Member(future, stream, records, expected_version))
        return future

    def stream_pages(
        self, stream: str, *, after: int = 0, until_version: int | None = None, until_us: int | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the pages of ``stream``; see ``StoreEngine.stream_pages``."""
        last = _GREATEST_INTEGER if until_version is None else until_version
        last_us = _GREATEST_INTEGER if until_us is None else until_us

        async def read(connection: PooledConnection, after: int) -> list[RecordTuple]:
            rows = await connection.fetch(_OF_STREAM, stream, after, last, last_us, PAGE_EVENTS)
            return _records(rows)

        return self._pages(read, after, number=itemgetter(2))

    def log_pages(
        self, *, after: int = 0, until: int | None = None, wanted: LogFilter | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the pages of the log; see ``StoreEngine.log_pages``."""
        if wanted is not None:
            return filtered_pages(self, after=after, until=until, wanted=wanted)
        last = _GREATEST_INTEGER if until is None else until

        async def read(connection: PooledConnection, after: int) -> list[RecordTuple]:
            return _records(await connection.fetch(_OF_LOG, after, last, PAGE_EVENTS))

        return self._pages(read, after, number=itemgetter(0))

    async def read_all(self, *, after: int = 0, limit: int = PAGE_EVENTS, wanted: LogFilter | None = None) -> LogPage:
        """Return a page of the log; see ``StoreEngine.read_all``."""

        async def read(connection: PooledConnection) -> LogPage:
            if wanted is None:
                page = _records(await connection.fetch(_OF_LOG, after, _GREATEST_INTEGER, limit))
                return LogPage(page, page[-1][0] if page else after)
            until = min(after + STRETCH_EVENTS, await connection.fetchval(_POSITION))
            types, prefix = wanted.event_types, wanted.stream_prefix
            page = _records(await connection.fetch(_OF_FILTERED_LOG, after, until, limit, types, prefix))
            return LogPage(page, page[-1][0] if len(page) == limit else max(until, after))

        return await self._read(read)

    async def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at; see ``StoreEngine.version_of``."""
        version: int = await self._read(lambda connection: connection.fetchval(_VERSION, stream))
        return version

    async def streams(self, *, prefix: str = "", after: str = "", limit: int = PAGE_EVENTS) -> Sequence[StreamTuple]:
        """Return a page of streams; see ``StoreEngine.streams``."""
        sql, begin = (_STREAMS_AFTER, after) if after >= prefix else (_STREAMS_FROM, prefix)
        rows = await self._read(lambda connection: connection.fetch(sql, begin, prefix, limit))
        return cast("list[StreamTuple]", rows)  # they unpack and count as tuples do

    async def last_position(self) -> int:
        """Return the position of the newest record; see ``StoreEngine.last_position``."""
        position: int = await self._read(lambda connection: connection.fetchval(_POSITION))
        return position

    async def put_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Keep ``snapshot``; see ``StoreEngine.put_snapshot``."""
        self._check("write a snapshot")
        await self._sessions.write_own(lambda connection: connection.execute(_PUT_SNAPSHOT, *snapshot))

    async def get_snapshot(self, stream: str, kind: str) -> SnapshotRecord | None:
        """Return the snapshot of ``stream`` and ``kind``; see ``StoreEngine.get_snapshot``."""
        row = await self._read(lambda connection: connection.fetchrow(_GET_SNAPSHOT, stream, kind))
        return None if row is None else SnapshotRecord(*row)

    async def wait_for_append(self, after: int) -> None:
        """Return when there may be a record past ``after``; see ``StoreEngine.wait_for_append``."""
        await self._signal.wait(after)

    def transaction(self) -> AbstractAsyncContextManager[StoreConnection]:
        """Return a transaction on a connection of its own; appends do not wait. See ``StoreEngine.transaction``."""
        self._check("begin a transaction")
        return postgres_transaction(self._sessions, self._name, timeout_s=self._timeout_s, check=self._check)

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on what is committed; see ``StoreEngine.fetch``."""
        rows = await self._query(sql, lambda connection: connection.fetch(sql, *params))
        return [tuple(row) for row in rows]

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Return the first row of a query on what is committed; see ``StoreEngine.fetch_one``."""
        row = await self._query(sql, lambda connection: connection.fetchrow(sql, *params))
        return None if row is None else tuple(row)

    def statistics(self) -> Mapping[str, int | str]:
        """Return ``engine``, ``groups`` (commits of appends) and ``wake_ups`` (by other processes' appends)."""
        return {"engine": "postgresql", "groups": self._log.groups, "wake_ups": self._listener.wake_ups}

    async def close(self) -> None:
        """Write what waits, end transactions that are open, close all connections. Harmless when repeated."""
        self._owner.close()
        self._signal.close()
        self._log.finish()
        async with AsyncExitStack() as stack:  # all of it, also where it is cancelled on the way
            stack.push_async_callback(self._sessions.close)
            stack.push_async_callback(self._log.close)
            stack.push_async_callback(self._listening.cancel)
            stack.push_async_callback(self._scope.cancel)
            await self._scope.finish(grace_s=self._timeout_s)

    async def _query(self, sql: str, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        self._check("read")
        refuse_inside(self._sessions, "read with store.fetch()", because=_CONNECTION_READS)
        check_statement(sql)
        read = self._sessions.read if _PLAIN.match(sql) and not _SETTING.search(sql) else self._sessions.read_and_forget
        try:
            return await read(query)
        except (*FAILURES, TypeError, ValueError) as exc:
            raise statement_error(exc, self._name, sql, only_reads=True) from exc

    async def _read(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        self._check("read")
        return await self._sessions.read_own(query)

    async def _pages(
        self,
        read: Callable[[PooledConnection, int], Awaitable[list[RecordTuple]]],
        after: int,
        *,
        number: Callable[[RecordTuple], int],
    ) -> AsyncGenerator[list[RecordTuple], None]:
        page = await self._read(lambda connection: read(connection, after))
        while len(page) == PAGE_EVENTS:
            yield page
            after = number(page[-1])
            page = await self._read(lambda connection: read(connection, after))  # noqa: B023 - awaited here
        yield page

    def _announce(self, position: int) -> None:
        self._signal.announce(position)
        self._listener.tell(position)


def _records(rows: Sequence[object]) -> list[RecordTuple]:
    return cast("list[RecordTuple]", rows)  # they unpack and count as tuples do
