"""The engine in memory: everything is a list, nothing outlives the process."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Any, Final

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import ClosedError, TransactionError, WrongLoopError
from avx_events.store.append_signal import AppendSignal
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
from avx_events.store.repeats import Place, judge

_NO_DATABASE: Final = (
    "EventStore() in memory has no database for tables of your own; "
    "use await EventStore.connect('sqlite://') for one in memory"
)


class MemoryEngine:
    """Keeps records in lists. No call suspends, except to wait for an append; it grows until the process ends.

    It belongs to one loop at a time: the one that uses it, until that is closed.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin empty; ``clock`` gives ``recorded_us``."""
        self._clock = clock
        self._log: list[RecordTuple] = []
        self._streams: dict[str, list[RecordTuple]] = {}
        self._places: dict[str, Place] = {}
        self._snapshots: dict[tuple[str, str], SnapshotRecord] = {}
        self._recorded_us = 0
        self._signal = AppendSignal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> AppendResult:
        """Add ``records`` to the end of ``stream``; see ``StoreEngine.append``."""
        self._check("append")
        version = len(self._streams.get(stream, ()))
        places = self._places
        found = {record[0]: places[record[0]] for record in records if record[0] in places}
        verdict = judge(stream, records, found=found, expected_version=expected_version, version=version)
        if isinstance(verdict, AppendResult):
            return verdict
        if verdict is not None:
            raise verdict
        return self._add(stream, records, version)

    async def stream_pages(
        self, stream: str, *, after: int = 0, until_version: int | None = None, until_us: int | None = None
    ) -> AsyncGenerator[Sequence[RecordTuple], None]:
        """Give ``stream`` as one page; see ``StoreEngine.stream_pages``."""
        self._check("read")
        page = self._streams.get(stream, [])[after:until_version]
        yield page if until_us is None else [record for record in page if record[3] <= until_us]

    async def log_pages(
        self, *, after: int = 0, until: int | None = None, wanted: LogFilter | None = None
    ) -> AsyncGenerator[Sequence[RecordTuple], None]:
        """Give the log as one page; see ``StoreEngine.log_pages``."""
        self._check("read")
        page = self._log[after:until]
        yield page if wanted is None else [*filter(_test_of(wanted), page)]

    async def read_all(self, *, after: int = 0, limit: int = PAGE_EVENTS, wanted: LogFilter | None = None) -> LogPage:
        """Return a page of the log; see ``StoreEngine.read_all``."""
        self._check("read")
        if wanted is None:
            page = self._log[after : after + limit]
            return LogPage(page, after + len(page))
        stretch = self._log[after : after + STRETCH_EVENTS]
        page = [*islice(filter(_test_of(wanted), stretch), limit)]
        return LogPage(page, page[-1][0] if len(page) == limit else after + len(stretch))

    async def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at; see ``StoreEngine.version_of``."""
        self._check("read")
        return len(self._streams.get(stream, ()))

    async def streams(self, *, prefix: str = "", after: str = "", limit: int = PAGE_EVENTS) -> Sequence[StreamTuple]:
        """Return a page of streams; see ``StoreEngine.streams``."""
        self._check("read")
        names = (name for name in self._streams if name > after and name.startswith(prefix))
        last = [self._streams[name][-1] for name in heapq.nsmallest(limit, names)]
        return [(stream, version, position, recorded_us) for position, stream, version, recorded_us, *_ in last]

    async def last_position(self) -> int:
        """Return the position of the newest record; see ``StoreEngine.last_position``."""
        self._check("read")
        return len(self._log)

    async def put_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Keep ``snapshot``; see ``StoreEngine.put_snapshot``."""
        self._check("write a snapshot")
        self._snapshots[snapshot.stream, snapshot.kind] = snapshot

    async def get_snapshot(self, stream: str, kind: str) -> SnapshotRecord | None:
        """Return the snapshot of ``stream`` and ``kind``; see ``StoreEngine.get_snapshot``."""
        self._check("read")
        return self._snapshots.get((stream, kind))

    async def wait_for_append(self, after: int) -> None:
        """Return when there is a record past ``after``; see ``StoreEngine.wait_for_append``."""
        await self._signal.wait(after)

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Refuse: lists are no database.

        Raises:
            TransactionError: Always.
        """
        raise TransactionError(_NO_DATABASE)

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Refuse: lists are no database.

        Raises:
            TransactionError: Always.
        """
        del sql, params
        raise TransactionError(_NO_DATABASE)

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Refuse: lists are no database.

        Raises:
            TransactionError: Always.
        """
        del sql, params
        raise TransactionError(_NO_DATABASE)

    def statistics(self) -> Mapping[str, int | str]:
        """Return ``engine``, ``events``, ``streams`` and ``snapshots``."""
        return {
            "engine": "memory",
            "events": len(self._log),
            "streams": len(self._streams),
            "snapshots": len(self._snapshots),
        }

    async def close(self) -> None:
        """Refuse what comes later, end all waits."""
        if self._loop is not None and self._loop.is_running() and asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the event store", "close")
        self._is_closed = True
        self._signal.close()

    def _add(self, stream: str, records: Sequence[NewRecordTuple], version: int) -> AppendResult:
        position = len(self._log)
        recorded_us = self._recorded_us = max(self._clock.time_ns() // 1000, self._recorded_us + 1)
        added: list[RecordTuple] = [
            (position + number, stream, version + number, recorded_us, event_id, event_type, metadata, data)
            for number, (event_id, event_type, metadata, data) in enumerate(records, start=1)
        ]
        self._log += added
        self._streams.setdefault(stream, []).extend(added)
        for record in added:
            self._places[record[4]] = (stream, record[2], record[0])
        self._signal.announce(len(self._log))
        return AppendResult(version + len(added), len(self._log))

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the event store", action)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # It outlives a loop that has ended; two at once would wake each other's waiters from the wrong thread.
            if self._loop is not None and not self._loop.is_closed():
                raise WrongLoopError("the event store", action)
            self._loop = loop


def _test_of(wanted: LogFilter) -> Callable[[RecordTuple], bool]:
    types, prefix = wanted.event_types, wanted.stream_prefix

    def is_wanted(record: RecordTuple) -> bool:
        return (types is None or record[5] in types) and record[1].startswith(prefix)

    return is_wanted
