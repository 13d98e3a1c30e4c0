"""Dead letters in a SQLite file, by themselves or beside the events, for one or several processes."""

import asyncio
import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from avx_events.bus import dead_letter_codec
from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import ClosedError, WrongLoopError
from avx_events.core.metadata import EPOCH
from avx_events.storage.sqlite.failures import store_error
from avx_events.storage.sqlite.location import Location, OpenFile, parse
from avx_events.storage.sqlite.log_writer import LogWriter
from avx_events.storage.sqlite.opening import open_database, open_for_reading
from avx_events.storage.sqlite.readers import Readers
from avx_events.storage.sqlite.schema import Tables
from avx_events.storage.sqlite.shared_commits import SharedCommits
from avx_events.storage.sqlite.writers import InlineWriter, ThreadWriter, Writer

ResultT = TypeVar("ResultT")

DEAD_LETTERS: Final = Tables(
    component="dead letters",
    migrations=(
        (
            """
            CREATE TABLE avx_dead_letters (
                id TEXT NOT NULL UNIQUE,
                handler TEXT NOT NULL,
                event_type TEXT,
                error_type TEXT NOT NULL,
                dead_at INTEGER NOT NULL,
                claimed_by TEXT,
                claimed_until INTEGER,
                letter BLOB NOT NULL
            )
            """,
            "CREATE INDEX avx_dead_letters_handler ON avx_dead_letters (handler, id)",
            "CREATE INDEX avx_dead_letters_event_type ON avx_dead_letters (event_type, id)",
            "CREATE INDEX avx_dead_letters_error_type ON avx_dead_letters (error_type, id)",
            "CREATE INDEX avx_dead_letters_dead_at ON avx_dead_letters (dead_at)",
            """
            CREATE INDEX avx_dead_letters_claimed_by ON avx_dead_letters (claimed_by)
            WHERE claimed_by IS NOT NULL
            """,
        ),
    ),
    probes={
        "avx_dead_letters": (
            "SELECT id, handler, event_type, error_type, dead_at, claimed_by, claimed_until, letter"
            " FROM avx_dead_letters LIMIT 0"
        ),
    },
)

# A claim of another process is left to it: whoever puts a letter then has lost its own.
_PUT: Final = """
INSERT INTO avx_dead_letters (id, handler, event_type, error_type, dead_at, letter) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (id) DO UPDATE SET
    handler = ?2, event_type = ?3, error_type = ?4, dead_at = ?5, letter = ?6,
    claimed_by = nullif(claimed_by, ?7)
"""
_CLAIM: Final = (
    "UPDATE avx_dead_letters SET claimed_by = ?, claimed_until = ?"
    " WHERE id = ? AND (claimed_by IS NULL OR claimed_until <= ?)"
)
_RENEW: Final = "UPDATE avx_dead_letters SET claimed_until = ? WHERE id = ? AND claimed_by = ?"
_IS_THERE: Final = "SELECT 1 FROM avx_dead_letters WHERE id = ?"
_RELEASE: Final = "UPDATE avx_dead_letters SET claimed_by = NULL WHERE id = ? AND claimed_by = ?"
_RELEASE_ALL: Final = "UPDATE avx_dead_letters SET claimed_by = NULL WHERE claimed_by = ?"
_DISCARD: Final = "DELETE FROM avx_dead_letters WHERE id = ?"
# Whatever another program has put into the row.
_COLUMNS: Final = "SELECT id, handler, error_type, CAST(dead_at AS INTEGER), CAST(letter AS BLOB) FROM avx_dead_letters"
_COUNT: Final = "SELECT count(*) FROM avx_dead_letters"

_CONDITIONS: Final = {
    "handler": "handler = ?",
    "event_type": "event_type = ?",
    "error_type": "error_type = ?",
    "since": "dead_at >= ?",
    "until": "dead_at <= ?",
}
_PAGE_LETTERS: Final = 100
# Of documents that are decoded, before others on the loop have a turn.
_BREATH_BYTES: Final = 262_144
_LEASE_US: Final = int(LEASE_S * 1_000_000)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Row(NamedTuple):
    id: str
    handler: str
    error_type: str
    dead_at: int
    letter: bytes


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "SqliteDeadLetters":
    """Open the dead letters in a SQLite file, or in memory; file and table are made where they are not there.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``sqlite://`` for memory, with the options of an
            event store, which may be in the same file; a file is always written by a thread.
        clock: Says when a claim is over.

    Raises:
        InvalidArgumentError: The URL or an option is malformed, or its folder is not there.
        StoreSchemaError: The file is no database, damaged, or of a newer version.
        StoreUnavailableError: It cannot be opened now: locked, not permitted, disk full.
    """
    location = parse(url)
    return SqliteDeadLetters(await open_database(location, url, DEAD_LETTERS), location, url, clock=clock)


class SqliteDeadLetters:
    """A ``DeadLetterStore`` in a SQLite database; ``connect`` opens one."""

    def __init__(self, connection: sqlite3.Connection, location: Location, url: str, *, clock: Clock) -> None:
        """Write to ``connection``, which is prepared, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._url = url
        self._clock = clock
        self._owner = secrets.token_hex(16)
        file = OpenFile(location, url)
        self._writer = _writer(connection, location, url, clock=clock, is_in_place=file.is_in_place)
        self._commits = SharedCommits(self._writer, url, is_in_place=file.is_in_place)
        # A database in memory belongs to its connection: others would see another one.
        self._readers = None if location.path is None else Readers(lambda: open_for_reading(location, file), url)
        self._leases = ClaimLeases(self._renew, clock=clock)
        self._is_closed = False

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``."""
        self._check("keep a dead letter")
        values = (*_values(letter), self._owner)
        try:
            await self._commits.begin(_changing(_PUT, values))
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""

        def read(connection: sqlite3.Connection) -> list[_Row]:
            return _rows(connection, f"{_COLUMNS} WHERE id = ?", [portable(letter_id)])

        rows = await self._read(read)
        return _letter(rows[0]) if rows else None

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        self._check("claim a dead letter")
        now_us = self._now_us()

        def claim(connection: sqlite3.Connection) -> bool:
            values = (self._owner, now_us + _LEASE_US, portable(letter_id), now_us)
            return connection.execute(_CLAIM, values).rowcount > 0

        claiming = self._commits.begin(claim)
        try:
            is_claimed = await claiming
        except asyncio.CancelledError:
            self._release_unheard(letter_id)  # nobody is told whether it was claimed
            raise
        if is_claimed and not self._is_closed:
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._check("release a dead letter")
        self._leases.drop(letter_id)
        await self._commits.begin(self._releasing(letter_id))

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first; read and decoded page by page."""
        found: list[DeadLetter] = []
        last, unbreathed = after, 0
        while limit is None or len(found) < limit:
            size = _PAGE_LETTERS if limit is None else min(_PAGE_LETTERS, limit - len(found))
            rows = await self._read(_page(letter_filter, last, size))
            for row in rows:
                found.append(_letter(row))
                unbreathed += len(row.letter)
                if unbreathed > _BREATH_BYTES:
                    unbreathed = 0
                    await asyncio.sleep(0)
            if len(rows) < size:
                break
            last = rows[-1].id
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._check("remove a dead letter")
        self._leases.drop(letter_id)  # also where that fails: its work is done
        return await self._commits.begin(_changing(_DISCARD, [portable(letter_id)])) > 0

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, in one statement; return how many went."""
        self._check("remove dead letters")
        condition, values = _where(letter_filter)
        return await self._commits.begin(_changing(f"DELETE FROM avx_dead_letters {condition}", values))  # noqa: S608

    async def count(self) -> int:
        """Return how many letters there are."""

        def read(connection: sqlite3.Connection) -> int:
            number: int = connection.execute(_COUNT).fetchone()[0]
            return number

        return await self._read(read)

    async def close(self) -> None:
        """Make the changes that wait, give up the claims, close all connections. Harmless when repeated.

        Raises:
            WrongLoopError: It is called on another loop while its own runs, or in a fork of the process that opened it.
        """
        if self._is_forked() or (self._loop.is_running() and self._is_elsewhere()):
            raise WrongLoopError("the dead letter queue", "close")
        if not self._is_closed:
            self._is_closed = True
            _forget(self._commits.begin(_changing(_RELEASE_ALL, [self._owner])))
        try:
            await self._leases.close()
            if self._readers is not None:
                await self._readers.close()
        finally:
            await self._writer.close()

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        until_us = self._now_us() + _LEASE_US

        def renew(connection: sqlite3.Connection) -> list[str]:
            lost: list[str] = []
            for letter_id in letter_ids:
                renewed = connection.execute(_RENEW, (until_us, portable(letter_id), self._owner)).rowcount
                if not renewed and connection.execute(_IS_THERE, (portable(letter_id),)).fetchone():
                    lost.append(letter_id)
            return lost

        return await self._commits.begin(renew)

    def _release_unheard(self, letter_id: str) -> None:
        if not self._is_closed:  # then all were released
            _forget(self._commits.begin(self._releasing(letter_id)))

    def _releasing(self, letter_id: str) -> Callable[[sqlite3.Connection], int]:
        return _changing(_RELEASE, [portable(letter_id), self._owner])

    async def _read(self, read: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        self._check("read")
        if self._readers is not None:
            return await self._readers.begin(read)
        try:
            return await self._writer.run(read)
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            raise store_error(exc, self._url) from exc

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        if self._is_elsewhere():
            raise WrongLoopError("the dead letter queue", action)

    def _is_elsewhere(self) -> bool:
        return self._is_forked() or asyncio.get_running_loop() is not self._loop

    def _is_forked(self) -> bool:
        return os.getpid() != self._process_id  # SQLite forbids to carry a connection over a fork

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1000


def _writer(
    connection: sqlite3.Connection, location: Location, url: str, *, clock: Clock, is_in_place: Callable[[], bool]
) -> Writer:
    no_log = LogWriter(connection, url, clock=clock, is_in_place=is_in_place)  # nobody appends
    # The lock of a file may be held by the loop's own store, for which the loop cannot wait.
    is_inline = location.writer == "inline" and location.path is None
    writer = InlineWriter if is_inline else ThreadWriter
    return writer(connection, no_log, announce=lambda _: None)


def _values(letter: DeadLetter) -> tuple[object, ...]:
    event_type = letter.event_type
    return (
        portable(letter.id),
        portable(letter.handler),
        None if event_type is None else portable(event_type),
        portable(letter.error_type),
        _us(letter.dead_at),
        dead_letter_codec.encode(letter),
    )


def _us(instant: datetime) -> int:
    return (instant - EPOCH) // _MICROSECOND


def _changing(sql: str, values: Sequence[object]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute(sql, values).rowcount


def _page(letter_filter: LetterFilter, after: str | None, size: int) -> Callable[[sqlite3.Connection], list[_Row]]:
    condition, values = _where(letter_filter, after)
    return lambda connection: _rows(connection, f"{_COLUMNS} {condition} ORDER BY id LIMIT ?", [*values, size])


def _where(letter_filter: LetterFilter, after: str | None = None) -> tuple[str, list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    for name, condition in _CONDITIONS.items():
        wanted = getattr(letter_filter, name)
        if wanted is not None:
            conditions.append(condition)
            values.append(_us(wanted) if isinstance(wanted, datetime) else portable(wanted))
    if after is not None:
        conditions.append("id > ?")
        values.append(portable(after))
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _rows(connection: sqlite3.Connection, sql: str, values: Sequence[object]) -> list[_Row]:
    return [_Row(*row) for row in connection.execute(sql, values)]


def _letter(row: _Row) -> DeadLetter:
    return dead_letter_codec.decode_or_describe(
        row.letter,
        id=row.id,
        handler=row.handler,
        error_type=row.error_type,
        dead_at=EPOCH + row.dead_at * _MICROSECOND,
    )


def _forget(future: "asyncio.Future[Any]") -> None:
    """Let ``future`` end as it likes."""
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
