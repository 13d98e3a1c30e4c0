"""A new version is built beside the one that is read, and takes its place when it has everything."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from avx_events.core.errors import (
    InvalidArgumentError,
    NotRunningError,
    ProjectionFailedError,
    ProjectionReplacedError,
)
from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.projection.checkpoints import Checkpoint
from avx_events.patterns.projection.versions import Plan, plan_for
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)


class Listed(Event, event_type="versions.listed", aggregate_id="user_id"):
    user_id: str
    name: str = "Jane"


class Users(Projection, name="users", version=1, tables=("users",)):
    """Users; what a test asks for happens before one is listed."""

    def __init__(self) -> None:
        self.before: Callable[[Listed], Any] | None = None
        self.seen: list[str] = []

    async def setup(self, connection: Connection) -> None:
        await connection.execute(
            f"CREATE TABLE {self.table('users')} (user_id TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER)"
        )
        await connection.execute(f"CREATE INDEX {self.index('users_names')} ON {self.table('users')} (name)")

    @handles(Listed)
    async def add(self, event: Listed, connection: Connection) -> None:
        if self.before is not None and (waited := self.before(event)) is not None:
            await waited
        self.seen.append(event.user_id)
        await execute(
            connection,
            f"INSERT INTO {self.table('users')} VALUES (?, ?, ?)",  # noqa: S608 - the name of a table
            event.user_id,
            event.name,
            self.version,
        )


class UsersTwo(Users, version=2):
    pass


class UsersThree(Users, version=3, tables=("users", "names")):
    async def setup(self, connection: Connection) -> None:
        await super().setup(connection)
        await connection.execute(f"CREATE TABLE {self.table('names')} (name TEXT)")


@pytest.fixture
async def store(shared_url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(shared_url) as opened:
        yield opened


async def append(store: EventStore, first: int, last: int) -> int:
    result = await store.append("s", [Listed(f"{number:04}") for number in range(first, last + 1)])
    return result.position


async def versions_read(store: EventStore) -> dict[int, int]:
    """Return how many users there are of each version that has written them."""
    return dict(await store.fetch("SELECT version, count(*) FROM users GROUP BY version"))


async def checkpoints(store: EventStore) -> list[tuple[Any, ...]]:
    return await store.fetch("SELECT version, position, stage FROM avx_projections ORDER BY version")


async def tables(store: EventStore) -> list[str]:
    async with store.transaction() as connection:
        if connection.dialect == "sqlite":
            rows = await connection.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
        else:
            rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    return sorted(name for (name,) in rows if not name.startswith(("avx_", "sqlite_")))


async def run_once(store: EventStore, projection: Projection) -> None:
    async with Projector(store, projection) as projector:
        await projector.caught_up()


def stopping_at(user_id: str, gate: asyncio.Event) -> Callable[[Listed], Any]:
    return lambda event: gate.wait() if event.user_id == user_id else None


# Building and switching


async def test_the_first_version_is_built_in_its_own_tables(store: EventStore) -> None:
    await append(store, 1, 5)

    await run_once(store, Users())

    assert await versions_read(store) == {1: 5}
    assert await checkpoints(store) == [(1, 5, "live")]
    assert await tables(store) == ["users"]


async def test_a_new_version_takes_the_place_of_the_older_one(store: EventStore) -> None:
    await append(store, 1, 5)
    await run_once(store, Users())

    await run_once(store, UsersTwo())

    assert await versions_read(store) == {2: 5}
    assert await checkpoints(store) == [(2, 5, "live")]
    assert await tables(store) == ["users"]


async def test_the_older_version_is_read_and_followed_until_the_switch(
    store: EventStore, other_store: EventStore
) -> None:
    gate, new = asyncio.Event(), UsersTwo()
    await append(store, 1, 5)
    async with Projector(store, Users()) as old_projector:
        await old_projector.caught_up()
        new.before = lambda event: pytest.fail("not yet")
        async with Projector(other_store, new, batch_events=2, retry=None) as failing:
            with pytest.raises(ProjectionFailedError, match="not yet"):
                await failing.caught_up()
        position = await append(store, 6, 8)
        await old_projector.caught_up(position)

        assert await versions_read(store) == {1: 8}
        assert await checkpoints(store) == [(1, 8, "live"), (2, 0, "beside")]
        assert await tables(store) == ["users", "users__2"]

        new.before = None
        async with Projector(other_store, new, batch_events=2) as new_projector:
            gate.set()
            await new_projector.caught_up(position)

            assert await versions_read(store) == {2: 8}
            position = await append(store, 9, 9)
            with pytest.raises(ProjectionFailedError, match="version 1 was replaced") as raised:
                await old_projector.caught_up(position)
            await new_projector.caught_up(position)

    assert isinstance(raised.value.__cause__, ProjectionReplacedError)
    assert await versions_read(store) == {2: 9}
    assert await checkpoints(store) == [(2, 9, "live")]
    assert await tables(store) == ["users"]


async def test_who_waits_for_a_version_that_is_built_waits_until_it_is_read(store: EventStore) -> None:
    await append(store, 1, 50)
    await run_once(store, Users())
    new = UsersTwo()
    async with Projector(store, new, batch_events=7) as projector:
        await projector.caught_up(1)

        assert await versions_read(store) == {2: 50}
        assert (await projector.status())["users"].state == "live"


async def test_an_older_version_may_be_started_again_while_a_newer_one_is_built(store: EventStore) -> None:
    await append(store, 1, 3)
    await run_once(store, Users())
    new = UsersTwo()
    gate = asyncio.Event()
    new.before = lambda event: gate.wait()
    async with Projector(store, new):
        pass
    assert [row[2] for row in await checkpoints(store)] == ["live", "beside"]

    await append(store, 4, 6)
    await run_once(store, Users())

    assert await versions_read(store) == {1: 6}
    assert [row[2] for row in await checkpoints(store)] == ["live", "beside"]


async def test_an_older_version_does_not_start_again_after_the_switch(store: EventStore) -> None:
    await run_once(store, Users())
    await run_once(store, UsersTwo())

    with pytest.raises(ProjectionReplacedError, match="'users' version 1 was replaced"):
        await run_once(store, Users())


async def test_a_build_goes_on_where_it_was_left(store: EventStore) -> None:
    await append(store, 1, 6)
    await run_once(store, Users())
    new, gate = UsersTwo(), asyncio.Event()
    new.before = stopping_at("0005", gate)
    async with Projector(store, new, batch_events=2) as projector:
        await until(lambda: projector.statistics()["users"].position == 4)
        new.seen.clear()
    assert await checkpoints(store) == [(1, 6, "live"), (2, 4, "beside")]

    new.before = None
    await run_once(store, new)

    assert new.seen == ["0005", "0006"]
    assert await versions_read(store) == {2: 6}


async def test_two_processes_share_the_building_of_a_version(store: EventStore, other_store: EventStore) -> None:
    position = await append(store, 1, 200)
    await run_once(store, Users())
    one, two = UsersTwo(), UsersTwo()

    async with Projector(store, one, batch_events=3) as here, Projector(other_store, two, batch_events=4) as there:
        await here.caught_up(position)
        await there.caught_up(position)
        handled = sum(projector.statistics()["users"].handled for projector in (here, there))

    assert handled == 200
    assert await versions_read(store) == {2: 200}
    assert await tables(store) == ["users"]


async def test_old_and_new_run_side_by_side_under_appends(store: EventStore, other_store: EventStore) -> None:
    await append(store, 1, 100)
    async with Projector(store, Users(), batch_events=5) as old:
        await old.caught_up()
        async with Projector(other_store, UsersTwo(), batch_events=5) as new:
            for number in range(101, 161):
                await append(store, number, number)
            await new.caught_up(timeout_s=10)

    assert await versions_read(store) == {2: 160}


async def test_a_half_built_version_that_is_not_wanted_any_more_is_removed(
    store: EventStore, other_store: EventStore
) -> None:
    await append(store, 1, 4)
    await run_once(store, Users())
    two, gate = UsersTwo(), asyncio.Event()
    two.before = stopping_at("0003", gate)
    async with Projector(other_store, two, batch_events=2) as projector:
        await until(lambda: len(two.seen) == 2)
        await until(lambda: projector.statistics()["users"].position == 2)
        gate.set()
        await run_once(store, UsersThree())
        with pytest.raises(ProjectionFailedError, match="version 2 was replaced"):
            await projector.caught_up(await append(store, 5, 5))

    assert await tables(store) == ["names", "users"]
    assert [row[0] for row in await checkpoints(store)] == [3]


async def test_a_version_older_than_the_one_that_is_being_built_is_not_begun(store: EventStore) -> None:
    await append(store, 1, 1)
    await run_once(store, Users())
    three, gate = UsersThree(), asyncio.Event()
    three.before = lambda event: gate.wait()
    async with Projector(store, three):
        pass

    with pytest.raises(ProjectionReplacedError, match="version 2"):
        await run_once(store, UsersTwo())

    assert await tables(store) == ["names__3", "users", "users__3"]


async def test_the_tables_of_the_older_version_go_whatever_they_were(store: EventStore) -> None:
    await append(store, 1, 2)
    await run_once(store, UsersThree())

    class UsersFour(Users, version=4):
        pass

    await run_once(store, UsersFour())

    assert await tables(store) == ["users"]
    assert await versions_read(store) == {4: 2}


async def test_a_version_that_names_its_tables_follows_one_that_did_not(store: EventStore) -> None:
    class Plain(Projection, name="users"):
        async def setup(self, connection: Connection) -> None:
            await connection.execute("CREATE TABLE users (user_id TEXT, name TEXT, version INTEGER)")

        @handles(Listed)
        async def add(self, event: Listed, connection: Connection) -> None:
            await execute(connection, "INSERT INTO users VALUES (?, ?, 1)", event.user_id, event.name)

    await append(store, 1, 2)
    await run_once(store, Plain())
    await run_once(store, UsersTwo())

    assert await versions_read(store) == {2: 2}
    assert await tables(store) == ["users"]


async def test_a_version_without_names_of_tables_is_built_in_place_and_that_is_logged(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(Projection, name="users", version=2):
        async def setup(self, connection: Connection) -> None:
            await connection.execute("DROP TABLE IF EXISTS users")
            await connection.execute("CREATE TABLE users (user_id TEXT, name TEXT, version INTEGER)")

        @handles(Listed)
        async def add(self, event: Listed, connection: Connection) -> None:
            await execute(connection, "INSERT INTO users VALUES (?, ?, 2)", event.user_id, event.name)

    await append(store, 1, 3)
    await run_once(store, Users())
    await run_once(store, Plain())

    assert await versions_read(store) == {2: 3}
    assert await checkpoints(store) == [(2, 3, "live")]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "version 2 is built in the place of version 1" in warning


async def test_what_stands_in_the_way_of_the_switch_leaves_the_older_version_as_it_is(store: EventStore) -> None:
    await append(store, 1, 2)
    await run_once(store, Users())
    async with store.transaction() as connection:
        await connection.execute("CREATE VIEW jane AS SELECT * FROM users WHERE name = 'Jane'")

    async with Projector(store, UsersTwo()) as projector:
        with pytest.raises(ProjectionFailedError, match=r"StatementError: .*view"):
            await projector.caught_up()

    assert await versions_read(store) == {1: 2}
    assert [row[2] for row in await checkpoints(store)] == ["live", "beside"]

    async with store.transaction() as connection:
        await connection.execute("DROP VIEW jane")
    await run_once(store, UsersTwo())
    assert await versions_read(store) == {2: 2}


async def test_a_setup_that_fails_leaves_the_older_version_as_it_is(store: EventStore) -> None:
    class Broken(Users, version=2):
        async def setup(self, connection: Connection) -> None:
            await super().setup(connection)
            raise LookupError

    await append(store, 1, 2)
    await run_once(store, Users())
    with pytest.raises(LookupError):
        await run_once(store, Broken())

    assert await tables(store) == ["users"]
    assert await checkpoints(store) == [(1, 2, "live")]


async def test_a_half_built_version_that_is_to_have_other_tables_is_begun_anew(store: EventStore) -> None:
    class Named(Users, version=2, tables=("users", "names")):
        async def setup(self, connection: Connection) -> None:
            await super().setup(connection)
            await connection.execute(f"CREATE TABLE {self.table('names')} (name TEXT)")

    await append(store, 1, 2)
    await run_once(store, Users())
    two, gate = UsersTwo(), asyncio.Event()
    two.before = lambda event: gate.wait()
    async with Projector(store, two):
        pass
    await run_once(store, Named())

    assert await tables(store) == ["names", "users"]


async def test_a_checkpoint_of_an_older_package_is_taken_over(shared_url: str) -> None:
    async with await EventStore.connect(shared_url) as store:
        position = await append(store, 1, 3)
        async with store.transaction() as connection:
            await connection.execute(
                "CREATE TABLE avx_projections (name TEXT, version BIGINT, position BIGINT, PRIMARY KEY (name, version))"
            )
            await connection.execute("INSERT INTO avx_schema VALUES ('projections', 1)")
            await connection.execute("INSERT INTO avx_projections VALUES ('users', 1, 2)")
            await connection.execute("CREATE TABLE users (user_id TEXT, name TEXT, version INTEGER)")
        users = Users()
        await run_once(store, users)

        assert users.seen == ["0003"]
        assert await checkpoints(store) == [(1, position, "live")]

        await run_once(store, UsersTwo())
        assert await versions_read(store) == {2: 3}


# Names


async def test_a_table_is_called_by_its_own_name_outside_of_handlers(store: EventStore) -> None:
    await append(store, 1, 1)
    await run_once(store, Users())
    two, gate, names = UsersTwo(), asyncio.Event(), list[str]()

    async def note(event: Listed) -> None:
        names.append(two.table("users"))
        await gate.wait()

    two.before = note
    async with Projector(store, two):
        await until(lambda: names)

        assert two.table("users") == '"users"'
        assert names == ['"users__2"']
        assert two.index("mails") == '"mails__2"'


def test_only_the_tables_of_a_projection_have_names() -> None:
    with pytest.raises(InvalidArgumentError, match="one of the projection's tables=, 'users', not 'people'"):
        Users().table("people")
    with pytest.raises(InvalidArgumentError, match="an identifier of lower-case letters"):
        Users().index("users; --")


# Deciding


def row(version: int, stage: Any, *tables: str) -> Checkpoint:
    return Checkpoint(version, 7, stage, 0, tables)


def test_a_version_is_planned_beside_what_is_read_or_in_the_place_of_all() -> None:
    older = [row(1, "live", "users"), row(2, "beside", "users", "names")]

    class Plain(Projection, name="users", version=3):
        pass

    assert plan_for(Users(), []) == Plan("building", (), ())
    assert plan_for(UsersThree(), older) == Plan("beside", (2,), ("users__2", "names__2", "users__3", "names__3"))
    assert plan_for(Plain(), older) == Plan("building", (1, 2), ("users__2", "names__2"))


# Waiting for one projection


async def test_a_projection_waits_for_itself_while_it_is_run(store: EventStore) -> None:
    users = Users()
    with pytest.raises(NotRunningError, match="a projector of 'users'"):
        await users.caught_up()
    position = await append(store, 1, 3)
    async with Projector(store, users):
        await users.caught_up(position)
        assert await versions_read(store) == {1: 3}
    with pytest.raises(NotRunningError):
        await users.caught_up(position)


async def test_who_waits_sees_what_another_process_has_done(store: EventStore, other_store: EventStore) -> None:
    gate, slow = asyncio.Event(), Users()
    slow.before = lambda event: pytest.fail("cannot")
    position = await append(store, 1, 3)
    async with Projector(store, slow, retry=None) as standing_by:
        with pytest.raises(ProjectionFailedError):
            await standing_by.caught_up(position)
        async with Projector(other_store, Users()) as working:
            await working.caught_up(position)

            await standing_by.caught_up(position)
            assert (await standing_by.status())["users"].position == position
            assert not gate.is_set()
