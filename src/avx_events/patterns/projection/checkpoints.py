"""How far each version of each projection is, in the table ``avx_projections``: moved in the caller's transaction.

| stage | what it says of a version |
|---|---|
| ``building`` | it has not come to the end of the log yet, and there is no other to read |
| ``beside`` | likewise, while an older one is read: its tables have names of their own |
| ``live`` | it has once come to the end of the log, and is what is read |

Version 0 is a version that is to be built anew: the row as it was, of what is read until that has caught up.

A row is locked by whoever reads it in a transaction, so that of two processes one finds what the other has done.
PostgreSQL undoes the transaction of a process that stands still in it, as one that is stopped or cut off: else its row
stayed locked, and nobody could handle events, pause or build anew.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from avx_events.core.errors import ProjectionReplacedError
from avx_events.patterns.projection.naming import name_beside, quoted
from avx_events.patterns.projection.projection import Projection
from avx_events.patterns.tables import execute, fetch, in_dialect
from avx_events.store.ports import Connection

Stage: TypeAlias = Literal["building", "beside", "live"]

MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """
        CREATE TABLE avx_projections (
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (name, version)
        ) WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE avx_projections ADD COLUMN stage TEXT NOT NULL DEFAULT 'building'",
        "ALTER TABLE avx_projections ADD COLUMN goal INTEGER",
        "ALTER TABLE avx_projections ADD COLUMN tables TEXT NOT NULL DEFAULT '[]'",
        """
        CREATE TABLE avx_projection_letters (
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            letter_id TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (name, version, letter_id)
        ) WITHOUT ROWID
        """,
    ),
    ("ALTER TABLE avx_projections ADD COLUMN paused INTEGER NOT NULL DEFAULT 0",),
    ("ALTER TABLE avx_projections ADD COLUMN build INTEGER NOT NULL DEFAULT 0",),
    ("ALTER TABLE avx_projections ADD COLUMN was INTEGER NOT NULL DEFAULT 0",),
)

SET_ASIDE: Final = 0
"""The version of a row whose own version is to be built anew."""

_COLUMNS: Final = "SELECT version, position, stage, goal, tables, paused, build, was FROM avx_projections"
_ALL: Final = f"{_COLUMNS} WHERE name = ? ORDER BY version FOR UPDATE"
_ONE: Final = f"{_COLUMNS} WHERE name = ? AND version = ? FOR UPDATE"
_IDLE: Final = "set_config('idle_in_transaction_session_timeout', ?, true)"
_MOST_IDLE_MS: Final = 2**31 - 1
_ONE_WATCHED: Final = _ONE.replace(" FROM ", f", {_IDLE} FROM ")  # in one round trip
SEEN: Final = f"{_COLUMNS} WHERE name = ? ORDER BY version"
"""Of a name, outside of any transaction: nothing is locked."""

_BEGIN: Final = (
    "INSERT INTO avx_projections (name, version, position, stage, goal, tables, paused, build)"
    " VALUES (?, ?, 0, ?, ?, ?, ?, ?)"
)
_ADOPT: Final = "UPDATE avx_projections SET goal = ?, tables = ? WHERE name = ? AND version = ?"
_MOVE: Final = "UPDATE avx_projections SET position = ? WHERE name = ? AND version = ?"
_PAUSE: Final = "UPDATE avx_projections SET paused = ? WHERE name = ?"
_RENUMBER: Final = "UPDATE avx_projections SET version = ?, was = version WHERE name = ? AND version = ?"
_RENUMBER_LETTERS: Final = "UPDATE avx_projection_letters SET version = ? WHERE name = ? AND version = ?"
_GO_LIVE: Final = "UPDATE avx_projections SET stage = 'live' WHERE name = ? AND version = ?"
_FORGET: Final = "DELETE FROM avx_projections WHERE name = ? AND version = ?"
_FORGET_LETTERS: Final = "DELETE FROM avx_projection_letters WHERE name = ? AND version = ?"
_LEAVE_OUT: Final = "INSERT INTO avx_projection_letters (name, version, letter_id, position) VALUES (?, ?, ?, ?)"
_MAKE_UP: Final = "DELETE FROM avx_projection_letters WHERE name = ? AND version = ? AND letter_id = ?"
LETTER: Final = "SELECT version, position FROM avx_projection_letters WHERE name = ? AND letter_id = ?"
"""Of a dead letter, outside of any transaction: no row where its event has had its effect, or was built anew."""

_encode: Final = msgspec.json.encode
_decode: Final = msgspec.json.Decoder(tuple[str, ...]).decode


class Checkpoint(msgspec.Struct, frozen=True):
    """A row: how far one version is.

    Attributes:
        version: The projection's version.
        position: Up to there its tables have everything.
        stage: See the table above.
        goal: The end of the log when it was begun: what lies before is history to it. None where an older package,
            which did not say, has begun it.
        tables: The tables that it said are its own.
        is_paused: Whether nobody is to handle events for it.
        build: Changes between 0 and 1 with each time that it is built anew, for the names of its indexes.
        was: Which version it was until it was set aside; 0 where it was not, or an older package has done it.
    """

    version: int
    position: int
    stage: Stage
    goal: int | None
    tables: tuple[str, ...]
    is_paused: bool = False
    build: int = 0
    was: int = 0

    @property
    def made_by(self) -> int:
        """The version whose code has made its tables; 0 where that is not known."""
        return self.version or self.was

    @property
    def replays_until(self) -> int:
        """Up to which position events are history."""
        return 0 if self.stage == "live" else self.goal or 0


async def versions_of(connection: Connection, name: str) -> list[Checkpoint]:
    """Return the rows of all versions of the projection ``name``, oldest first, locked."""
    return [checkpoint(row) for row in await fetch(connection, _ALL, name)]


async def undo_where_idle(connection: Connection, idle_s: float) -> None:
    """Have the database undo the transaction of ``connection`` where its process stands still for so many seconds."""
    if connection.dialect == "postgresql":
        await fetch(connection, f"SELECT {_IDLE}", _milliseconds(idle_s))


async def current(
    connection: Connection, projection: Projection, *, idle_s: float, with_older: bool = False
) -> list[Checkpoint]:
    """Return the row of ``projection``, locked; after those of older versions where they are asked for.

    Whoever locks several rows locks the oldest first, so that no two wait for each other.

    Args:
        connection: The transaction.
        projection: Whose row.
        idle_s: See ``undo_where_idle``.
        with_older: Whether those of older versions are asked for.

    Raises:
        ProjectionReplacedError: It has none any more.
    """
    name, version = projection.name, projection.version
    if with_older:
        await undo_where_idle(connection, idle_s)
        found = [each for each in await versions_of(connection, name) if each.version <= version]
    elif connection.dialect == "postgresql":
        rows = await fetch(connection, _ONE_WATCHED, _milliseconds(idle_s), name, version)
        found = [checkpoint(row[:-1]) for row in rows]
    else:
        found = [checkpoint(row) for row in await fetch(connection, _ONE, name, version)]
    if not found or found[-1].version != version:
        raise ProjectionReplacedError(name, version=version)
    return found


def checkpoint(row: tuple[Any, ...]) -> Checkpoint:
    """Return the checkpoint that a row of ``SEEN`` is."""
    version, position, stage, goal, tables, paused, build, was = row
    return Checkpoint(version, position, stage, goal, _decode(tables), bool(paused), build, was)


def _milliseconds(seconds: float) -> str:
    return f"{math.ceil(min(seconds * 1000, _MOST_IDLE_MS))}"


async def add(connection: Connection, projection: Projection, begun: Checkpoint) -> None:
    """Make the row of ``projection``, at the beginning of the log."""
    values = begun.stage, begun.goal, _encode(begun.tables).decode(), int(begun.is_paused), begun.build
    await execute(connection, _BEGIN, projection.name, begun.version, *values)


async def adopt(connection: Connection, projection: Projection, *, goal: int) -> None:
    """Add to the row of ``projection`` what was not known when it was made."""
    await execute(connection, _ADOPT, goal, _encode(projection.tables).decode(), projection.name, projection.version)


async def move(connection: Connection, projection: Projection, position: int) -> None:
    """Say that ``projection`` is at ``position``."""
    await connection.execute_later(in_dialect(_MOVE, connection.dialect), position, projection.name, projection.version)


async def go_live(connection: Connection, projection: Projection) -> None:
    """Say that ``projection`` is what is read."""
    await execute(connection, _GO_LIVE, projection.name, projection.version)


async def forget(connection: Connection, name: str, version: int) -> None:
    """Remove the row of a version, and what is kept with it; its tables stay."""
    await execute(connection, _FORGET, name, version)
    await execute(connection, _FORGET_LETTERS, name, version)


async def set_aside(connection: Connection, name: str, version: int) -> None:
    """Let the row of a version be one of version 0, and what is kept with it too; its tables stay."""
    await execute(connection, _RENUMBER, SET_ASIDE, name, version)
    await execute(connection, _RENUMBER_LETTERS, SET_ASIDE, name, version)


async def leave_out(connection: Connection, projection: Projection, position: int, letter_id: str) -> None:
    """Say that the event at ``position`` has had no effect, and that the dead letter ``letter_id`` is about it."""
    await execute(connection, _LEAVE_OUT, projection.name, projection.version, letter_id, position)


async def make_up(connection: Connection, projection: Projection, letter_id: str) -> bool:
    """Say that the event of the dead letter has its effect now; False where it has had it, or was built anew."""
    return bool(await execute(connection, _MAKE_UP, projection.name, projection.version, letter_id))


async def set_paused(connection: Connection, name: str, *, is_paused: bool) -> int:
    """Pause all versions of the projection ``name``, or resume them; return how many there are.

    It is committed with the caller's transaction, before or after the one in which a projector handles events: none is
    cut short. Projectors of all processes obey, also those that start later, until it is resumed.
    """
    await versions_of(connection, name)  # locked the oldest first, which the database does not do by itself
    return await execute(connection, _PAUSE, int(is_paused), name)


async def drop_tables(connection: Connection, names: Iterable[str]) -> None:
    """Drop those of the tables that are there."""
    wanted = [quoted(name) for name in names]
    if not wanted:
        return
    if connection.dialect == "postgresql":  # together, as some may refer to others
        await connection.execute(f"DROP TABLE IF EXISTS {', '.join(wanted)}")
        return
    for name in wanted:
        await connection.execute(f"DROP TABLE IF EXISTS {name}")


async def rename_tables(connection: Connection, projection: Projection) -> None:
    """Give the tables of ``projection``, built beside another version, the names under which they are read."""
    for name in projection.tables:
        beside = quoted(name_beside(name, projection.version))
        await connection.execute(f"ALTER TABLE {beside} RENAME TO {quoted(name)}")
