"""The projections of a store, looked at from outside: without their code, and whatever is in the log."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.projection.overview import Overview
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

pytestmark = pytest.mark.timeout(30)


class Seen(Event, event_type="overview.seen"):
    number: int


class Sights(Projection, name="sights"):
    @handles(Seen)
    async def see(self, event: Seen, connection: Connection) -> None:
        """Keep nothing."""


@pytest.fixture
async def store(shared_url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(shared_url) as opened:
        yield opened


async def see(store: EventStore, *numbers: int) -> None:
    await store.append("s", [Seen(number) for number in numbers])


@pytest.mark.parametrize(
    ("column", "value"),
    [pytest.param("event_type", "nobody.knows", id="type"), pytest.param("data", b'{"number": "no"}', id="data")],
)
async def test_it_is_told_and_steered_where_the_next_event_cannot_be_read(
    store: EventStore, column: str, value: Any
) -> None:
    await see(store, 1)
    async with Projector(store, Sights()) as projector:
        await projector.caught_up()
    await see(store, 2)
    async with store.transaction() as connection:
        statement = f"UPDATE avx_events SET {column} = ? WHERE position = 2"  # noqa: S608 - one of two columns
        await execute(connection, statement, value)
    overview = Overview(store)

    await overview.pause("sights")
    await overview.rebuild("sights")
    [known] = await overview.of("sights")

    assert (known.version, known.paused, known.lag_events) == (0, True, 1)
    assert 0 <= known.lag_seconds < (datetime.now(UTC) - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds()


async def another_waits(connection: Connection) -> None:
    """Return once a transaction waits for this one, or for another."""
    async with asyncio.timeout(10):
        while not await connection.fetch("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - of a database
            await asyncio.sleep(0.01)


@pytest.mark.live
async def test_who_pauses_locks_the_oldest_version_first_as_all_do(postgres_database: str) -> None:
    async with (
        await EventStore.connect(postgres_database) as store,
        await EventStore.connect(postgres_database) as other_store,
    ):
        async with Projector(store, Sights()) as projector:
            await projector.caught_up()
        async with store.transaction() as connection:  # the older one behind the newer one in the table
            await connection.execute("INSERT INTO avx_projections SELECT name, 0, position FROM avx_projections")

        async with asyncio.TaskGroup() as tasks, store.transaction() as connection:
            await connection.fetch("SELECT 1 FROM avx_projections WHERE version = 0 FOR UPDATE")
            tasks.create_task(Overview(other_store).pause("sights"))
            await another_waits(connection)
            await connection.fetch("SELECT 1 FROM avx_projections WHERE version = 1 FOR UPDATE")

        assert await store.fetch("SELECT paused FROM avx_projections") == [(1,), (1,)]
