"""Where the results of commands are kept by idempotency key: in memory, or in a table of the store's database.

A key is *free*, *claimed* by the dispatch that carries the command out, or *spent*: its result is kept. Claims and
results have an end; after it the key is free again.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeAlias

import msgspec

from avx_events.core.clock import Clock
from avx_events.patterns.tables import execute, fetch_one, prepare
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

Place: TypeAlias = tuple[str, str]
"""A command's event type, and the idempotency key."""

MOST_IN_MEMORY: Final = 10_000


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is known under one key.

    Attributes:
        fingerprint: Of the command's own values; a key stands for one command only.
        owner: The id of the dispatch that made the entry.
        until_us: When the key is free again, in Unix microseconds; the ledger sets it.
        outcome: The result as JSON; None while it is claimed.
        problem: Why there is no result though the command was carried out.
    """

    fingerprint: bytes
    owner: str
    until_us: int = 0
    outcome: bytes | None = None
    problem: str | None = None

    @property
    def is_spent(self) -> bool:
        """Whether the command was carried out."""
        return self.outcome is not None or self.problem is not None


class Ledger(Protocol):
    """Keeps entries; each call is one step that nobody else can come between.

    A call may wait for its turn. An entry lasts for ``lasts_s`` seconds from when it is written.
    """

    async def claim(self, place: Place, claim: Entry, *, lasts_s: float) -> Entry | None:
        """Put ``claim`` there if the key is free, and return None; else return what is there."""
        ...

    async def spend(self, place: Place, spent: Entry, *, lasts_s: float) -> None:
        """Replace the claim of the same owner by ``spent``; nothing is done where another owner is there now."""
        ...

    async def release(self, place: Place, owner: str) -> None:
        """Make the key free if ``owner`` has claimed it."""
        ...


class MemoryLedger:
    """Keeps the claims of this process, and up to ``MOST_IN_MEMORY`` results; the oldest result goes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._claims: dict[Place, Entry] = {}
        self._results: dict[Place, Entry] = {}

    async def claim(self, place: Place, claim: Entry, *, lasts_s: float) -> Entry | None:
        """Claim a free key; see ``Ledger.claim``."""
        now_us = _now_us(self._clock)
        existing = self._claims.get(place) or self._results.get(place)
        if existing is not None and existing.until_us > now_us:
            return existing
        self._results.pop(place, None)
        self._claims[place] = _until(claim, now_us + _us(lasts_s))
        return None

    async def spend(self, place: Place, spent: Entry, *, lasts_s: float) -> None:
        """Keep a result; see ``Ledger.spend``."""
        if not self._is_owner(place, spent.owner):
            return
        del self._claims[place]
        if len(self._results) >= MOST_IN_MEMORY:
            del self._results[next(iter(self._results))]
        self._results[place] = _until(spent, _now_us(self._clock) + _us(lasts_s))

    async def release(self, place: Place, owner: str) -> None:
        """Free a key; see ``Ledger.release``."""
        if self._is_owner(place, owner):
            del self._claims[place]

    def _is_owner(self, place: Place, owner: str) -> bool:
        claim = self._claims.get(place)
        return claim is not None and claim.owner == owner


_MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """
        CREATE TABLE avx_idempotency (
            event_type TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint BLOB NOT NULL,
            owner TEXT NOT NULL,
            until_us INTEGER NOT NULL,
            outcome BLOB,
            problem TEXT,
            PRIMARY KEY (event_type, key)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX avx_idempotency_until ON avx_idempotency (until_us)",
    ),
)
_GET: Final = (
    "SELECT fingerprint, owner, until_us, outcome, problem FROM avx_idempotency WHERE event_type = ? AND key = ?"
)
# In one statement, so that of two who claim a key at once one finds the other's claim; 0 rows where it is not free.
_CLAIM: Final = """
INSERT INTO avx_idempotency (event_type, key, fingerprint, owner, until_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (event_type, key) DO UPDATE SET
    fingerprint = excluded.fingerprint, owner = excluded.owner, until_us = excluded.until_us,
    outcome = NULL, problem = NULL
WHERE avx_idempotency.until_us <= ?
"""
_SPEND: Final = (
    "UPDATE avx_idempotency SET until_us = ?, outcome = ?, problem = ? WHERE event_type = ? AND key = ? AND owner = ?"
)
_RELEASE: Final = "DELETE FROM avx_idempotency WHERE event_type = ? AND key = ? AND owner = ?"
# A few with each new key: what is over goes faster than what is new comes, and no claim waits for a long sweep.
_SWEEP: Final = (
    "DELETE FROM avx_idempotency WHERE (event_type, key) IN"
    " (SELECT event_type, key FROM avx_idempotency WHERE until_us <= ?"
    " ORDER BY until_us LIMIT 8 FOR UPDATE SKIP LOCKED)"
)


class StoreLedger:
    """Keeps entries in the table ``avx_idempotency`` of a store's database, for all processes that share it."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._is_prepared = False

    async def claim(self, place: Place, claim: Entry, *, lasts_s: float) -> Entry | None:
        """Claim a free key; see ``Ledger.claim``."""
        async with self._table() as connection:
            now_us = _now_us(self._clock)
            values = (claim.fingerprint, claim.owner, now_us + _us(lasts_s), now_us)
            while not await execute(connection, _CLAIM, *place, *values):
                row = await fetch_one(connection, _GET, *place)
                if row is not None:  # it may have been released since
                    return Entry(*row)
            await execute(connection, _SWEEP, now_us)
        return None

    async def spend(self, place: Place, spent: Entry, *, lasts_s: float) -> None:
        """Keep a result; see ``Ledger.spend``."""
        async with self._table() as connection:
            until_us = _now_us(self._clock) + _us(lasts_s)
            await execute(connection, _SPEND, until_us, spent.outcome, spent.problem, *place, spent.owner)

    async def release(self, place: Place, owner: str) -> None:
        """Free a key; see ``Ledger.release``."""
        async with self._table() as connection:
            await execute(connection, _RELEASE, *place, owner)

    @asynccontextmanager
    async def _table(self) -> AsyncGenerator[Connection, None]:
        async with self._store.transaction() as connection:
            if not self._is_prepared:
                await prepare(connection, "idempotency", _MIGRATIONS)
            yield connection
        self._is_prepared = True


def _now_us(clock: Clock) -> int:
    return clock.time_ns() // 1000


def _us(delay_s: float) -> int:
    return int(delay_s * 1_000_000)


def _until(entry: Entry, until_us: int) -> Entry:
    return msgspec.structs.replace(entry, until_us=until_us)
