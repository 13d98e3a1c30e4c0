"""What the store's database knows of a consumer: its lanes, how far each is, who holds it, and who is there to.

| table | a row |
|---|---|
| ``avx_log_consumers`` | a handler of a group: how many lanes it has, after which position it began |
| ``avx_log_members`` | a process that runs the handler: until when it counts as alive |
| ``avx_log_lanes`` | a lane: who holds it, how often it was taken (``token``), how far it is (``position``, in JSON) |

A lane is free where its member is empty, or is in no row of the members that are alive. Whoever takes it raises its
token; from then on nothing that the one before writes is accepted. Instants are the database's own time, or that of the
one machine that has the file.
"""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

import msgspec

from avx_events.bus.remote import position as positions
from avx_events.bus.remote.position import Position
from avx_events.core.clock import Clock
from avx_events.core.errors import LanesMismatchError, StoreSchemaError
from avx_events.patterns.shared_time import end_when_idle, shared_now_us
from avx_events.patterns.tables import execute, fetch, fetch_one, in_dialect, prepare
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection, Dialect

_TABLES: Final[Sequence[Sequence[str]]] = (
    (
        """
        CREATE TABLE avx_log_consumers (
            group_name TEXT NOT NULL,
            handler TEXT NOT NULL,
            lanes INTEGER NOT NULL,
            began_after INTEGER NOT NULL,
            PRIMARY KEY (group_name, handler)
        )
        """,
        """
        CREATE TABLE avx_log_members (
            group_name TEXT NOT NULL,
            handler TEXT NOT NULL,
            member TEXT NOT NULL,
            until_us INTEGER NOT NULL,
            PRIMARY KEY (group_name, handler, member)
        )
        """,
        """
        CREATE TABLE avx_log_lanes (
            group_name TEXT NOT NULL,
            handler TEXT NOT NULL,
            lane INTEGER NOT NULL,
            member TEXT NOT NULL,
            token INTEGER NOT NULL,
            position TEXT NOT NULL,
            PRIMARY KEY (group_name, handler, lane)
        )
        """,
    ),
)
_ADD_CONSUMER: Final = (
    "INSERT INTO avx_log_consumers (group_name, handler, lanes, began_after) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (group_name, handler) DO NOTHING"
)
_ADD_LANE: Final = (
    "INSERT INTO avx_log_lanes (group_name, handler, lane, member, token, position) VALUES (?, ?, ?, '', 0, ?)"
)
_COUNT: Final = "SELECT lanes FROM avx_log_consumers WHERE group_name = ? AND handler = ?"
_LOCK: Final = _COUNT + " FOR UPDATE"
_BEAT: Final = (
    "INSERT INTO avx_log_members (group_name, handler, member, until_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (group_name, handler, member) DO UPDATE SET until_us = excluded.until_us"
)
_BURY: Final = "DELETE FROM avx_log_members WHERE group_name = ? AND handler = ? AND until_us <= ?"
_LEAVE: Final = "DELETE FROM avx_log_members WHERE group_name = ? AND handler = ? AND member = ?"
_MEMBERS: Final = "SELECT member, until_us FROM avx_log_members WHERE group_name = ? AND handler = ?"
_HOLDERS: Final = "SELECT lane, member, token FROM avx_log_lanes WHERE group_name = ? AND handler = ?"
_TAKE: Final = (
    "UPDATE avx_log_lanes SET member = ?, token = token + 1 WHERE group_name = ? AND handler = ? AND lane = ?"
)
_TAKEN: Final = "SELECT lane, token, position FROM avx_log_lanes WHERE group_name = ? AND handler = ? AND member = ?"
_SAVE: Final = "UPDATE avx_log_lanes SET position = ? WHERE group_name = ? AND handler = ? AND lane = ? AND token = ?"
_RELEASE: Final = (
    "UPDATE avx_log_lanes SET position = ?, member = '' WHERE group_name = ? AND handler = ? AND lane = ? AND token = ?"
)
_FREE: Final = "UPDATE avx_log_lanes SET member = '' WHERE group_name = ? AND handler = ? AND lane = ? AND member = ?"

_lane = attrgetter("lane")

_IDLE_IN_A_LEASE: Final = 3
"""A transaction of a process that stands still ends before the leases of those who wait for it."""

Holder: TypeAlias = tuple[str, int]
"""A member, and the token of its lane."""


class SavedLane(NamedTuple):
    """How far a lane is, as its holder writes it.

    Attributes:
        lane: Which.
        token: What it was taken with.
        position: How far it is.
        is_released: Whether nobody holds it from then on.
    """

    lane: int
    token: int
    position: Position
    is_released: bool = False


class TakenLane(NamedTuple):
    """A lane as it was when it was taken."""

    token: int
    position: Position


class Standing(msgspec.Struct):
    """Who is there, and who holds what.

    Attributes:
        members: Until when each counts as alive, in Unix microseconds.
        holders: Who holds each lane.
    """

    members: dict[str, int]
    holders: dict[int, Holder]

    def others(self, member: str) -> dict[str, list[int]]:
        """Return the lanes of every other member."""
        found: dict[str, list[int]] = {name: [] for name in self.members if name != member}
        for lane, (holder, _) in self.holders.items():
            if holder in found:
                found[holder].append(lane)
        return found

    def is_as(self, other: "Standing") -> bool:
        """Tell whether the same members hold the same lanes."""
        return self.members.keys() == other.members.keys() and self.holders == other.holders


class Rows:
    """The rows of one consumer."""

    def __init__(self, store: EventStore, *, group: str, handler: str, lanes: int, clock: Clock) -> None:
        """Touch nothing yet.

        Args:
            store: Whose database it is.
            group: The group.
            handler: The name of the handler.
            lanes: How many lanes it has.
            clock: Time, where the database has none of its own.
        """
        self._store: Final = store
        self._consumer: Final = (group, handler)
        self._lanes: Final = lanes
        self._clock: Final = clock
        self._dialect: Dialect = "sqlite"

    async def begin(self, after: int) -> None:
        """Have the consumer there; one that is new begins after this position.

        Raises:
            LanesMismatchError: It has another number of lanes.
            AvxEventsError: As ``EventStore.transaction``.
        """
        async with self._store.transaction() as connection:
            self._dialect = connection.dialect
            await make_tables(connection)
            if await execute(connection, _ADD_CONSUMER, *self._consumer, self._lanes, after):
                await self._add_lanes(connection, after)
                return
            there = await fetch_one(connection, _COUNT, *self._consumer)
        if there is not None and there[0] != self._lanes:
            group, handler = self._consumer
            raise LanesMismatchError(group, handler, here=self._lanes, there=there[0])

    @asynccontextmanager
    async def changing(self, *, lease_s: float) -> AsyncGenerator[Connection, None]:
        """Give a transaction in which no other member changes who holds what.

        Raises:
            StoreSchemaError: Somebody has removed the consumer.
            AvxEventsError: As ``EventStore.transaction``.
        """
        async with self._store.transaction() as connection:
            await end_when_idle(connection, after_s=lease_s / _IDLE_IN_A_LEASE)
            if await fetch_one(connection, _LOCK, *self._consumer) is None:
                problem = f"the rows of handler {self._consumer[1]!r} were removed; start its bus again"
                raise StoreSchemaError("the store's database", problem)
            yield connection

    async def beat(self, connection: Connection, member: str, *, lease_s: float) -> tuple[Standing, int]:
        """Let ``member`` count as alive for ``lease_s`` seconds; return who is there then, and what time it is."""
        now_us = await shared_now_us(connection, self._clock)
        await execute(connection, _BEAT, *self._consumer, member, now_us + int(lease_s * 1_000_000))
        await execute(connection, _BURY, *self._consumer, now_us)
        members = await fetch(connection, _MEMBERS, *self._consumer)
        holders = await fetch(connection, _HOLDERS, *self._consumer)
        return _standing(members, holders), now_us

    async def take(self, connection: Connection, member: str, lanes: Collection[int]) -> Mapping[int, TakenLane]:
        """Have ``member`` hold ``lanes``, and return how far each is."""
        for lane in sorted(lanes):
            await execute(connection, _TAKE, member, *self._consumer, lane)
        # Only now: whoever held one may have written a last time until then.
        rows = await fetch(connection, _TAKEN, *self._consumer, member) if lanes else []
        return {lane: TakenLane(token, _position(text)) for lane, token, text in rows if lane in lanes}

    async def free(self, connection: Connection, member: str, lanes: Iterable[int]) -> None:
        """Let others take what ``member`` does not use; what it had begun there it may still finish until they do."""
        for lane in sorted(lanes):
            await execute(connection, _FREE, *self._consumer, lane, member)

    async def look(self) -> Standing:
        """Return who is there, and who holds what.

        Raises:
            AvxEventsError: As ``EventStore.fetch``.
        """
        members = await self._store.fetch(in_dialect(_MEMBERS, self._dialect), *self._consumer)
        holders = await self._store.fetch(in_dialect(_HOLDERS, self._dialect), *self._consumer)
        return _standing(members, holders)

    async def save(
        self, saved: Iterable[SavedLane], *, lease_s: float, leaving: str | None = None
    ) -> Sequence[SavedLane]:
        """Write how far lanes are, all in one transaction; ``leaving`` is a member that is none any more.

        Returns:
            Those that another member has taken meanwhile, of which nothing was written.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        taken_away: list[SavedLane] = []
        async with self._store.transaction() as connection:
            await end_when_idle(connection, after_s=lease_s / _IDLE_IN_A_LEASE)
            for one in sorted(saved, key=_lane):  # all in one order, so that no two wait for each other
                sql, text = _RELEASE if one.is_released else _SAVE, positions.encode(one.position).decode()
                if not await execute(connection, sql, text, *self._consumer, one.lane, one.token):
                    taken_away.append(one)
            if leaving is not None:
                await execute(connection, _LEAVE, *self._consumer, leaving)
        return taken_away

    async def _add_lanes(self, connection: Connection, after: int) -> None:
        text = positions.encode(Position(done=after, given=after)).decode()
        for lane in range(self._lanes):
            await execute(connection, _ADD_LANE, *self._consumer, lane, text)


async def make_tables(connection: Connection) -> None:
    """Have the tables there.

    Raises:
        StoreSchemaError: They are of a newer version.
    """
    await prepare(connection, "log bus", _TABLES)


def _standing(members: Iterable[tuple[str, int]], holders: Iterable[tuple[int, str, int]]) -> Standing:
    return Standing(dict(members), {lane: (member, token) for lane, member, token in holders})


def _position(text: str) -> Position:
    return positions.decode(text.encode()) or Position()
