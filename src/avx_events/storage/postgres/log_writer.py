"""Writes groups of appends into the log, each group in one transaction, one after the other.

What is known of a stream's version is kept from one group to the next, without a lock on it: a unique index refuses
what another process made wrong, nothing is written then, and the group is looked at again with the log locked.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from avx_events.core.clock import Clock
from avx_events.core.errors import AppendUnknownError, InvalidArgumentError, StoreSchemaError, StoreUnavailableError
from avx_events.core.tasks import Changes, settle_all
from avx_events.storage.postgres.failures import FAILURES, is_about_one_member, is_lost, said_by, store_error
from avx_events.storage.postgres.location import Location
from avx_events.storage.postgres.schema import LOCK
from avx_events.storage.postgres.sessions import Connection, Patience, Sessions
from avx_events.store.ports import AppendResult, NewRecordTuple
from avx_events.store.repeats import Place, judge

Outcome: TypeAlias = AppendResult | BaseException
"""What an append comes to: its place, or what its caller is to be told."""

LONGEST_NAME_BYTES: Final = 2_000
"""Of a stream's name and of an event id: what an index of PostgreSQL can hold, 2,704 bytes, with room for the rest."""

# A thousand callers who await their appends make two groups: one is on its way while the other's callers go on.
_MOST_RECORDS: Final = 500
_MOST_BYTES: Final = 8 * 1024 * 1024
_MOST_HEADS: Final = 100_000

_APPEND: Final = "SELECT avx_append($1, $2, $3, $4, $5, $6, $7, $8)"
_APPEND_ONE: Final = "SELECT avx_append_one($1, $2, $3, $4, $5, $6, $7)"
_LOCK: Final = f"SELECT {LOCK}"
_LAST: Final = "SELECT coalesce(max(position), 0) FROM avx_events"
_HEADS: Final = (
    "SELECT stream, (SELECT version FROM avx_events e WHERE e.stream = s.stream ORDER BY version DESC LIMIT 1)"
    " FROM unnest($1::text[]) AS s(stream)"
)
_CLOSED: Final = "the store was closed meanwhile"
_AWAY: Final = "its server could not be reached for as long as a call waits"
_UNLOCKED: Final = "something writes to its table avx_events without taking its lock; stop that"
_FIND: Final = "SELECT event_id, stream, version, position FROM avx_events WHERE event_id = ANY($1::text[])"


class Member(NamedTuple):
    """One append of a group.

    Attributes:
        future: Where its caller waits.
        stream: Its stream.
        records: Its records.
        expected: The version it expects, None for any.
    """

    future: "asyncio.Future[AppendResult]"
    stream: str
    records: Sequence[NewRecordTuple]
    expected: int | None


class LogWriter:
    """The log's end: one connection, on which the appends of this process are written in the order of the calls."""

    def __init__(
        self,
        sessions: Sessions,
        connection: Connection,
        *,
        location: Location,
        clock: Clock,
        announce: Callable[[int], None],
    ) -> None:
        """Write on ``connection``, and on another one when it is lost.

        Args:
            sessions: Opens connections.
            connection: Its first one.
            location: The store's name, and how long a group is tried while the server is away or silent.
            clock: Gives the instants.
            announce: Told the log's last position after each group.
        """
        self._sessions: Final = sessions
        self._connection: Connection | None = connection
        self._name: Final = location.name
        self._timeout_s: Final = location.timeout_s
        self._clock: Final = clock
        self._announce: Final = announce
        self._heads: dict[str, int] = {}
        self._waiting: deque[Member] = deque()
        self._changes: Final = Changes()
        self._is_closing = False
        # Of the group that is on its way: whether the attempt that runs may be committed, and whether an earlier one
        # may be whose connection was lost.
        self._is_sent = False
        self._is_unsure = False
        # Whether it was refused because there is no connection: those who wait meanwhile have waited as long.
        self._is_away = False
        self.groups = 0

    def submit(self, member: Member) -> None:
        """Append with one of the next groups; the member's future tells what comes of it.

        Raises:
            InvalidArgumentError: A name is longer than an index can hold.
        """
        _check_name("stream", member.stream)
        for record in member.records:
            _check_name("event_id", record[0])
        self._waiting.append(member)
        self._changes.tell()

    async def run(self) -> None:
        """Write what is submitted, until everything is written after ``finish``."""
        while self._waiting or not self._is_closing:
            if not self._waiting:
                await self._changes.wait()
                continue
            group = self._next_group()
            try:
                outcomes = await self._write(group)
            except asyncio.CancelledError:  # it took longer than a close may
                _settle(group, [self._cut_off() for _ in group])
                raise
            except Exception as exc:  # noqa: BLE001 - a bug: said where the appends are awaited
                outcomes = [exc] * len(group)
            _settle(group, outcomes)
            if self._is_away:
                self._refuse_waiting(_AWAY)

    def finish(self) -> None:
        """Let ``run`` end when everything that was submitted is written."""
        self._is_closing = True
        self._changes.tell()

    async def close(self) -> None:
        """Close the connection; those whose appends were not begun are told so."""
        self._refuse_waiting(_CLOSED)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*FAILURES):
                await connection.close(timeout=self._timeout_s)

    def _next_group(self) -> list[Member]:
        waiting = self._waiting
        group = [waiting.popleft()]
        records = len(group[0].records)
        size_bytes = _size_of(group[0])
        while waiting and records < _MOST_RECORDS and size_bytes < _MOST_BYTES:
            member = waiting.popleft()
            group.append(member)
            records += len(member.records)
            size_bytes += _size_of(member)
        return group

    def _refuse_waiting(self, problem: str) -> None:
        waiting = [*self._waiting]
        self._waiting.clear()
        _settle(waiting, [StoreUnavailableError(self._name, problem) for _ in waiting])

    async def _write(self, group: Sequence[Member]) -> list[Outcome]:
        """Append ``group`` in order and commit; a member that cannot be appended does not keep the others from it."""
        patience = Patience(self._timeout_s)
        self._is_unsure = False
        while True:
            try:
                return await self._attempt(group, patience)
            except FAILURES as exc:
                self._heads.clear()
                if patience.is_over or not is_lost(exc):
                    return await self._failed(group, exc)
            await patience.pause()

    async def _attempt(self, group: Sequence[Member], patience: Patience) -> list[Outcome]:
        self._is_away = True
        connection = await self._connected(patience)
        self._is_away = self._is_sent = False
        try:
            outcomes = None if self._is_unsure else await self._append_unlocked(connection, group, patience)
            return await self._append_locked(connection, group, patience) if outcomes is None else outcomes
        except BaseException as exc:
            is_undone = isinstance(exc, asyncpg.PostgresError) and not is_lost(exc)
            self._is_unsure = self._is_unsure or (self._is_sent and not is_undone)
            if not is_undone or connection.is_closed() or connection.is_in_transaction():
                self._drop(connection)
            raise

    async def _failed(self, group: Sequence[Member], exc: BaseException) -> list[Outcome]:
        if self._is_unsure:  # whatever the last attempt came to
            return [AppendUnknownError(self._name, said_by(exc)) for _ in group]
        if len(group) == 1 or not is_about_one_member(exc):
            return [store_error(exc, self._name) for _ in group]
        outcomes: list[Outcome] = []
        for member in group:
            outcomes += await self._write([member])
            _settle([member], outcomes[-1:])  # now: a close may cut off what comes next
        return outcomes

    def _cut_off(self) -> BaseException:
        error = AppendUnknownError if self._is_unsure else StoreUnavailableError
        return error(self._name, _CLOSED)

    async def _connected(self, patience: Patience) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._heads.clear()  # it may be another server now, which was behind
            self._connection = await self._sessions.connect(timeout_s=patience.left_s)
        return self._connection

    def _drop(self, connection: Connection) -> None:
        connection.terminate()
        self._connection = None

    async def _append_unlocked(
        self, connection: Connection, group: Sequence[Member], patience: Patience
    ) -> list[Outcome] | None:
        """Append in one call by what is known; return None, and nothing is written, where that may not hold."""
        await self._load_heads(connection, group, patience)
        rows = _Rows(self._heads)
        for _, stream, records, expected in group:
            if expected is not None and expected != rows.version_of(stream):  # a conflict or a repeat, if it is so
                return None
            rows.add(stream, records)
        self._is_sent = True
        last = await self._call(connection, rows, patience)
        if last < 0:
            self._is_sent = False
            for stream in rows.heads:
                self._heads.pop(stream, None)
            return None
        return self._written(rows, last)

    async def _append_locked(
        self, connection: Connection, group: Sequence[Member], patience: Patience
    ) -> list[Outcome]:
        """Look at the log while nobody else can append to it, and append what can be appended."""
        # Not a transaction of asyncpg's, which would wait for ever to undo it on a connection that is silent.
        await connection.execute("BEGIN", timeout=patience.left_s)
        await connection.execute(_LOCK, timeout=patience.left_s)
        last: int = await connection.fetchval(_LAST, timeout=patience.left_s)
        streams = list({member.stream for member in group})
        found_heads = await connection.fetch(_HEADS, streams, timeout=patience.left_s)
        ids = [record[0] for member in group for record in member.records]
        found_ids = await connection.fetch(_FIND, ids, timeout=patience.left_s)
        rows = _Rows({stream: version or 0 for stream, version in found_heads})
        places: dict[str, Place] = {event_id: (stream, *place) for event_id, stream, *place in found_ids}
        outcomes: list[Outcome | None] = []
        for _, stream, records, expected in group:
            version = rows.version_of(stream)
            found = {record[0]: places[record[0]] for record in records if record[0] in places}
            verdict = judge(stream, records, found=found, expected_version=expected, version=version)
            outcomes.append(verdict)
            if verdict is None:
                position = last + len(rows.event_ids)
                places.update(_places(stream, records, version=version, position=position))
                rows.add(stream, records)
        if rows.event_ids and await self._call(connection, rows, patience) != last:
            raise StoreSchemaError(self._name, _UNLOCKED)
        self._is_sent = bool(rows.event_ids)
        await connection.execute("COMMIT", timeout=patience.left_s)
        written = iter(self._written(rows, last))
        return [next(written) if outcome is None else outcome for outcome in outcomes]

    async def _load_heads(self, connection: Connection, group: Sequence[Member], patience: Patience) -> None:
        # A stream that is expected to be new, and is not, is found out by the index.
        heads = self._heads
        if len(heads) > _MOST_HEADS:
            heads.clear()
        missing = {stream for _, stream, _, expected in group if expected != 0 and stream not in heads}
        if missing:
            found = await connection.fetch(_HEADS, list(missing), timeout=patience.left_s)
            heads.update((stream, version or 0) for stream, version in found)

    async def _call(self, connection: Connection, rows: "_Rows", patience: Patience) -> int:
        now_us = self._clock.time_ns() // 1000
        sql, values = rows.call()
        last: int = await connection.fetchval(sql, now_us, *values, timeout=patience.left_s)
        self.groups += last >= 0
        return last

    def _written(self, rows: "_Rows", last: int) -> list[Outcome]:
        self._heads.update(rows.heads)
        if rows.event_ids:
            self._announce(last + len(rows.event_ids))
        return [AppendResult(version, last + count) for version, count in rows.ends]


class _Rows:
    """The records of a group, column by column, as the functions of the database take them.

    Attributes:
        event_ids: Of all records.
        heads: The version of each stream with what was added.
        ends: For each append the version of its last record, and how many records there are up to it.
    """

    def __init__(self, known: Mapping[str, int]) -> None:
        """Begin with no records, and streams at the ``known`` versions; others are at 0."""
        self._known = known
        self._streams: list[str] = []
        self._versions: list[int] = []
        self._turns: list[int] = []
        self._event_types: list[str] = []
        self._metadata: list[bytes] = []
        self._data: list[bytes] = []
        self.event_ids: list[str] = []
        self.heads: dict[str, int] = {}
        self.ends: list[tuple[int, int]] = []

    def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at, with what was added."""
        version = self.heads.get(stream)
        return self._known.get(stream, 0) if version is None else version

    def add(self, stream: str, records: Sequence[NewRecordTuple]) -> None:
        """Add an append."""
        version, turn = self.version_of(stream), len(self.ends) + 1
        for event_id, event_type, metadata, data in records:
            version += 1
            self._streams.append(stream)
            self._versions.append(version)
            self._turns.append(turn)
            self.event_ids.append(event_id)
            self._event_types.append(event_type)
            self._metadata.append(metadata)
            self._data.append(data)
        self.heads[stream] = version
        self.ends.append((version, len(self.event_ids)))

    def call(self) -> tuple[str, tuple[object, ...]]:
        """Return the statement that appends the records, and its values but the first, which is the time."""
        if len(self.event_ids) == 1:
            values = self._streams, self._versions, self.event_ids, self._event_types, self._metadata, self._data
            return _APPEND_ONE, tuple(value for (value,) in values)
        columns = (
            self._streams,
            self._versions,
            self._turns,
            self.event_ids,
            self._event_types,
            self._metadata,
            self._data,
        )
        return _APPEND, columns


def _places(
    stream: str, records: Sequence[NewRecordTuple], *, version: int, position: int
) -> Iterator[tuple[str, Place]]:
    for number, record in enumerate(records, start=1):
        yield record[0], (stream, version + number, position + number)


def _size_of(member: Member) -> int:
    return sum(len(metadata) + len(data) for _, _, metadata, data in member.records)


def _check_name(argument: str, name: str) -> None:
    # A character takes four bytes at most.
    if len(name) * 4 > LONGEST_NAME_BYTES and len(name.encode()) > LONGEST_NAME_BYTES:
        expected = f"text of at most {LONGEST_NAME_BYTES:,} bytes in UTF-8, for PostgreSQL's index"
        raise InvalidArgumentError(argument, name, expected=expected)


def _settle(group: Sequence[Member], outcomes: Sequence[Outcome]) -> None:
    settle_all([member.future for member in group], outcomes)
