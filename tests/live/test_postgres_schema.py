"""The tables in PostgreSQL: made once, by whoever comes first, or by hand, and refused where they are not ours."""

import asyncio

import asyncpg
import pytest

from avx_events import Event, EventStore, StoreRefusedError, StoreSchemaError
from avx_events.storage.postgres.schema import script

pytestmark = pytest.mark.live


class Kept(Event, event_type="schema.kept"):
    number: int


async def ran(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_many_may_open_a_new_store_at_once(postgres_database: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(EventStore.connect(postgres_database)) for _ in range(20)]

    stores = [task.result() for task in opening]
    for number, store in enumerate(stores):
        await store.append("a", Kept(number))
    for store in stores:
        await store.close()


async def test_who_may_not_make_tables_uses_those_that_were_made_by_hand(postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    guest = f"guest_{name}"
    url = postgres_database.replace("//avx@", f"//{guest}@")
    await ran(postgres_database, f"CREATE ROLE {guest} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(StoreRefusedError, match=r"python -m avx_events\.storage\.postgres"):
            await EventStore.connect(url)

        await ran(
            postgres_database,
            script(),
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {guest}",
        )
        async with await EventStore.connect(url) as store:
            await store.append("a", Kept(1))
            assert [stored.event async for stored in store.read_all()] == [Kept(1)]
    finally:
        await ran(postgres_database, f"DROP OWNED BY {guest}", f"DROP ROLE {guest}")


async def test_a_newer_schema_is_refused(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database):
        pass
    await ran(postgres_database, "UPDATE avx_schema SET version = 99 WHERE component = 'events'")

    with pytest.raises(StoreSchemaError, match=r"at version 99, newer than 1.*upgrade avx-events"):
        await EventStore.connect(postgres_database)


@pytest.mark.parametrize("table", ["avx_events", "avx_snapshots"])
async def test_a_table_of_our_name_that_is_not_ours_is_left_alone(postgres_database: str, table: str) -> None:
    await ran(postgres_database, f"CREATE TABLE {table} (mine int)")

    with pytest.raises(StoreSchemaError, match=f'"{table}" already exists'):
        await EventStore.connect(postgres_database)

    await ran(postgres_database, f"SELECT mine FROM {table}")  # noqa: S608 - the name is ours
