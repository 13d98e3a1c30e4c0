"""From one version of a projection to the next: where a new one is built, and how it takes the older one's place.

A version is built *beside* an older one where it says which tables are its own, else *in its place*. At every moment
one version is what is read: each step here is made in one transaction.

A version is built anew in the same way: its row is *set aside*, as one of version 0, and the next transaction of any
process that runs it finds that it has none, and begins it beside what was set aside, or in its place.
"""

import logging
from collections.abc import Sequence

import msgspec

from avx_events.core.errors import ProjectionReplacedError
from avx_events.patterns.projection.checkpoints import (
    MIGRATIONS,
    SET_ASIDE,
    Checkpoint,
    Stage,
    add,
    adopt,
    drop_tables,
    forget,
    go_live,
    rename_tables,
    set_aside,
    versions_of,
)
from avx_events.patterns.projection.handling import Handling, current_handling
from avx_events.patterns.projection.naming import name_beside
from avx_events.patterns.projection.projection import Projection
from avx_events.patterns.tables import prepare
from avx_events.store.ports import Connection

log = logging.getLogger("avx_events.projection")


class Plan(msgspec.Struct, frozen=True):
    """How a version is begun that has no row.

    Attributes:
        stage: Where it is built.
        replaced: The rows that go: versions in whose place it is built, and those that were half built beside.
        dropped: The tables that go, by the names that they have now.
    """

    stage: Stage
    replaced: tuple[int, ...]
    dropped: tuple[str, ...]


def plan_for(projection: Projection, older: Sequence[Checkpoint]) -> Plan:
    """Decide how to begin ``projection``, given the rows of older versions."""
    half_built = [each for each in older if each.stage == "beside"]
    dropped = [name_beside(table, each.version) for each in half_built for table in each.tables]
    if not older or not projection.tables:
        return Plan("building", tuple(each.version for each in older), tuple(dropped))
    # Nobody's but this version's, as they carry its number: left by a build whose row somebody has removed.
    dropped += [name_beside(table, projection.version) for table in projection.tables]
    return Plan("beside", tuple(each.version for each in half_built), tuple(dropped))


async def begin(connection: Connection, projection: Projection, *, last_position: int) -> Checkpoint:
    """Return the checkpoint of ``projection``; a version that is new is set up.

    Args:
        connection: A transaction of its own.
        projection: Which.
        last_position: The end of the log, as it was a moment ago.

    Raises:
        ProjectionReplacedError: A newer version is there, or is to be built anew, or is being built in the place of the
            older ones.
        StoreSchemaError: The table is of a newer version of this package.
        Exception: What ``setup`` raised.
    """
    await prepare(connection, "projections", MIGRATIONS)
    found = await versions_of(connection, projection.name)
    own = next((each for each in found if each.version == projection.version), None)
    newer = [each for each in found if each.made_by > projection.version]
    if any(own is None or each.stage != "beside" for each in newer):
        raise ProjectionReplacedError(projection.name, version=projection.version)
    if own is not None and own.stage == "beside" and own.tables != projection.tables:
        await _discard(connection, projection, own)  # what it was to be has changed
        found.remove(own)
        own = None
    if own is not None:
        return await _completed(connection, projection, own, last_position)
    return await _built(connection, projection, found, last_position)


async def rebuild(connection: Connection, name: str) -> bool:
    """Have the projection ``name`` built anew from the first event, by whoever runs it or will; False if there is none.

    A version that is being built beside another begins again; else it is the version that is read. Where it has
    ``tables=`` those are read until the new ones have caught up, as they were; else it is built in their place.

    Args:
        connection: A transaction of its own.
        name: Which.

    Raises:
        StoreSchemaError: The table is of a newer version of this package.
    """
    await prepare(connection, "projections", MIGRATIONS)
    found = await versions_of(connection, name)
    half_built = [each for each in found if each.stage == "beside"]
    for each in half_built:  # begun anew, it removes its own tables first
        await forget(connection, name, each.version)
    if not half_built and found and found[-1].version != SET_ASIDE:
        await set_aside(connection, name, found[-1].version)
    return bool(found)


async def has_settled(
    connection: Connection, projection: Projection, found: Sequence[Checkpoint], *, position: int
) -> bool:
    """Make ``projection`` the version that is read, if it is time; return whether it is.

    Args:
        connection: The transaction that has locked ``found`` and moved the projection to ``position``.
        projection: Which, at a stage before ``live``.
        found: Its checkpoint, after those of older versions where it is built beside them.
        position: Up to there it has everything.
    """
    own = found[-1]
    if own.stage == "building" and position < own.replays_until:
        return False
    if own.stage == "beside":
        older = found[:-1]
        if any(each.position > position for each in older):  # who reads would see less than before
            return False
        await _take_place(connection, projection, older)
    await go_live(connection, projection)
    return True


async def _take_place(connection: Connection, projection: Projection, older: Sequence[Checkpoint]) -> None:
    names = [*projection.tables, *(name for each in older for name in each.tables)]
    await drop_tables(connection, dict.fromkeys(names))
    await rename_tables(connection, projection)
    for each in older:
        await forget(connection, projection.name, each.version)
    log.info("projection %r version %d takes the place of what was read", projection.name, projection.version)


async def _built(
    connection: Connection, projection: Projection, older: Sequence[Checkpoint], last_position: int
) -> Checkpoint:
    plan = plan_for(projection, older)
    await drop_tables(connection, plan.dropped)
    for version in plan.replaced:
        await forget(connection, projection.name, version)
    before = next((each for each in older if each.version == SET_ASIDE), None)
    build = 0 if before is None else 1 - before.build
    handling = Handling(projection, is_beside=plan.stage == "beside", goal=last_position, build=build)
    token = current_handling.set(handling)
    try:
        await projection.setup(connection)
    finally:
        current_handling.reset(token)
        handling.is_open = False
    stage: Stage = "live" if plan.stage == "building" and not last_position else plan.stage  # at the end already
    is_paused = any(each.is_paused for each in older)
    begun = Checkpoint(projection.version, 0, stage, last_position, projection.tables, is_paused, build)
    await add(connection, projection, begun)
    _log_begin(projection, plan)
    return begun


async def _completed(connection: Connection, projection: Projection, own: Checkpoint, last_position: int) -> Checkpoint:
    goal = last_position if own.goal is None else own.goal
    if own.goal is None or own.tables != projection.tables:
        await adopt(connection, projection, goal=goal)
    return msgspec.structs.replace(own, goal=goal, tables=projection.tables)


async def _discard(connection: Connection, projection: Projection, half_built: Checkpoint) -> None:
    await drop_tables(connection, [name_beside(table, half_built.version) for table in half_built.tables])
    await forget(connection, projection.name, half_built.version)


def _log_begin(projection: Projection, plan: Plan) -> None:
    name, version = projection.name, projection.version
    if plan.stage == "beside":
        log.info("projection %r version %d is built beside the one that is read", name, version)
    elif plan.replaced:
        log.warning(
            "projection %r version %d is built in the place of %s, and incomplete until it has caught up; "
            "with tables= it would be built beside it",
            name,
            version,
            ", ".join("what it was" if each == SET_ASIDE else f"version {each}" for each in plan.replaced),
        )
