"""Statements that a transaction puts off are done in their place, or nothing is."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from avx_events.core.errors import (
    ClosedError,
    LaterStatementError,
    StatementError,
    StoreUnavailableError,
    TransactionError,
)
from avx_events.patterns.tables import fetch_one, in_dialect
from avx_events.store.event_store import EventStore
from avx_events.store.later_statements import MOST_LATER
from avx_events.store.ports import Connection

pytestmark = pytest.mark.timeout(20)

ADD = "INSERT INTO numbers VALUES (?)"
TWICE = "UPDATE numbers SET n = n * 2"
ALL = "SELECT n FROM numbers ORDER BY n"


@pytest.fixture(autouse=True)
async def _numbers(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute("CREATE TABLE numbers (n INTEGER NOT NULL)")


async def later(connection: Connection, sql: str, *params: object) -> None:
    await connection.execute_later(in_dialect(sql, connection.dialect), *params)


async def inside(store: EventStore, block: Callable[[Connection], Awaitable[None]]) -> None:
    """Run ``block`` in a transaction."""
    async with store.transaction() as connection:
        await block(connection)


async def numbers(store: EventStore) -> list[int]:
    return [number for (number,) in await store.fetch(ALL)]


async def test_they_are_done_when_the_block_is_left(store: EventStore) -> None:
    async with store.transaction() as connection:
        for number in range(3):
            await later(connection, ADD, number)

    assert await numbers(store) == [0, 1, 2]


async def test_all_statements_are_done_in_the_order_they_came_in(store: EventStore) -> None:
    async with store.transaction() as connection:
        await later(connection, ADD, 1)
        await later(connection, ADD, 2)
        await later(connection, TWICE)
        await later(connection, ADD, 3)
        assert await connection.execute(TWICE) == 3
        await later(connection, ADD, 5)
        assert await connection.fetch(ALL) == [(4,), (5,), (6,), (8,)]
        await later(connection, "DELETE FROM numbers")
        assert await connection.fetch_one(ALL) is None


@pytest.mark.parametrize(
    "sql",
    [
        "WITH one AS (SELECT 7 AS n) INSERT INTO numbers SELECT n FROM one",
        "-- a comment\nINSERT INTO numbers VALUES (7) RETURNING n",
        "/* another */ INSERT INTO numbers SELECT 7 WHERE NOT EXISTS (SELECT 1 FROM numbers)",
    ],
)
async def test_any_kind_of_statement_may_be_put_off(store: EventStore, sql: str) -> None:
    async with store.transaction() as connection:
        await later(connection, sql)
        await later(connection, "SELECT n FROM numbers")  # nobody will see it
        await later(connection, "CREATE TABLE others (n INTEGER)")

    assert await numbers(store) == [7]
    assert await store.fetch("SELECT n FROM others") == []


async def test_no_more_than_so_many_are_put_off(store: EventStore) -> None:
    async def block(connection: Connection) -> None:
        for number in range(MOST_LATER - 1):
            await later(connection, ADD, number)
        await later(connection, ADD, None)
        pytest.fail("it was put off too")

    with pytest.raises(LaterStatementError, match=f"one of {MOST_LATER} statements of execute_later"):
        await inside(store, block)

    assert await numbers(store) == []


async def flushed(connection: Connection) -> None:
    await connection.flush()


async def executed(connection: Connection) -> None:
    await connection.execute(TWICE)


async def fetched(connection: Connection) -> None:
    await connection.fetch(ALL)


async def fetched_one(connection: Connection) -> None:
    await connection.fetch_one(ALL)


@pytest.mark.parametrize("use", [flushed, executed, fetched, fetched_one])
async def test_a_refusal_is_raised_where_it_is_found_out_and_nothing_can_be_committed(
    store: EventStore, use: Callable[[Connection], Awaitable[None]]
) -> None:
    async def block(connection: Connection) -> None:
        await later(connection, ADD, 1)
        await later(connection, "UPDATE numbers SET n = ?", None)
        for _ in range(2):
            with pytest.raises(LaterStatementError) as caught:
                await use(connection)
            assert isinstance(caught.value, StatementError)
            assert caught.value.sql.startswith("UPDATE")
            assert caught.value.count == 1

    with pytest.raises(LaterStatementError, match="a statement of execute_later"):
        await inside(store, block)

    assert await numbers(store) == []


@pytest.mark.parametrize(
    "sql", ["INSERT INTO nowhere VALUES (?)", ADD + " garbage", "INSERT INTO numbers VALUES (?, ?)"]
)
async def test_what_the_database_refuses_at_the_end_is_raised_there(store: EventStore, sql: str) -> None:
    async def block(connection: Connection) -> None:
        await later(connection, sql, 1)

    with pytest.raises(LaterStatementError):
        await inside(store, block)

    assert await numbers(store) == []


@pytest.mark.parametrize("value", [object(), 2**70])
async def test_a_value_that_no_column_takes_is_refused(store: EventStore, value: Any) -> None:
    async def block(connection: Connection) -> None:
        await later(connection, ADD, value)

    with pytest.raises(LaterStatementError):
        await inside(store, block)


async def test_a_statement_must_not_end_the_transaction(store: EventStore) -> None:
    async def block(connection: Connection) -> None:
        await later(connection, ADD, 1)
        await later(connection, "ROLLBACK")

    with pytest.raises(TransactionError):
        await inside(store, block)

    assert await numbers(store) == []


async def test_nothing_is_put_off_past_the_end(store: EventStore) -> None:
    async with store.transaction() as connection:
        pass

    with pytest.raises(TransactionError, match="is over"):
        await connection.execute_later(ADD, 1)
    await connection.flush()
    await store.close()
    with pytest.raises(ClosedError):
        await connection.execute_later(ADD, 1)


async def test_a_block_that_raises_does_nothing_of_it(store: EventStore) -> None:
    async def block(connection: Connection) -> None:
        await later(connection, ADD, 1)
        raise KeyError

    with pytest.raises(KeyError):
        await inside(store, block)

    assert await numbers(store) == []


async def test_sending_that_is_cancelled_lets_nothing_be_committed(store: EventStore) -> None:
    endless = "WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT 1 FROM n) INSERT INTO numbers SELECT count(*) FROM n"

    async def block(connection: Connection) -> None:
        await later(connection, ADD, 1)
        await later(connection, endless)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.flush()
        await later(connection, ADD, 2)

    with pytest.raises((LaterStatementError, StoreUnavailableError)):
        await inside(store, block)

    assert await numbers(store) == []


async def test_tasks_that_share_a_transaction_keep_their_order_each(store: EventStore) -> None:
    async def add(connection: Connection, first: int) -> None:
        for number in range(first, first + 40):
            await later(connection, ADD, number)
            if number % 7 == 0:
                assert await fetch_one(connection, "SELECT 1 FROM numbers WHERE n = ?", number) == (1,)
            await later(connection, "DELETE FROM numbers WHERE n = ?", number)

    async with store.transaction() as connection, asyncio.TaskGroup() as tasks:
        for first in range(0, 400, 100):
            tasks.create_task(add(connection, first))

    assert await numbers(store) == []
