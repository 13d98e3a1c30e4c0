"""The store's own queries: what is committed, read from the application's tables, and nothing written."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import ClosedError, StatementError, StoreUnavailableError, TransactionError, UsageError
from avx_events.store.event_store import EventStore

pytestmark = pytest.mark.timeout(20)

URLS = {
    "file, thread": "sqlite:///{folder}/events.db?writer=thread",
    "file, inline": "sqlite:///{folder}/events.db?writer=inline",
    "memory, thread": "sqlite://?writer=thread",
    "memory, inline": "sqlite://?writer=inline",
}
FOR_EVER = "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
NAMES = "SELECT name FROM users ORDER BY name"


class UndoneError(Exception):
    """Undoes a transaction."""


@pytest.fixture(params=list(URLS.values()), ids=list(URLS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(request.param.format(folder=tmp_path)) as opened:
        await execute(opened, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        await execute(opened, "INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace')")
        yield opened


@pytest.fixture
async def file_store(tmp_path: Path) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db") as opened:
        yield opened


async def execute(store: EventStore, sql: str, *params: object) -> None:
    async with store.transaction() as connection:
        await connection.execute(sql, *params)


async def test_rows_are_tuples_in_the_order_of_their_columns(store: EventStore) -> None:
    assert await store.fetch("SELECT name, id FROM users ORDER BY id") == [("Ada", 1), ("Grace", 2)]
    assert await store.fetch("SELECT id FROM users WHERE name = ? OR id = ?", "Ada", 7) == [(1,)]
    assert await store.fetch("SELECT id FROM users WHERE name = 'Alan'") == []
    assert await store.fetch_one("SELECT name, id FROM users ORDER BY id") == ("Ada", 1)
    assert await store.fetch_one("SELECT id FROM users WHERE name = 'Alan'") is None


async def test_a_query_may_begin_with_comments_and_in_any_case(store: EventStore) -> None:
    for query in (
        "select 7",
        "\n\t SELECT 7",
        "-- why\nVALUES (7)",
        "/* a */ /* b\n*/ WITH n AS (SELECT 7) SELECT * FROM n",
    ):
        assert await store.fetch(query) == [(7,)]
    assert await store.fetch("EXPLAIN QUERY PLAN SELECT * FROM users WHERE id = 1")


async def test_it_sees_what_was_committed_before_it_was_called(store: EventStore) -> None:
    for number in range(3, 50):
        await execute(store, "INSERT INTO users VALUES (?, 'x')", number)

        assert await store.fetch_one("SELECT max(id) FROM users") == (number,)


async def test_it_does_not_see_what_is_not_committed(store: EventStore) -> None:
    has_written, may_end = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        with suppress(UndoneError):
            async with store.transaction() as connection:
                await connection.execute("DELETE FROM users WHERE id = 1")
                has_written.set()
                await may_end.wait()
                raise UndoneError

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        await has_written.wait()
        reading = tasks.create_task(store.fetch(NAMES))
        await asyncio.sleep(0)
        may_end.set()

    assert reading.result() == [("Ada",), ("Grace",)]


async def test_in_a_file_it_does_not_wait_for_an_open_transaction(file_store: EventStore) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with file_store.transaction():
            has_begun.set()
            await may_end.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold())
        await has_begun.wait()
        assert await file_store.fetch("SELECT 7") == [(7,)]
        may_end.set()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users VALUES (3, 'Alan')",
        "INSERT INTO users VALUES (3, 'Alan') RETURNING id",
        "WITH n AS (SELECT 3) INSERT INTO users SELECT *, 'Alan' FROM n",
        "WITH n AS (SELECT 3) DELETE FROM users RETURNING id",
        "/* SELECT */ DELETE FROM users",
        "-- SELECT\nUPDATE users SET name = 'x'",
        "DROP TABLE users",
        "BEGIN",
        "COMMIT",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "ATTACH ':memory:' AS other",
        "VACUUM",
        "SELECTED",
        "",
        "/*" * 10_000,
        "/**/" * 10_000,
    ],
)
async def test_a_statement_that_would_write_is_refused_and_says_where_to_write(store: EventStore, sql: str) -> None:
    for call in (store.fetch, store.fetch_one):
        with pytest.raises(UsageError, match=r"write in a projection or inside of 'async with store\.transaction\(\)'"):
            await call(sql)

    await execute(store, "INSERT INTO users VALUES (4, 'Linus')")
    assert await store.fetch(NAMES) == [("Ada",), ("Grace",), ("Linus",)]


async def test_a_query_or_parameter_that_the_database_refuses_is_an_error_with_the_query(store: EventStore) -> None:
    wrong: list[tuple[Any, ...]] = [
        ("SELECT nothing FROM users",),
        ("SELECT * FROM nowhere",),
        ("SELECT FROM",),
        ("SELECT ?",),
        ("SELECT 1", 2),
        ("SELECT ?", object()),
        ("SELECT ?", 2**63),
        ("SELECT ?", "\ud800"),
        ("SELECT 1; SELECT 2",),
        ("SELECT '\0'",),
        ("SELECT 'a' '\ud800'",),
        (7,),
        (None,),
    ]
    for query, *params in wrong:
        for call in (store.fetch, store.fetch_one):
            with pytest.raises(StatementError) as caught:
                await call(query, *params)
            assert caught.value.sql == query
    assert await store.fetch_one("SELECT 7") == (7,)


async def test_inside_of_a_transaction_it_is_refused_and_the_connection_named(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute("INSERT INTO users VALUES (3, 'Alan')")
        for call in (store.fetch, store.fetch_one):
            with pytest.raises(TransactionError, match=r"its connection has a fetch\(\) of its own"):
                await call(NAMES)

        assert len(await connection.fetch(NAMES)) == 3
    assert len(await store.fetch(NAMES)) == 3


async def test_a_store_without_a_database_refuses_it_as_it_refuses_a_transaction() -> None:
    async with EventStore() as store:
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: store.fetch("SELECT 1"),
            lambda: store.fetch_one("SELECT 1"),
            lambda: execute(store, "SELECT 1"),
        ]
        for call in calls:
            with pytest.raises(TransactionError, match="no database for tables of your own"):
                await call()


async def test_a_closed_store_refuses_it(store: EventStore) -> None:
    await store.close()

    for call in (store.fetch, store.fetch_one):
        with pytest.raises(ClosedError):
            await call("SELECT 1")


async def test_a_query_whose_caller_gives_up_is_ended_and_its_reader_goes_on(file_store: EventStore) -> None:
    for _ in range(8):  # more often than there are readers
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await file_store.fetch(FOR_EVER)

    assert await file_store.fetch("SELECT 7") == [(7,)]


async def test_a_query_that_is_cancelled_at_any_turn_harms_no_other(store: EventStore) -> None:
    async with asyncio.TaskGroup() as tasks:
        for turns in range(40):
            task = tasks.create_task(store.fetch(NAMES))
            others = [tasks.create_task(store.fetch(NAMES)) for _ in range(4)]
            for _ in range(turns % 8):
                await asyncio.sleep(0)
            task.cancel()
            for other in others:
                assert await other == [("Ada",), ("Grace",)]


async def test_a_read_that_was_cut_short_leaves_no_old_view_behind(file_store: EventStore) -> None:
    await execute(file_store, "CREATE TABLE numbers (number INTEGER)")
    for number in range(20):
        await execute(file_store, "INSERT INTO numbers VALUES (?), (0)", number)

        assert await file_store.fetch_one("SELECT max(number) OVER () FROM numbers") == (number,)


async def test_a_long_query_holds_neither_the_loop_nor_other_queries(file_store: EventStore) -> None:
    async with asyncio.TaskGroup() as tasks:
        endless = [tasks.create_task(file_store.fetch(FOR_EVER)) for _ in range(2)]
        assert await file_store.fetch("SELECT 7") == [(7,)]
        await execute(file_store, "CREATE TABLE users (name TEXT)")
        for task in endless:
            task.cancel()


async def test_a_file_that_was_taken_away_is_unavailable_and_not_made_again(tmp_path: Path) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db") as store:
        for name in ("events.db", "events.db-wal", "events.db-shm"):
            (tmp_path / name).unlink()

        with pytest.raises(StoreUnavailableError):
            await store.fetch("SELECT 7")
    assert not (tmp_path / "events.db").exists()
