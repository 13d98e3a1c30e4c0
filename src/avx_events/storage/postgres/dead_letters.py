r"""Dead letters in a PostgreSQL database, by themselves or beside the events, for one or several processes.

PostgreSQL's text has no NUL, and what a letter says may: NUL is written as two characters ``\x01``, and ``\x01`` as
itself and ``\x02``, so that names differ, and ids sort, as they did before.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from avx_events.bus import dead_letter_codec
from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import AvxEventsError, ClosedError, InvalidArgumentError, WrongLoopError
from avx_events.core.metadata import EPOCH
from avx_events.core.tasks import TaskScope
from avx_events.storage.postgres.failures import FAILURES
from avx_events.storage.postgres.letter_tables import DEAD_LETTERS
from avx_events.storage.postgres.location import parse
from avx_events.storage.postgres.opening import open_prepared
from avx_events.storage.postgres.sessions import PooledConnection, Sessions

# A claim of another process is left to it: whoever puts a letter then has lost its own.
_PUT: Final = """
INSERT INTO avx_dead_letters (id, handler, event_type, error_type, dead_at, letter) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE SET
    handler = excluded.handler, event_type = excluded.event_type, error_type = excluded.error_type,
    dead_at = excluded.dead_at, letter = excluded.letter, claimed_by = nullif(avx_dead_letters.claimed_by, $7)
"""
# By the server's clock, which all processes share. The numbers are those of this claim, which may come a second time,
# and of claims that nobody was told of and that may not be undone yet.
_CLAIM: Final = """
UPDATE avx_dead_letters SET
    claimed_by = $2, claim = $3, claimed_until = clock_timestamp() + make_interval(secs => $4)
WHERE id = $1
    AND (claimed_by IS NULL OR claimed_until <= clock_timestamp() OR (claimed_by = $2 AND claim = ANY($5::bigint[])))
"""
_RENEW: Final = """
UPDATE avx_dead_letters SET claimed_until = clock_timestamp() + make_interval(secs => $3)
WHERE id = ANY($1::text[]) AND claimed_by = $2
"""
_OTHERS: Final = "SELECT id FROM avx_dead_letters WHERE id = ANY($1::text[]) AND claimed_by <> $2"
_RELEASE: Final = "UPDATE avx_dead_letters SET claimed_by = NULL WHERE id = $1 AND claimed_by = $2"
_RELEASE_ONE_CLAIM: Final = f"{_RELEASE} AND claim = $3"
_RELEASE_ALL: Final = "UPDATE avx_dead_letters SET claimed_by = NULL WHERE claimed_by = $1"
_DISCARD: Final = "DELETE FROM avx_dead_letters WHERE id = $1"
_COLUMNS: Final = "SELECT id, handler, error_type, dead_at, letter FROM avx_dead_letters"
_COUNT: Final = "SELECT count(*) FROM avx_dead_letters"

_CONDITIONS: Final = {
    "handler": "left(handler, 200) = left({0}, 200) AND handler = {0}",
    "event_type": "left(event_type, 200) = left({0}, 200) AND event_type = {0}",
    "error_type": "left(error_type, 200) = left({0}, 200) AND error_type = {0}",
    "since": "dead_at >= {0}",
    "until": "dead_at <= {0}",
}
_MOST_ID_BYTES: Final = 1_000  # an entry of an index has at most 2,700, for an id and the beginning of a name
_PAGE_LETTERS: Final = 100
# Of documents that are decoded, before others on the loop have a turn.
_BREATH_BYTES: Final = 262_144
_MICROSECOND: Final = timedelta(microseconds=1)


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "PostgresDeadLetters":
    """Open the dead letters in a PostgreSQL database; their table is made where it is not there.

    Args:
        url: ``postgresql://user:password@host:5432/database``, with the options of an event store, which may be in the
            same database and schema.
        clock: Says when claims are renewed. When one is over the server says.

    Raises:
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, has no such database, or permits too little.
        StoreSchemaError: The database has another table of this name, is at a newer version, or not in UTF-8.
        StoreUnavailableError: The server cannot be reached now.
    """
    location = parse(url)
    sessions = Sessions(location, whose="the dead letter queue", writers=location.pool_size)
    connection = await open_prepared(sessions, location, DEAD_LETTERS)
    with suppress(*FAILURES):  # letters come and go on other connections
        await connection.close(timeout=location.timeout_s)
    return PostgresDeadLetters(sessions, clock=clock)


class PostgresDeadLetters:
    """A ``DeadLetterStore`` in a PostgreSQL database; ``connect`` opens one."""

    def __init__(self, sessions: Sessions, *, clock: Clock) -> None:
        """Claim nothing yet, in a database that is prepared, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._sessions: Final = sessions
        self._owner: Final = secrets.token_hex(16)
        self._numbers: Final = count(1)
        self._unheard: Final[set[int]] = set()
        self._undoing: Final = TaskScope()
        self._leases: Final = ClaimLeases(self._renew, clock=clock)
        self._is_closed = self._has_claimed = False

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``.

        Raises:
            InvalidArgumentError: Its id is longer than 1,000 bytes.
        """
        self._check("keep a dead letter")
        values = _values(letter)
        try:
            await self._write(_PUT, *values, self._owner)
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        self._check("read a dead letter")
        rows = await self._sessions.read_own(_fetching(f"{_COLUMNS} WHERE id = $1", [_kept(letter_id)]))
        return _letter(rows[0]) if rows else None

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        self._check("claim a dead letter")
        number = next(self._numbers)
        self._has_claimed = True
        mine = [*self._unheard, number]
        try:
            is_claimed = await self._write(_CLAIM, _kept(letter_id), self._owner, number, LEASE_S, mine) > 0
        except BaseException:
            self._undo(letter_id, number)  # nobody is told whether it was claimed
            raise
        if is_claimed and not self._is_closed:
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._check("release a dead letter")
        self._leases.drop(letter_id)
        await self._write(_RELEASE, _kept(letter_id), self._owner)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first; read and decoded page by page."""
        found: list[DeadLetter] = []
        last, unbreathed = None if after is None else _kept(after), 0
        while limit is None or len(found) < limit:
            self._check("list dead letters")
            size = _PAGE_LETTERS if limit is None else min(_PAGE_LETTERS, limit - len(found))
            rows = await self._page(letter_filter, last, size)
            for row in rows:
                found.append(_letter(row))
                unbreathed += len(row[-1])
                if unbreathed > _BREATH_BYTES:
                    unbreathed = 0
                    await asyncio.sleep(0)
            if len(rows) < size:
                break
            last = rows[-1][0]
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._check("remove a dead letter")
        self._leases.drop(letter_id)  # also where that fails: its work is done
        return await self._write(_DISCARD, _kept(letter_id)) > 0

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, in one statement, however long it takes; return how many went.

        Where the connection is lost in the midst of the commit they may be gone already, and count as none.
        """
        self._check("remove dead letters")
        condition, values = _where(letter_filter)
        sql = f"DELETE FROM avx_dead_letters {condition}"  # noqa: S608 - made of our own constants
        return await self._sessions.write_at_length(_changing(sql, values))

    async def count(self) -> int:
        """Return how many letters there are."""
        self._check("count dead letters")
        [(number,)] = await self._sessions.read_own(_fetching(_COUNT, []))
        return int(number)

    async def close(self) -> None:
        """Give up the claims, close all connections. Harmless when repeated.

        Raises:
            WrongLoopError: It is called on another loop while its own runs, or in a fork of the process that opened it.
        """
        if self._is_forked() or (self._loop.is_running() and self._is_elsewhere()):
            raise WrongLoopError("the dead letter queue", "close")
        is_first, self._is_closed = not self._is_closed, True
        try:
            await self._leases.close()
            await self._undoing.cancel()
            if is_first and self._has_claimed:
                with suppress(AvxEventsError):  # a server that is away: the claims end by themselves
                    await self._write(_RELEASE_ALL, self._owner)
        finally:
            await self._sessions.close()

    async def _page(self, letter_filter: LetterFilter, after: str | None, size: int) -> list[tuple[Any, ...]]:
        condition, values = _where(letter_filter, after)
        query = _fetching(f"{_COLUMNS} {condition} ORDER BY id LIMIT ${len(values) + 1}", [*values, size])
        if letter_filter.since is None and letter_filter.until is None:
            return await self._sessions.read_own(query)
        # What our own reads are kept from may be best here: to find a few by their instant, and sort them.
        return await self._sessions.write_own(query)

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        names = {_kept(letter_id): letter_id for letter_id in letter_ids}
        await self._write(_RENEW, [*names], self._owner, LEASE_S)
        lost = await self._sessions.read_own(_fetching(_OTHERS, [[*names], self._owner]))
        return [names[name] for (name,) in lost]

    def _undo(self, letter_id: str, number: int) -> None:
        if not self._is_closed:  # then all were released
            self._unheard.add(number)
            release = self._release_unheard(letter_id, number)
            self._undoing.spawn(release, name="avx-events dead letters: undo a claim")

    async def _release_unheard(self, letter_id: str, number: int) -> None:
        try:
            with suppress(AvxEventsError):  # then it ends by itself
                await self._write(_RELEASE_ONE_CLAIM, _kept(letter_id), self._owner, number)
        finally:
            self._unheard.discard(number)

    async def _write(self, sql: str, *values: object) -> int:
        return await self._sessions.write_own(_changing(sql, values))

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        if self._is_elsewhere():
            raise WrongLoopError("the dead letter queue", action)

    def _is_elsewhere(self) -> bool:
        return self._is_forked() or asyncio.get_running_loop() is not self._loop

    def _is_forked(self) -> bool:
        return os.getpid() != self._process_id  # what two processes say on one connection, neither understands


def _values(letter: DeadLetter) -> tuple[object, ...]:
    letter_id, event_type = _kept(letter.id), letter.event_type
    if len(letter_id.encode()) > _MOST_ID_BYTES:
        raise InvalidArgumentError("id", letter.id, expected=f"at most {_MOST_ID_BYTES:,} bytes")
    return (
        letter_id,
        _kept(letter.handler),
        None if event_type is None else _kept(event_type),
        _kept(letter.error_type),
        _us(letter.dead_at),
        dead_letter_codec.encode(letter),
    )


def _kept(text: str) -> str:
    return portable(text).replace("\x01", "\x01\x02").replace("\0", "\x01\x01")


def _told(text: str) -> str:
    return text.replace("\x01\x01", "\0").replace("\x01\x02", "\x01")


def _us(instant: datetime) -> int:
    return (instant - EPOCH) // _MICROSECOND


def _fetching(sql: str, values: Sequence[object]) -> Callable[[PooledConnection], Awaitable[list[Any]]]:
    return lambda connection: connection.fetch(sql, *values)


def _changing(sql: str, values: Sequence[object]) -> Callable[[PooledConnection], Awaitable[int]]:
    async def change(connection: PooledConnection) -> int:
        status = await connection.execute(sql, *values)  # as "UPDATE 1"
        return int(status.rpartition(" ")[2])

    return change


def _where(letter_filter: LetterFilter, after: str | None = None) -> tuple[str, list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    for name, condition in _CONDITIONS.items():
        wanted = getattr(letter_filter, name)
        if wanted is not None:
            values.append(_us(wanted) if isinstance(wanted, datetime) else _kept(wanted))
            conditions.append(condition.format(f"${len(values)}"))
    if after is not None:
        values.append(after)
        conditions.append(f"id > ${len(values)}")
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    letter_id, handler, error_type, dead_at, document = row
    return dead_letter_codec.decode_or_describe(
        document,
        id=_told(letter_id),
        handler=_told(handler),
        error_type=_told(error_type),
        dead_at=EPOCH + dead_at * _MICROSECOND,
    )
