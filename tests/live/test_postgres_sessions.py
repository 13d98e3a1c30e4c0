"""Connections that fall silent, are lost or are left in a state of their own: nobody waits for ever, or inherits it."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from avx_events.core.errors import AvxEventsError, ClosedError, StatementError, StoreUnavailableError, TransactionError
from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from tests.live.postgres_asking import END_THE_STORES, asked, connected, through, until_answer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.live

SLEEPS = "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
SLEEPS_NO_MORE = SLEEPS.replace("> 0", "= 0")


class Noted(Event, event_type="sessions.noted"):
    number: int


async def used_up(store: EventStore) -> None:
    """Let the store open a connection of each kind."""
    await store.append("a", Noted(1))
    await store.last_position()
    await store.fetch("SELECT 1")
    async with store.transaction() as connection:
        await connection.fetch("SELECT 1")


async def refusal_of(call: Coroutine[Any, Any, Any]) -> str:
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailableError) as error:
            await call
        return str(error.value)


async def test_what_reads_from_a_server_that_falls_silent_fails_in_time(postgres_database: str) -> None:
    with Proxy(port_of(postgres_database)) as proxy:
        async with await EventStore.connect(through(proxy, f"{postgres_database}?timeout_s=0.3")) as store:
            await used_up(store)
            proxy.drop_silently()

            reads = store.last_position(), store.version_of("a"), store.get_events("a"), store.fetch("SELECT 1")
            async with asyncio.TaskGroup() as tasks:
                refusals = [tasks.create_task(refusal_of(read)) for read in reads]

            assert all("nothing was written" in refusal.result() for refusal in refusals)
            proxy.mend()
            assert await store.last_position() == 1


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def test_who_opens_a_store_does_not_wait_for_ever_for_another_who_makes_its_tables(
    postgres_server: PostgresServer,
) -> None:
    async with connected(postgres_server.url) as other, other.transaction():
        await other.execute("CREATE TABLE avx_schema (component text PRIMARY KEY, version integer NOT NULL)")

        refusal = await refusal_of(EventStore.connect(f"{postgres_server.url}?timeout_s=0.5"))

    assert "no answer in time" in refusal


async def test_a_read_that_is_cancelled_ends_soon_though_the_server_is_silent(postgres_database: str) -> None:
    with Proxy(port_of(postgres_database)) as proxy:
        async with await EventStore.connect(through(proxy, f"{postgres_database}?timeout_s=30")) as store:
            await used_up(store)
            proxy.drop_silently()

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.last_position()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.fetch("SELECT 1")
            proxy.mend()

            assert await store.last_position() == 1


async def test_a_query_that_is_cancelled_is_ended_on_the_server(postgres_database: str) -> None:
    async with (
        await EventStore.connect(f"{postgres_database}?pool_size=1") as store,
        connected(postgres_database) as observer,
        asyncio.TaskGroup() as tasks,
    ):
        sleeping = tasks.create_task(store.fetch("SELECT pg_sleep(60)"))
        await until_answer(observer, SLEEPS)

        sleeping.cancel()

        assert await store.fetch("SELECT 7") == [(7,)]  # there is one connection only
        await until_answer(observer, SLEEPS_NO_MORE)


async def test_a_query_may_take_longer_than_the_server_may_be_silent(postgres_database: str) -> None:
    async with await EventStore.connect(f"{postgres_database}?timeout_s=0.2") as store:
        assert await store.fetch("SELECT 7 FROM pg_sleep(1)") == [(7,)]
        async with store.transaction() as connection:
            assert await connection.fetch("SELECT 7 FROM pg_sleep(1)") == [(7,)]


async def test_a_read_that_waits_for_a_connection_ends_when_the_store_is_closed(postgres_database: str) -> None:
    with Proxy(port_of(postgres_database)) as proxy:
        store = await EventStore.connect(through(proxy, f"{postgres_database}?timeout_s=30"))
        await asked(postgres_database, END_THE_STORES)
        proxy.drop_silently()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(error_of(store.last_position()))
            await asyncio.sleep(0)

            await store.close()

        assert isinstance(reading.result(), ClosedError)


async def error_of(call: Awaitable[Any]) -> BaseException | None:
    try:
        await call
    except AvxEventsError as error:
        return error
    return None


class Sum(AggregateRoot):
    number: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Noted):
            self.number += event.number


async def test_who_has_the_last_connection_for_transactions_can_load_and_leave_a_snapshot(
    postgres_database: str,
) -> None:
    async with await EventStore.connect(f"{postgres_database}?pool_size=1", snapshot_every=1) as store:
        await store.append("a", [Noted(1), Noted(2)])

        async with asyncio.timeout(10), store.transaction() as connection:
            loaded = await store.load(Sum, "a")
            assert await connection.fetch("SELECT version FROM avx_snapshots") == [(2,)]
        again = await store.load(Sum, "a")

        assert (loaded.number, again.number) == (3, 3)
        assert store.statistics()["snapshots_used"] == 1


async def test_one_connection_of_each_kind_is_enough_for_many_who_use_the_store_at_once(postgres_database: str) -> None:
    async with await EventStore.connect(f"{postgres_database}?pool_size=1", snapshot_every=2) as store:
        await asked(postgres_database, "CREATE TABLE noted (number int)")
        pages = store.read_all()
        await store.append("a", [Noted(number) for number in range(1_500)])
        await anext(pages)  # more than a page is left

        async def use(number: int) -> None:
            await store.append("a", Noted(number))
            async with store.transaction() as connection:
                await connection.execute("INSERT INTO noted VALUES ($1)", number)
                await store.load(Sum, "a")
            await store.fetch("SELECT count(*) FROM noted")

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(use(number))

        assert len([stored async for stored in pages]) >= 1_499
        assert await store.fetch("SELECT count(*) FROM noted") == [(10,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SET default_transaction_read_only = off",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "BEGIN READ WRITE",
        "START TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "RESET ALL",
        "DISCARD ALL",
        "DEALLOCATE ALL",
        "SET search_path = pg_catalog",
        "SET ROLE pg_monitor",
        "SELECT pg_advisory_lock(7)",
        "PREPARE again AS SELECT 1",
        "LISTEN noted",
    ],
)
async def test_what_a_query_sets_the_next_one_does_not_have(postgres_database: str, statement: str) -> None:
    await asked(postgres_database, "CREATE TABLE noted AS SELECT 1 AS number")
    async with await EventStore.connect(f"{postgres_database}?pool_size=1") as store:
        await store.fetch(SESSION)

        await store.fetch(statement)

        assert await store.fetch(SESSION) == [(True, "on", True, 0, 0, 1)]
        with pytest.raises(TransactionError, match="only read"):
            await store.fetch("INSERT INTO noted VALUES (2) RETURNING number")


SESSION = (
    "SELECT current_user = session_user, current_setting('transaction_read_only'),"
    " current_setting('search_path') LIKE '%public%', (SELECT count(*) FROM pg_listening_channels()),"
    " (SELECT count(*) FROM pg_prepared_statements WHERE name = 'again'), (SELECT number FROM noted)"
)


async def test_a_lock_that_a_query_takes_goes_with_its_connection(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database) as store, connected(postgres_database) as other:
        await store.fetch("SELECT pg_advisory_lock(7)")

        await until_answer(other, "SELECT pg_try_advisory_lock(7)")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO noted VALUES (2) RETURNING number",
        "WITH added AS (INSERT INTO noted VALUES (2) RETURNING number) SELECT * FROM added",
        "UPDATE noted SET number = 2",
        "DELETE FROM noted",
        "TRUNCATE noted",
        "SELECT nextval('numbers')",
        "SELECT add_one()",
        "CALL add_another()",
        "CREATE TABLE another (number int)",
        "DROP TABLE noted",
        "SELECT * FROM noted FOR UPDATE",
        "SELECT * INTO another FROM noted",
        "EXPLAIN ANALYZE DELETE FROM noted",
        "DO 'BEGIN DELETE FROM noted; END'",
        "COMMENT ON TABLE noted IS 'x'",
    ],
)
async def test_a_query_that_would_write_is_refused(postgres_database: str, statement: str) -> None:
    await asked(
        postgres_database,
        "CREATE TABLE noted AS SELECT 1 AS number",
        "CREATE SEQUENCE numbers",
        "CREATE FUNCTION add_one() RETURNS int LANGUAGE sql AS 'INSERT INTO noted VALUES (1) RETURNING number'",
        "CREATE PROCEDURE add_another() LANGUAGE sql AS 'INSERT INTO noted VALUES (1)'",
    )
    async with await EventStore.connect(postgres_database) as store:
        for fetch in (store.fetch, store.fetch_one):
            with pytest.raises(TransactionError, match="only read"):
                await fetch(statement)

        assert await store.fetch("SELECT number, is_called FROM noted, numbers") == [(1, False)]


async def test_a_statement_that_cannot_be_sent_is_refused(postgres_database: str) -> None:
    async with await EventStore.connect(f"{postgres_database}?pool_size=1") as store:
        await refused(store.fetch("SELECT 1; SELECT 2"))
        for sql in ("SELECT 'a\0b'", "SELECT '\ud800'"):
            async with asyncio.timeout(5):
                await refused(store.fetch(sql))
                async with store.transaction() as connection:
                    await refused(connection.fetch(sql))
                    await refused(connection.execute(sql, 1))

        assert await store.fetch("SELECT 7") == [(7,)]


async def refused(call: Awaitable[Any]) -> None:
    with pytest.raises(StatementError):
        await call
