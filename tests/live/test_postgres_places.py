"""Where a store may be: schemas beside each other, users with few rights, and places where there can be none."""

import pytest

from avx_events.core.errors import StoreRefusedError, StoreSchemaError
from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from tests.live.postgres_asking import asked

pytestmark = pytest.mark.live


class Noted(Event, event_type="places.noted"):
    number: int


async def numbers(store: EventStore) -> list[int]:
    return [stored.event.number async for stored in store.read_all()]


async def test_a_store_in_a_schema_is_not_the_one_in_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with (
        await EventStore.connect(postgres_database) as public,
        await EventStore.connect(f"{postgres_database}?schema=tenant") as tenant,
    ):
        await public.append("a", Noted(1), expected_version=0)

        await tenant.append("a", [Noted(2), Noted(3)], expected_version=0)

        assert (await numbers(public), await numbers(tenant)) == ([1], [2, 3])
    assert await asked(postgres_database, "SELECT count(*) FROM tenant.avx_events") == [(2,)]


async def test_a_store_whose_schema_is_dropped_does_not_go_on_in_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with (
        await EventStore.connect(postgres_database) as public,
        await EventStore.connect(f"{postgres_database}?schema=tenant") as tenant,
    ):
        await asked(postgres_database, "DROP SCHEMA tenant CASCADE")

        with pytest.raises(StoreSchemaError, match="avx_"):
            await tenant.append("a", Noted(1))
        with pytest.raises(StoreSchemaError, match="avx_"):
            await tenant.last_position()

        assert await public.last_position() == 0


async def test_queries_of_the_stores_user_find_the_tables_of_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant", "CREATE TABLE users AS SELECT 'ann' AS name")
    async with await EventStore.connect(f"{postgres_database}?schema=tenant") as store:
        assert await store.fetch("SELECT name FROM users") == [("ann",)]
        async with store.transaction() as connection:
            assert await connection.fetch("SELECT name FROM users, avx_snapshots") == []


async def test_a_schema_that_is_not_there_is_refused_until_it_is_made(postgres_database: str) -> None:
    with pytest.raises(StoreRefusedError, match="CREATE SCHEMA"):
        await EventStore.connect(f"{postgres_database}?schema=tenant")
    assert await asked(postgres_database, "SELECT to_regclass('public.avx_events')") == [(None,)]

    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with await EventStore.connect(f"{postgres_database}?schema=tenant") as store:
        await store.append("a", Noted(1))
