"""Dead letters in the database of a store, whichever it is: beside the positions of the handlers that gave them up."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from avx_events.bus import dead_letter_codec
from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError
from avx_events.core.metadata import EPOCH
from avx_events.core.tasks import OwnedTask, TaskScope
from avx_events.patterns.shared_time import shared_now_us
from avx_events.patterns.tables import execute, fetch_one, in_dialect, prepare
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection, Dialect

# In the order of the ids' bytes, whatever the database's language is.
_COLLATION: Final[Mapping[Dialect, str]] = {"sqlite": "", "postgresql": ' COLLATE "C"'}
_TABLE: Final = """
    CREATE TABLE avx_log_letters (
        id TEXT{collation} NOT NULL PRIMARY KEY,
        handler TEXT NOT NULL,
        event_type TEXT,
        error_type TEXT NOT NULL,
        dead_at INTEGER NOT NULL,
        claimed_by TEXT,
        claimed_until INTEGER,
        letter BLOB NOT NULL
    )
    """
# A claim of another process is left to it: whoever puts a letter then has lost its own.
_PUT: Final = (
    "INSERT INTO avx_log_letters (id, handler, event_type, error_type, dead_at, letter) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET handler = excluded.handler, event_type = excluded.event_type,"
    " error_type = excluded.error_type, dead_at = excluded.dead_at, letter = excluded.letter,"
    " claimed_by = nullif(avx_log_letters.claimed_by, ?)"
)
_CLAIM: Final = (
    "UPDATE avx_log_letters SET claimed_by = ?, claimed_until = ?"
    " WHERE id = ? AND (claimed_by IS NULL OR claimed_until <= ?)"
)
_RENEW: Final = "UPDATE avx_log_letters SET claimed_until = ? WHERE id = ? AND claimed_by = ?"
_IS_THERE: Final = "SELECT 1 FROM avx_log_letters WHERE id = ?"
_RELEASE: Final = "UPDATE avx_log_letters SET claimed_by = NULL WHERE id = ? AND claimed_by = ?"
_RELEASE_ALL: Final = "UPDATE avx_log_letters SET claimed_by = NULL WHERE claimed_by = ?"
_DISCARD: Final = "DELETE FROM avx_log_letters WHERE id = ?"
_COLUMNS: Final = "SELECT id, handler, error_type, dead_at, letter FROM avx_log_letters"
_COUNT: Final = "SELECT count(*) FROM avx_log_letters"
_CONDITIONS: Final = {
    "handler": "handler = ?",
    "event_type": "event_type = ?",
    "error_type": "error_type = ?",
    "since": "dead_at >= ?",
    "until": "dead_at <= ?",
}
_PAGE_LETTERS: Final = 100
_LEASE_US: Final = int(LEASE_S * 1_000_000)
_MICROSECOND: Final = timedelta(microseconds=1)


class StoreDeadLetters:
    """A ``DeadLetterStore`` in the tables of a store, which is somebody else's to close."""

    def __init__(self, store: EventStore, *, clock: Clock) -> None:
        """Touch nothing yet.

        Args:
            store: Whose database it is.
            clock: Says when a claim is over, where the database has no time of its own.
        """
        self._store: Final = store
        self._clock: Final = clock
        self._owner: Final = secrets.token_hex(16)
        self._leases: Final = ClaimLeases(self._renew, clock=clock)
        self._errands: Final = TaskScope()
        self._unheard: Final[dict[str, OwnedTask]] = {}
        self._dialect: Dialect | None = None

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``."""
        try:
            await self._change(_PUT, *_values(letter), self._owner)
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        rows = await self._read(f"{_COLUMNS} WHERE id = ?", _text(letter_id))
        return _letter(rows[0]) if rows else None

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        undoing = self._unheard.get(letter_id)
        if undoing is not None:  # it would take this claim for the one before
            await asyncio.wait({undoing})
        try:
            async with self._table() as connection:
                now_us = await shared_now_us(connection, self._clock)
                values = (self._owner, now_us + _LEASE_US, _text(letter_id), now_us)
                is_claimed = await execute(connection, _CLAIM, *values) > 0
        except asyncio.CancelledError:
            # Nobody is told whether it was claimed.
            release = self._release_unheard(letter_id)
            self._unheard[letter_id] = self._errands.spawn(release, name="avx-events log bus: release a dead letter")
            raise
        if is_claimed:
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._leases.drop(letter_id)
        await self._change(_RELEASE, _text(letter_id), self._owner)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first; read and decoded page by page."""
        found: list[DeadLetter] = []
        last = after
        while limit is None or len(found) < limit:
            size = _PAGE_LETTERS if limit is None else min(_PAGE_LETTERS, limit - len(found))
            condition, values = _where(letter_filter, last)
            rows = await self._read(f"{_COLUMNS} {condition} ORDER BY id LIMIT ?", *values, size)
            found += map(_letter, rows)
            if len(rows) < size:
                break
            last = rows[-1][0]
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._leases.drop(letter_id)  # also where that fails: its work is done
        return await self._change(_DISCARD, _text(letter_id)) > 0

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, in one statement; return how many went."""
        condition, values = _where(letter_filter)
        return await self._change(f"DELETE FROM avx_log_letters {condition}", *values)  # noqa: S608 - our own text

    async def count(self) -> int:
        """Return how many letters there are."""
        rows = await self._read(_COUNT)
        number: int = rows[0][0]
        return number

    async def close(self) -> None:
        """Give up the claims; the store stays open. Harmless when repeated."""
        await self._leases.close()
        await self._errands.finish()
        if self._dialect is not None:  # else nothing was done
            try:
                await self._change(_RELEASE_ALL, self._owner)
            except AvxEventsError:  # they end by themselves
                return

    @asynccontextmanager
    async def _table(self) -> AsyncGenerator[Connection, None]:
        async with self._store.transaction() as connection:
            if self._dialect is None:
                table = _TABLE.format(collation=_COLLATION[connection.dialect])
                await prepare(connection, "log letters", [[table]])
            yield connection
        self._dialect = connection.dialect

    async def _change(self, sql: str, *values: object) -> int:
        async with self._table() as connection:
            return await execute(connection, sql, *values)

    async def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if self._dialect is None:
            async with self._table():
                pass
        return await self._store.fetch(in_dialect(sql, self._dialect or "sqlite"), *values)

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        async with self._table() as connection:
            until_us = await shared_now_us(connection, self._clock) + _LEASE_US
            return [each for each in letter_ids if not await self._renew_one(connection, each, until_us)]

    async def _renew_one(self, connection: Connection, letter_id: str, until_us: int) -> bool:
        """Return False where another process has claimed the letter."""
        is_renewed = await execute(connection, _RENEW, until_us, _text(letter_id), self._owner) > 0
        return is_renewed or await fetch_one(connection, _IS_THERE, _text(letter_id)) is None

    async def _release_unheard(self, letter_id: str) -> None:
        try:
            await self.release(letter_id)
        except AvxEventsError:  # its claim ends by itself
            return
        finally:
            self._unheard.pop(letter_id, None)


def _values(letter: DeadLetter) -> tuple[object, ...]:
    event_type = letter.event_type
    return (
        _text(letter.id),
        _text(letter.handler),
        None if event_type is None else _text(event_type),
        _text(letter.error_type),
        _us(letter.dead_at),
        dead_letter_codec.encode(letter),
    )


def _text(text: str) -> str:
    r"""Return ``text`` as every database takes it: PostgreSQL has no place for a NUL."""
    return portable(text).replace("\0", "\\0")


def _us(instant: datetime) -> int:
    return (instant - EPOCH) // _MICROSECOND


def _where(letter_filter: LetterFilter, after: str | None = None) -> tuple[str, list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    for name, condition in _CONDITIONS.items():
        wanted = getattr(letter_filter, name)
        if wanted is not None:
            conditions.append(condition)
            values.append(_us(wanted) if isinstance(wanted, datetime) else _text(wanted))
    if after is not None:
        conditions.append("id > ?")
        values.append(_text(after))
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    letter_id, handler, error_type, dead_at, document = row
    return dead_letter_codec.decode_or_describe(
        bytes(document), id=letter_id, handler=handler, error_type=error_type, dead_at=EPOCH + dead_at * _MICROSECOND
    )
