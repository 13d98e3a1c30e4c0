"""The engine: appends through the one writer, reads through connections of their own."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from operator import itemgetter
from typing import Any, Final, TypeVar

import msgspec

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.storage.sqlite.brief_statements import BriefStatements
from avx_events.storage.sqlite.failures import store_error
from avx_events.storage.sqlite.interruption import run_while_awaited
from avx_events.storage.sqlite.location import Location, OpenFile, parse
from avx_events.storage.sqlite.log_writer import LogWriter
from avx_events.storage.sqlite.opening import open_database, open_for_reading
from avx_events.storage.sqlite.pages import FEW_EVENTS, PageQuery
from avx_events.storage.sqlite.read_ahead import pages_ahead
from avx_events.storage.sqlite.readers import Readers
from avx_events.storage.sqlite.schema import EVENTS
from avx_events.storage.sqlite.statements import Answer, all_rows, check_query, first_row, run_query
from avx_events.storage.sqlite.transaction import refuse_inside, sqlite_transaction, undo
from avx_events.storage.sqlite.writers import InlineWriter, ThreadWriter, Writer
from avx_events.store.append_signal import AppendSignal
from avx_events.store.log_filter import filtered_pages
from avx_events.store.owning_loop import OwningLoop
from avx_events.store.ports import (
    PAGE_EVENTS,
    STRETCH_EVENTS,
    AppendResult,
    Connection,
    LogFilter,
    LogPage,
    NewRecordTuple,
    RecordTuple,
    SnapshotRecord,
    StreamTuple,
)

ResultT = TypeVar("ResultT")

_OF_STREAM: Final = PageQuery(
    "WHERE stream = ?4 AND version > ?2 AND version <= ?5 AND recorded_at <= ?6 ORDER BY version LIMIT ?3",
    number=itemgetter(2),
    stream="?4",
)
_OF_LOG: Final = PageQuery("WHERE position > ?2 AND position <= ?4 ORDER BY position LIMIT ?3", number=itemgetter(0))
_OF_FILTERED_LOG: Final = PageQuery(
    "WHERE position > ?2 AND position <= ?4"
    " AND (?5 = '' OR event_type IN (SELECT value FROM json_each(?5))) AND substr(stream, 1, length(?6)) = ?6"
    " ORDER BY position LIMIT ?3",
    number=itemgetter(0),
)
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM avx_events WHERE stream = ?"
_POSITION: Final = "SELECT coalesce(max(position), 0) FROM avx_events"
# From name to name over the index of streams and versions; a scan would read every record.
_STREAMS: Final = """
    WITH RECURSIVE names(stream, number) AS (
        SELECT min(stream), 1 FROM avx_events WHERE stream {begins} ?1
        UNION ALL
        SELECT (SELECT min(stream) FROM avx_events WHERE stream > names.stream), number + 1
        FROM names WHERE substr(stream, 1, length(?2)) = ?2 AND number < ?3
    )
    SELECT names.stream, last.version, last.position, last.recorded_at
    FROM names JOIN avx_events AS last ON last.stream = names.stream
        AND last.version = (SELECT max(version) FROM avx_events WHERE stream = names.stream)
    WHERE substr(names.stream, 1, length(?2)) = ?2
    ORDER BY number
"""
_STREAMS_AFTER: Final = _STREAMS.format(begins=">")
_STREAMS_FROM: Final = _STREAMS.format(begins=">=")
_PUT_SNAPSHOT: Final = (
    "INSERT OR REPLACE INTO avx_snapshots (stream, kind, fingerprint, version, recorded_at, state)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_GET_SNAPSHOT: Final = (
    "SELECT stream, kind, fingerprint, version, recorded_at, state FROM avx_snapshots WHERE stream = ? AND kind = ?"
)
_as_json: Final = msgspec.json.encode
_CONNECTION_READS: Final = "its connection has a fetch() of its own, which sees what the block wrote"
_GREATEST_INTEGER: Final = 2**63 - 1


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "SqliteEngine":
    """Open the store in a SQLite file, or in memory; the file and its tables are made where they are not there.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``sqlite://`` for memory. Options, as a query:
            ``writer=auto|thread|inline``, ``busy_timeout_s=5``, ``poll_s=0.1``; see ``Location``.
        clock: Gives ``recorded_us``.

    Raises:
        InvalidArgumentError: The URL or an option is malformed, or its folder is not there.
        StoreSchemaError: The file is no database, damaged, or a store of a newer version.
        StoreUnavailableError: It cannot be opened now: locked, not permitted, disk full.
    """
    location = parse(url)
    return SqliteEngine(await open_database(location, url, EVENTS), location, url, clock=clock)


class SqliteEngine:
    """Records in a SQLite database; ``connect`` opens one."""

    def __init__(self, connection: sqlite3.Connection, location: Location, url: str, *, clock: Clock) -> None:
        """Write to ``connection``, which is prepared, for the running loop."""
        self._owner: Final = OwningLoop()
        self._check: Final = self._owner.check
        self._url = url
        self._file = file = OpenFile(location, url)
        self._signal = AppendSignal(poll_s=None if location.path is None else location.poll_s)
        self._log = LogWriter(connection, url, clock=clock, is_in_place=self._file.is_in_place)
        writer = InlineWriter if location.writer == "inline" else ThreadWriter
        self._writer: Writer = writer(connection, self._log, announce=self._signal.announce)
        # A database in memory belongs to its connection: others would see another one.
        self._readers = None if location.path is None else Readers(lambda: open_for_reading(location, file), url)
        self._turn = asyncio.Lock()
        self._brief = BriefStatements()

    def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> Awaitable[AppendResult]:
        """Add ``records`` to the end of ``stream``, in one commit with what else waits; see ``StoreEngine.append``."""
        self._check("append")
        refuse_inside(self._writer, "append")
        future: asyncio.Future[AppendResult] = self._owner.loop.create_future()
        self._writer.submit((future, stream, records, expected_version))
        return future

    def stream_pages(
        self, stream: str, *, after: int = 0, until_version: int | None = None, until_us: int | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the pages of ``stream``; see ``StoreEngine.stream_pages``."""
        last = _GREATEST_INTEGER if until_version is None else until_version
        last_us = _GREATEST_INTEGER if until_us is None else until_us
        return self._pages(_OF_STREAM, after, stream, last, last_us)

    def log_pages(
        self, *, after: int = 0, until: int | None = None, wanted: LogFilter | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the pages of the log; see ``StoreEngine.log_pages``."""
        last = _GREATEST_INTEGER if until is None else until
        if wanted is None:
            return self._pages(_OF_LOG, after, last)
        if self._readers is None:
            return filtered_pages(self, after=after, until=until, wanted=wanted)
        return self._filtered_pages(self._readers, after, last, wanted)

    async def read_all(self, *, after: int = 0, limit: int = PAGE_EVENTS, wanted: LogFilter | None = None) -> LogPage:
        """Return a page of the log; see ``StoreEngine.read_all``."""
        self._check("read")
        self._file.check()  # or who follows the log would wait for ever where nobody appends any more
        return await self._read(lambda connection: _log_page(connection, after, limit, wanted))

    async def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at; see ``StoreEngine.version_of``."""
        return await self._read(lambda connection: _number(connection, _VERSION, stream))

    async def streams(self, *, prefix: str = "", after: str = "", limit: int = PAGE_EVENTS) -> Sequence[StreamTuple]:
        """Return a page of streams; see ``StoreEngine.streams``."""
        sql, begin = (_STREAMS_AFTER, after) if after >= prefix else (_STREAMS_FROM, prefix)

        def read(connection: sqlite3.Connection) -> Sequence[StreamTuple]:
            return connection.execute(sql, (begin, prefix, limit)).fetchall()

        return await self._read(read)

    async def last_position(self) -> int:
        """Return the position of the newest record; see ``StoreEngine.last_position``."""
        return await self._read(lambda connection: _number(connection, _POSITION))

    async def put_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Keep ``snapshot``; see ``StoreEngine.put_snapshot``."""
        self._check("write a snapshot")
        refuse_inside(self._writer, "write a snapshot")

        def put(connection: sqlite3.Connection) -> None:
            self._file.check()
            connection.execute(_PUT_SNAPSHOT, snapshot)

        async with self._turn:  # alone, not in somebody's transaction
            await self._run(put)

    async def get_snapshot(self, stream: str, kind: str) -> SnapshotRecord | None:
        """Return the snapshot of ``stream`` and ``kind``; see ``StoreEngine.get_snapshot``."""

        def read(connection: sqlite3.Connection) -> SnapshotRecord | None:
            row = connection.execute(_GET_SNAPSHOT, (stream, kind)).fetchone()
            return None if row is None else SnapshotRecord(*row)

        return await self._read(read)

    async def wait_for_append(self, after: int) -> None:
        """Return when there may be a record past ``after``; see ``StoreEngine.wait_for_append``."""
        await self._signal.wait(after)

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction on the database; see ``StoreEngine.transaction``."""
        self._check("begin a transaction")
        return sqlite_transaction(self._writer, self._brief, self._file, turn=self._turn, check=self._check)

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on what is committed; see ``StoreEngine.fetch``."""
        return await self._query(all_rows, sql, params)

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Return the first row of a query on what is committed; see ``StoreEngine.fetch_one``."""
        return await self._query(first_row, sql, params)

    def statistics(self) -> Mapping[str, int | str]:
        """Return ``engine``, ``writer`` (``thread`` or ``inline``), ``groups`` (commits of appends), ``standstills``.

        The last is how often the loop, busy as it was, stood still for some milliseconds to let the thread get on.
        """
        return {
            "engine": "sqlite",
            "writer": self._writer.name,
            "groups": self._log.groups,
            "standstills": self._writer.standstills,
        }

    async def close(self) -> None:
        """Write what waits, undo a transaction that is open, close all connections. Harmless when repeated."""
        self._owner.close()
        self._signal.close()
        undo(self._writer)
        try:
            if self._readers is not None:
                await self._readers.close()
        finally:
            await self._writer.close()

    async def _query(self, answer: Answer[ResultT], sql: str, params: tuple[object, ...]) -> ResultT:
        self._check("read")
        refuse_inside(self._writer, "read with store.fetch()", because=_CONNECTION_READS)
        check_query(sql)

        def query(connection: sqlite3.Connection) -> ResultT:
            return run_query(connection, answer, sql, params, url=self._url)

        if self._readers is not None:
            return await self._readers.begin(query)
        async with self._turn:  # in the midst of somebody's transaction it would see what is not committed
            return await self._run(query)

    async def _pages(self, query: PageQuery, after: int, *values: str | int) -> AsyncGenerator[list[RecordTuple], None]:
        # Most streams are short: their only page is read as any other answer.
        page = await self._read(lambda connection: query.page(connection, after, FEW_EVENTS, *values))
        yield page
        if len(page) < FEW_EVENTS:
            return
        async with aclosing(self._more_pages(query, query.number(page[-1]), *values)) as pages:
            async for more in pages:
                yield more

    def _more_pages(self, query: PageQuery, after: int, *values: str | int) -> AsyncGenerator[list[RecordTuple], None]:
        if self._readers is None:
            return self._pages_on_demand(query, after, *values)

        def read(connection: sqlite3.Connection, after: int) -> list[RecordTuple]:
            return query.page(connection, after, PAGE_EVENTS, *values)

        def follow(page: list[RecordTuple], _: int) -> int | None:
            return query.number(page[-1]) if len(page) == PAGE_EVENTS else None

        return pages_ahead(self._readers, read, after, follow=follow)

    async def _filtered_pages(
        self, readers: Readers, after: int, until: int, wanted: LogFilter
    ) -> AsyncGenerator[Sequence[RecordTuple], None]:
        def read(connection: sqlite3.Connection, after: int) -> LogPage:
            return _log_page(connection, after, PAGE_EVENTS, wanted)

        def follow(page: LogPage, after: int) -> int | None:
            return page.reached if after < page.reached < until else None

        self._check("read")
        async with aclosing(pages_ahead(readers, read, after, follow=follow)) as pages:
            async for records, reached in pages:
                self._check("read")
                yield records if reached <= until else [record for record in records if record[0] <= until]

    async def _pages_on_demand(
        self, query: PageQuery, after: int, *values: str | int
    ) -> AsyncGenerator[list[RecordTuple], None]:
        def read(connection: sqlite3.Connection) -> list[RecordTuple]:
            return query.page(connection, after, PAGE_EVENTS, *values)

        page = await self._read(read)
        while len(page) == PAGE_EVENTS:
            yield page
            after = query.number(page[-1])
            page = await self._read(read)
        yield page

    async def _read(self, read: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        self._check("read")
        return await (self._run(read) if self._readers is None else self._readers.begin(read))

    async def _run(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        try:
            return await run_while_awaited(self._writer, work)
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            raise store_error(exc, self._url) from exc


def _log_page(connection: sqlite3.Connection, after: int, limit: int, wanted: LogFilter | None) -> LogPage:
    if wanted is None:
        page = _OF_LOG.page(connection, after, limit, _GREATEST_INTEGER)
        return LogPage(page, page[-1][0] if page else after)
    until = min(after + STRETCH_EVENTS, _number(connection, _POSITION))
    types = "" if wanted.event_types is None else _as_json(wanted.event_types).decode()
    page = _OF_FILTERED_LOG.page(connection, after, limit, until, types, wanted.stream_prefix)
    return LogPage(page, page[-1][0] if len(page) == limit else max(until, after))


def _number(connection: sqlite3.Connection, sql: str, *params: str) -> int:
    number: int = connection.execute(sql, params).fetchone()[0]
    return number
