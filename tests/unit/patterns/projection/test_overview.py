"""The projections of a store, looked at from outside: without their code, and whatever is in the log."""

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
