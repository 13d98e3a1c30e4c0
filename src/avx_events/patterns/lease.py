"""Who of those that run one relay, or one process manager, is the active one: a lease in the table ``avx_relays``.

| state of a lease | its row |
|---|---|
| free | ``until_us`` is past |
| held | ``owner`` is who holds it, ``until_us`` is ahead |

Instants in the row are the database's own time, or that of the one machine that has the file. The holder itself counts
from before it asked, by clocks of its own: what it believes to hold, nobody else can have.

See docs/decisions/0029-a-relay-publishes-key-by-key.md.
"""

from collections.abc import Sequence
from logging import Logger
from typing import Final, TypeAlias

from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError
from avx_events.core.ids import new_id
from avx_events.patterns.pause import pause
from avx_events.patterns.shared_time import end_when_idle, shared_now_us
from avx_events.patterns.tables import execute, fetch_one, prepare
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

Instant: TypeAlias = tuple[float, int]
"""Seconds that never go back, and the time of day in nanoseconds, which goes on while a machine sleeps."""

RENEWALS_IN_A_LEASE: Final = 3
"""How often a holder renews it, and who waits asks for it, in the time that it lasts."""

# Bears to be repeated: a program may have made the table by hand.
_TABLES: Final[Sequence[Sequence[str]]] = (
    (
        """
        CREATE TABLE IF NOT EXISTS avx_relays (
            name TEXT NOT NULL PRIMARY KEY,
            owner TEXT NOT NULL,
            until_us INTEGER NOT NULL,
            position INTEGER NOT NULL
        )
        """,
    ),
)
_ENTER: Final = (
    "INSERT INTO avx_relays (name, owner, until_us, position) VALUES (?, '', 0, ?) ON CONFLICT (name) DO NOTHING"
)
_TAKE: Final = "UPDATE avx_relays SET owner = ?, until_us = ? WHERE name = ? AND (owner = ? OR until_us <= ?)"
_RENEW: Final = "UPDATE avx_relays SET until_us = ? WHERE name = ? AND owner = ?"
_MOVE: Final = "UPDATE avx_relays SET position = ? WHERE name = ? AND owner = ?"
_FREE: Final = "UPDATE avx_relays SET until_us = 0 WHERE name = ? AND owner = ?"
_POSITION: Final = "SELECT position FROM avx_relays WHERE name = ?"
_NEVER: Final[Instant] = (float("-inf"), 0)


class LeaseLostError(Exception):
    """Another process may be the active one now. Nobody outside of who holds leases sees it."""


class Lease:
    """One lease, as one process sees it."""

    def __init__(self, store: EventStore, name: str, *, lease_s: float, clock: Clock) -> None:
        """Hold nothing yet.

        Args:
            store: Whose database has the row.
            name: Of the row.
            lease_s: How many seconds a lease lasts from its last renewal.
            clock: Time.
        """
        self.name: Final = name
        self.lease_s: Final = lease_s
        self._store: Final = store
        self._clock: Final = clock
        self._owner: Final = new_id(clock.time_ns())
        self._until: Instant = _NEVER

    @property
    def is_held(self) -> bool:
        """Whether nobody else can hold it now."""
        until_s, until_ns = self._until
        return self._clock.monotonic() < until_s and self._clock.time_ns() < until_ns

    @property
    def left_s(self) -> float:
        """How many seconds it is still held."""
        return max(self._until[0] - self._clock.monotonic(), 0.0)

    async def enter(self, connection: Connection, *, position: int) -> None:
        """Make the table, and a row in it, at ``position`` where it is a new one."""
        await prepare(connection, "relays", _TABLES)
        await execute(connection, _ENTER, self.name, position)

    async def take(self) -> int | None:
        """Hold it if nobody else does, and return the position kept in it; None where somebody does.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        before = self.instant()
        async with self._store.transaction() as connection:
            await end_when_idle(connection, after_s=self.lease_s)
            now_us = await shared_now_us(connection, self._clock)
            until_us = now_us + int(self.lease_s * 1_000_000)
            taken = await execute(connection, _TAKE, self._owner, until_us, self.name, self._owner, now_us)
            position = await self.position(connection)
        if not taken:
            return None
        self.extend(before)
        return position

    async def obtain(self, trouble: Trouble) -> int | None:
        """Hold it as soon as nobody else does, and return the position kept in it; None where the store is closed.

        Args:
            trouble: Says so, and waits, where the store is away.
        """
        attempt = 1
        while True:
            try:
                position = await self.take()
            except ClosedError:
                return None
            except AvxEventsError as exc:
                attempt += 1
                await trouble.wait(exc, attempt)
                continue
            attempt = 1
            trouble.end()
            if position is not None:
                return position
            await pause(self._clock, self.lease_s / RENEWALS_IN_A_LEASE)

    async def give_up(self, whose: str, log: Logger) -> None:
        """Let somebody else take it at once, where it is held; where that fails, ``log`` hears ``whose`` it was."""
        if not self.is_held:
            return
        try:
            async with self._store.transaction() as connection:
                await self.free(connection)
        except AvxEventsError as exc:
            log.warning("%s: others wait for the end of its lease: %s", whose, exc)

    def instant(self) -> Instant:
        """Return the time now, to count a renewal from that is about to be asked for."""
        return self._clock.monotonic(), self._clock.time_ns()

    async def renew(self, connection: Connection) -> bool:
        """Write down that it is held for ``lease_s`` seconds more; False where another one has taken it."""
        await end_when_idle(connection, after_s=self.lease_s)
        now_us = await shared_now_us(connection, self._clock)
        until_us = now_us + int(self.lease_s * 1_000_000)
        return await execute(connection, _RENEW, until_us, self.name, self._owner) == 1

    def extend(self, before: Instant) -> None:
        """Count on a renewal that is committed, and was asked for at the instant ``before``."""
        self._until = (before[0] + self.lease_s, before[1] + int(self.lease_s * 1e9))

    async def move(self, connection: Connection, position: int) -> None:
        """Keep ``position`` in its row, as long as that is this one's."""
        await execute(connection, _MOVE, position, self.name, self._owner)

    async def free(self, connection: Connection) -> None:
        """Let somebody else take it at once."""
        self.lose()
        await execute(connection, _FREE, self.name, self._owner)

    def lose(self) -> None:
        """Count on it no more."""
        self._until = _NEVER

    async def position(self, connection: Connection) -> int:
        """Return the position kept in its row, whoever holds it."""
        row = await fetch_one(connection, _POSITION, self.name)
        return 0 if row is None else int(row[0])
