"""Transactions that fail, are cancelled, lose their connection or their answer: committed, or not, and it is said."""

# ruff: noqa: PT012 - the whole block of a transaction is what raises

import asyncio
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import (
    ClosedError,
    CommitUnknownError,
    StatementError,
    StoreUnavailableError,
    TransactionError,
)
from avx_events.core.event import Event
from avx_events.storage.postgres import sessions
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from tests.live.postgres_asking import END_THE_STORES, asked, connected, through, until_answer
from tests.servers.proxy import Proxy
from tests.unit.store.cuts import Cut, at_every_place

pytestmark = pytest.mark.live

IS_COMMITTING = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = 'COMMIT'"


class Noted(Event, event_type="transactions.noted"):
    number: int


@pytest.fixture
async def database(postgres_database: str) -> str:
    await asked(postgres_database, "CREATE TABLE noted (number int)")
    return postgres_database


async def insert(connection: Connection, number: int) -> None:
    assert await connection.execute("INSERT INTO noted VALUES ($1)", number) == 1


async def kept(database: str) -> list[int]:
    return [number for (number,) in await asked(database, "SELECT number FROM noted ORDER BY number")]


async def test_after_a_statement_failed_nothing_is_written_whatever_the_block_does(database: str) -> None:
    async with await EventStore.connect(f"{database}?pool_size=1") as store:
        with pytest.raises(TransactionError, match="nothing was written"):
            async with store.transaction() as connection:
                await insert(connection, 1)
                with pytest.raises(StatementError, match="nowhere"):
                    await connection.execute("INSERT INTO nowhere VALUES (1)")
        with pytest.raises(TransactionError, match="nothing was written"):
            async with store.transaction() as connection:
                with pytest.raises(StatementError, match="nowhere"):
                    await connection.fetch("SELECT * FROM nowhere")
                await insert(connection, 2)
        async with store.transaction() as connection:
            await insert(connection, 3)

    assert await kept(database) == [3]


async def test_a_value_that_does_not_fit_fails_its_statement_only(database: str) -> None:
    async with await EventStore.connect(database) as store, store.transaction() as connection:
        await insert(connection, 1)
        for value in ("text", 2**80, object()):
            with pytest.raises(StatementError):
                await connection.execute("INSERT INTO noted VALUES ($1)", value)
        await insert(connection, 2)

    assert await kept(database) == [1, 2]


async def test_a_transaction_whose_statement_was_cancelled_is_not_called_committed(database: str) -> None:
    async with await EventStore.connect(f"{database}?pool_size=1") as store:
        with pytest.raises(TransactionError, match="cancelled"):
            async with store.transaction() as connection:
                await insert(connection, 1)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await connection.fetch("SELECT pg_sleep(60)")
        with pytest.raises(TransactionError, match="cancelled"):
            async with store.transaction() as connection:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await connection.fetch("SELECT pg_sleep(60)")
                await insert(connection, 2)

        async with store.transaction() as connection:
            await insert(connection, 3)

    assert await kept(database) == [3]


@pytest.mark.parametrize(
    "ending",
    ["COMMIT", "end", " /* so */ -- it is\n rollback", "ABORT", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'p'"],
)
async def test_what_would_end_the_transaction_is_refused_before_it_does(database: str, ending: str) -> None:
    async with await EventStore.connect(database) as store:
        with pytest.raises(TransactionError, match="leave COMMIT and ROLLBACK to its block"):
            async with store.transaction() as connection:
                await insert(connection, 1)
                await connection.execute(ending)
        assert await kept(database) == []

        async with store.transaction() as connection:
            with pytest.raises(TransactionError, match="leave COMMIT and ROLLBACK to its block"):
                await connection.fetch(ending)
            await insert(connection, 2)

    assert await kept(database) == [2]


async def test_several_statements_in_one_that_end_the_transaction_are_an_error(database: str) -> None:
    async with await EventStore.connect(database) as store:
        with pytest.raises(TransactionError):
            async with store.transaction() as connection:
                with pytest.raises(TransactionError, match="give them one by one"):
                    await connection.execute("INSERT INTO noted VALUES (1); COMMIT")
                with pytest.raises(TransactionError, match="over"):
                    await insert(connection, 2)

    assert 2 not in await kept(database)


async def test_savepoints_are_the_users_own(database: str) -> None:
    async with await EventStore.connect(database) as store, store.transaction() as connection:
        await connection.execute("SAVEPOINT one")
        await insert(connection, 1)
        await connection.execute("ROLLBACK TO one")
        await connection.execute("ROLLBACK WORK TO SAVEPOINT one")
        await insert(connection, 2)

    assert await kept(database) == [2]


@pytest.mark.parametrize("moment", ["before a statement", "in a statement", "before the commit"])
async def test_a_connection_that_is_lost_inside_takes_the_transaction_with_it(database: str, moment: str) -> None:
    async with await EventStore.connect(f"{database}?pool_size=1&timeout_s=5") as store:
        with pytest.raises(StoreUnavailableError, match="nothing was written"):
            async with store.transaction() as connection, asyncio.TaskGroup() as tasks:
                await insert(connection, 1)
                if moment == "in a statement":
                    tasks.create_task(ended_while_it_sleeps(database))
                    await one_of(connection.fetch("SELECT pg_sleep(60)"))
                await asked(database, END_THE_STORES)
                if moment == "before a statement":
                    await one_of(insert(connection, 2))
        async with store.transaction() as connection:
            await insert(connection, 3)

    assert await kept(database) == [3]


async def ended_while_it_sleeps(database: str) -> None:
    async with connected(database) as observer:
        await until_answer(observer, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    await asked(database, END_THE_STORES)


async def one_of(call: Any) -> None:
    with pytest.raises(StoreUnavailableError, match="nothing was written"):
        await call


async def test_a_transaction_begins_though_the_connections_that_were_open_are_lost(database: str) -> None:
    with Proxy(port_of(database)) as proxy:
        async with await EventStore.connect(through(proxy, database)) as store:
            for number in range(4):
                async with store.transaction() as connection:
                    await insert(connection, number)
                proxy.half_close("server") if number == 2 else proxy.cut()
                proxy.mend()

    assert await kept(database) == [0, 1, 2, 3]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def test_a_commit_whose_answer_is_lost_is_unknown_and_there_or_not(database: str) -> None:
    await asked(database, *SLOW_COMMITS)
    with Proxy(port_of(database)) as proxy:
        async with await EventStore.connect(through(proxy, database)) as store, connected(database) as observer:
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(refused_commit(store))
                await until_answer(observer, IS_COMMITTING)
                proxy.cut()

            assert "look before it is repeated" in await committing
            await until_answer(observer, "SELECT count(*) = 1 FROM noted")  # the server was still at it
            proxy.mend()


async def refused_commit(store: EventStore) -> str:
    with pytest.raises(CommitUnknownError) as error:
        async with store.transaction() as connection:
            await insert(connection, 1)
    return str(error.value)


SLOW_COMMITS = (
    "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON noted INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION doze()",
)


async def test_a_commit_that_gets_no_answer_in_time_is_unknown(database: str) -> None:
    await asked(database, *SLOW_COMMITS)
    async with await EventStore.connect(f"{database}?timeout_s=0.2") as store:
        with pytest.raises(CommitUnknownError, match="no answer in time"):
            async with store.transaction() as connection:
                await insert(connection, 1)


async def test_a_constraint_that_does_not_hold_at_the_end_is_an_error_of_the_commit(database: str) -> None:
    await asked(database, "ALTER TABLE noted ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED")
    async with await EventStore.connect(database) as store:
        with pytest.raises(StatementError, match="duplicate key"):
            async with store.transaction() as connection:
                await insert(connection, 1)
                await insert(connection, 1)

    assert await kept(database) == []


async def test_after_the_commit_a_lost_connection_is_nobodys_concern(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(port_of(database)) as proxy:

        async def cut(connection: Any) -> None:
            proxy.cut()
            await connection.execute("SELECT 1")

        monkeypatch.setattr(sessions, "_reset", cut)  # as the connection is given back
        async with await EventStore.connect(through(proxy, database)) as store:
            async with store.transaction() as connection:
                await insert(connection, 1)
            proxy.mend()
            assert await store.fetch("SELECT number FROM noted") == [(1,)]


async def test_tasks_may_share_the_connection_of_a_transaction(database: str) -> None:
    async with (
        await EventStore.connect(database) as store,
        store.transaction() as connection,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(50):
            tasks.create_task(insert(connection, number))

    assert await kept(database) == [*range(50)]


async def test_a_transaction_inside_of_a_transaction_is_refused(database: str) -> None:
    async with (
        await EventStore.connect(database) as other,
        await EventStore.connect(database) as store,
        store.transaction() as connection,
    ):
        for call in (store.transaction().__aenter__(), store.append("a", Noted(1)), store.fetch("SELECT 1")):
            with pytest.raises(TransactionError, match="inside of"):
                await call
        async with other.transaction() as another:  # of another store
            await insert(another, 1)
        await insert(connection, 2)

    assert await kept(database) == [1, 2]


async def test_a_store_that_is_closed_ends_the_transactions_that_are_open(database: str) -> None:
    store = await EventStore.connect(database)
    with pytest.raises(ClosedError):
        async with store.transaction() as connection:
            await insert(connection, 1)
            await store.close()
            with pytest.raises(ClosedError):
                await insert(connection, 2)

    assert await kept(database) == []


async def test_a_store_that_is_closed_ends_a_statement_that_runs(database: str) -> None:
    store = await EventStore.connect(database)
    async with asyncio.TaskGroup() as tasks:
        sleeping = tasks.create_task(sleep_in(store))
        async with connected(database) as observer:
            await until_answer(observer, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")

        await store.close()

        await sleeping
    assert await kept(database) == []


async def sleep_in(store: EventStore) -> None:
    with pytest.raises((StoreUnavailableError, ClosedError)):
        async with store.transaction() as connection:
            await insert(connection, 1)
            await connection.fetch("SELECT pg_sleep(60)")


async def test_what_one_transaction_sets_the_next_one_does_not_have(database: str) -> None:
    async with await EventStore.connect(f"{database}?pool_size=1") as store:
        async with store.transaction() as connection:
            for statement in (
                "CREATE TEMP TABLE passing (number int)",
                "SET search_path = pg_catalog",
                "SELECT pg_advisory_lock(7)",
                "SET ROLE pg_monitor",
                "LISTEN noted",
            ):
                await connection.fetch(statement)
        async with store.transaction() as connection:
            assert await connection.fetch(
                "SELECT current_user = session_user, to_regclass('passing'),"
                " current_setting('search_path') LIKE '%public%',"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
                " (SELECT count(*) FROM pg_listening_channels())"
            ) == [(True, None, True, 0, 0)]


async def test_who_idles_longer_than_the_server_allows_is_told_that_the_connection_is_gone(database: str) -> None:
    async with await EventStore.connect(database) as store:
        with pytest.raises(StoreUnavailableError, match="nothing was written"):
            async with store.transaction() as connection, connected(database) as observer:
                await insert(connection, 1)
                ((pid,),) = await connection.fetch("SELECT pg_backend_pid()")
                await connection.execute("SET idle_in_transaction_session_timeout = 50")
                await until_answer(observer, f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}")  # noqa: S608
                await insert(connection, 2)

    assert await kept(database) == []


@pytest.fixture
def tables(postgres_database: str) -> str:
    asyncio.run(asked_once(postgres_database))
    return postgres_database


async def asked_once(database: str) -> None:
    await asked(database, "CREATE TABLE noted (run text, number int)")
    await (await EventStore.connect(database)).close()


def test_a_transaction_that_is_cancelled_anywhere_is_committed_whole_or_not_at_all(tables: str, tmp_path: Path) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async def work(store: EventStore) -> bool:
            async with store.transaction() as connection:
                await connection.execute("INSERT INTO noted VALUES ($1, 1)", folder.name)
                await connection.fetch_one("SELECT 1")
                await connection.execute("INSERT INTO noted VALUES ($1, 2)", folder.name)
            return True

        async with await EventStore.connect(f"{tables}?pool_size=1") as store:
            is_told = await cut(work(store))

            numbers = await store.fetch("SELECT number FROM noted WHERE run = $1 ORDER BY number", folder.name)
            assert numbers in ([], [(1,), (2,)])
            assert numbers or not is_told
            async with asyncio.timeout(5), store.transaction() as connection:  # there is one connection for it
                await connection.execute("INSERT INTO noted VALUES ($1, 3)", folder.name)

    assert at_every_place(tmp_path, scenario) > 8


def test_a_statement_that_is_cancelled_anywhere_leaves_a_transaction_that_says_what_became_of_it(
    tables: str, tmp_path: Path
) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await EventStore.connect(f"{tables}?pool_size=1") as store:
            is_committed = False
            try:
                async with store.transaction() as connection:
                    await connection.execute("INSERT INTO noted VALUES ($1, 1)", folder.name)
                    await cut(connection.execute("INSERT INTO noted VALUES ($1, 2)", folder.name))
                is_committed = True
            except TransactionError as error:
                assert "nothing was written" in str(error)  # noqa: PT017

            numbers = await store.fetch("SELECT number FROM noted WHERE run = $1 ORDER BY number", folder.name)
            assert numbers in ([(1,), (2,)], [(1,)]) if is_committed else numbers == []

    assert at_every_place(tmp_path, scenario) > 0
