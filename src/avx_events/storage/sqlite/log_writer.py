"""Writes groups of appends into the log, each group in one transaction. It blocks: a writer runs it."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias, TypeVar

from avx_events.core.clock import Clock
from avx_events.storage.sqlite.failures import is_about_one_member, moved_error, store_error
from avx_events.store.ports import AppendResult, NewRecordTuple
from avx_events.store.repeats import Place, judge

IterableT = TypeVar("IterableT", bound=Iterable[object])

Member: TypeAlias = tuple[str, Sequence[NewRecordTuple], int | None]
"""One append of a group: its stream, its records, and the version it expects."""

Outcome: TypeAlias = AppendResult | BaseException
"""What a member comes to: its place, or what its caller is to be told."""

# Rows in one statement. Every step of SQLite gives the GIL away and must win it back, so few large ones are faster.
_CHUNK_ROWS: Final = (256, 64, 16, 4, 1)
_INSERT: Final = (
    "INSERT INTO avx_events (position, stream, version, recorded_at, event_id, event_type, metadata, data) VALUES "
)
_COLUMNS: Final = 8
_ROW: Final = f"({','.join('?' * _COLUMNS)})"
_INSERTS: Final = {rows: _INSERT + ",".join([_ROW] * rows) for rows in _CHUNK_ROWS}
_LOOKUP_IDS: Final = 256
_MOST_HEADS: Final = 100_000


class LogWriter:
    """The log's end: positions, versions and instants are given out here, and nowhere else in this process.

    What it knows of the log is kept from one group to the next, and read anew when another process wrote.
    """

    def __init__(
        self, connection: sqlite3.Connection, url: str, *, clock: Clock, is_in_place: Callable[[], bool]
    ) -> None:
        """Write to ``connection``, which nobody else begins transactions on meanwhile.

        Args:
            connection: It is prepared.
            url: The store's.
            clock: Gives the instants.
            is_in_place: Tells whether the file that was opened is still the one at its path.
        """
        self._connection = connection
        self._is_in_place = is_in_place
        self._execute = connection.execute
        self._url = url
        self._clock = clock
        self._heads: dict[str, int] = {}
        self._position = 0
        self._recorded_us = 0
        self._seen: int | None = None
        parameters = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._chunk_rows = tuple(rows for rows in _CHUNK_ROWS if rows * _COLUMNS <= parameters)
        self.groups = 0

    def write(self, members: Sequence[Member]) -> list[Outcome]:
        """Append ``members`` in order and commit; return what became of each.

        A member that cannot be appended does not keep the others from it.
        """
        if not self._is_in_place():
            return [moved_error(self._url) for _ in members]
        try:
            return self._write_single(members) or self._write_group(members, lookup=False)
        except sqlite3.IntegrityError:  # an id that is there already
            return self._write_looking_up(members)
        except sqlite3.Error as exc:
            return self._write_one_by_one(members, exc)

    def _write_single(self, members: Sequence[Member]) -> list[Outcome] | None:
        # One record whose stream is known, as of one who awaits each append, is one statement, which is a transaction
        # by itself. What is known may be out of date: an append of another process has taken the position then.
        stream, records, expected = members[0]
        version = self._heads.get(stream)
        if len(members) > 1 or len(records) > 1 or version is None or expected not in {None, version}:
            return None
        position, recorded_us = self._position + 1, max(self._clock.time_ns() // 1000, self._recorded_us + 1)
        self._execute(_INSERTS[1], (position, stream, version + 1, recorded_us, *records[0]))
        self.groups += 1
        self._heads[stream], self._position, self._recorded_us = version + 1, position, recorded_us
        return [AppendResult(version + 1, position)]

    def _write_looking_up(self, members: Sequence[Member]) -> list[Outcome]:
        try:
            return self._write_group(members, lookup=True)
        except sqlite3.Error as exc:
            return self._write_one_by_one(members, exc)

    def _write_one_by_one(self, members: Sequence[Member], exc: sqlite3.Error) -> list[Outcome]:
        if len(members) > 1 and is_about_one_member(exc):
            return [self._write_looking_up([member])[0] for member in members]
        return [store_error(exc, self._url) for _ in members]

    def _write_group(self, members: Sequence[Member], *, lookup: bool) -> list[Outcome]:
        self._execute("BEGIN IMMEDIATE")
        try:
            self._refresh()
            outcomes = self._insert(members, lookup=lookup)
            self._execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        self.groups += 1
        return outcomes

    def _refresh(self) -> None:
        # Changes when another connection commits, and only then; inside a write transaction it stays.
        seen = self._execute("PRAGMA data_version").fetchone()[0]
        if seen != self._seen:
            self._heads.clear()
            last = self._execute(
                "SELECT position, recorded_at FROM avx_events ORDER BY position DESC LIMIT 1"
            ).fetchone()
            self._position, self._recorded_us = _numbers(last or (0, 0))
            self._seen = seen
        elif len(self._heads) > _MOST_HEADS:
            self._heads.clear()

    def _insert(self, members: Sequence[Member], *, lookup: bool) -> list[Outcome]:
        self._load_heads(members)
        heads, position, recorded_us = self._heads, self._position, self._recorded_us
        now_us = self._clock.time_ns() // 1000
        values: list[object] = []
        outcomes: list[Outcome] = []
        for stream, records, expected in members:
            version = heads[stream]
            if lookup or (expected is not None and expected != version):
                self._flush(values)  # an earlier member of this group may have the ids that are looked up
                verdict = judge(stream, records, found=self._find(records), expected_version=expected, version=version)
                if verdict is not None:
                    outcomes.append(verdict)
                    continue
            recorded_us = now_us if now_us > recorded_us else recorded_us + 1
            for event_id, event_type, metadata, data in records:
                position += 1
                version += 1
                values += (position, stream, version, recorded_us, event_id, event_type, metadata, data)
            heads[stream] = version
            outcomes.append(AppendResult(version, position))
        self._flush(values)
        self._position, self._recorded_us = position, recorded_us
        return outcomes

    def _load_heads(self, members: Sequence[Member]) -> None:
        heads = self._heads
        missing = list({member[0] for member in members if member[0] not in heads})
        for start in range(0, len(missing), _LOOKUP_IDS):
            some = missing[start : start + _LOOKUP_IDS]
            marks = ",".join("?" * len(some))
            sql = f"SELECT stream, max(version) FROM avx_events WHERE stream IN ({marks}) GROUP BY stream"  # noqa: S608
            found = dict(self._execute(sql, some))
            _numbers(found.values())
            heads.update(dict.fromkeys(some, 0))
            heads.update(found)

    def _find(self, records: Sequence[NewRecordTuple]) -> dict[str, Place]:
        found: dict[str, Place] = {}
        for start in range(0, len(records), _LOOKUP_IDS):
            ids = [record[0] for record in records[start : start + _LOOKUP_IDS]]
            marks = ",".join("?" * len(ids))
            sql = f"SELECT event_id, stream, version, position FROM avx_events WHERE event_id IN ({marks})"  # noqa: S608
            found.update(
                (event_id, (stream, version, position))
                for event_id, stream, version, position in self._execute(sql, ids)
            )
        return found

    def _flush(self, values: list[object]) -> None:
        start, end = 0, len(values)
        for rows in self._chunk_rows:
            size = rows * _COLUMNS
            while end - start >= size:
                self._execute(_INSERTS[rows], values[start : start + size])
                start += size
        values.clear()

    def _undo(self) -> None:
        self._seen = None
        self._heads.clear()  # with what the group would have made of them
        if self._connection.in_transaction:  # some errors undo it themselves
            with suppress(sqlite3.Error):
                self._execute("ROLLBACK")


def _numbers(found: IterableT) -> IterableT:
    if not all(isinstance(number, int) for number in found):
        problem = "a row of its log has no version, position or time; the file is damaged"
        raise sqlite3.DatabaseError(problem)
    return found
