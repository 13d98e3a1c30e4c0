"""Statements of a transaction run where they do no harm, in order, and what goes wrong is said of the right one."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import ClosedError, StatementError, TransactionError, WrongLoopError
from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

INSERT = "INSERT INTO users VALUES (?, ?)"
NAMES = "SELECT name FROM users ORDER BY id"
COUNT_TO = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM n"
FOR_EVER = 2**62


class Opened(Event, event_type="sqlite.transaction.opened"):
    pass


@pytest.fixture(params=["thread", "inline"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db?writer={request.param}") as opened:
        async with opened.transaction() as connection:
            await connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        yield opened


@pytest.fixture
async def thread_store(tmp_path: Path) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/threads.db?writer=thread") as opened:
        yield opened


async def test_a_statement_gives_the_same_however_often_it_runs(store: EventStore) -> None:
    async with store.transaction() as connection:
        for number in range(5):
            assert await connection.execute(INSERT, number, f"name {number}") == 1
            assert await connection.fetch("SELECT name FROM users WHERE id = ?", number) == [(f"name {number}",)]
            assert await connection.fetch_one("SELECT name FROM users WHERE id = ?", number + 1) is None
            assert await connection.execute("UPDATE users SET name = 'x' WHERE id = ?", number + 1) == 0

    assert len(await store.fetch(NAMES)) == 5


async def test_quick_and_slow_statements_keep_their_order(store: EventStore) -> None:
    async with store.transaction() as connection:
        for number in range(0, 40, 2):
            await connection.execute(INSERT, number, "old")
            await connection.execute("INSERT INTO users SELECT id + 1, 'copy' FROM users WHERE id = ?", number)
            await connection.execute("UPDATE users SET name = name || ' ' || ? WHERE id <= ?", number, number)
            assert len(await connection.fetch(NAMES)) == number + 2

    assert (await store.fetch(NAMES))[:3] == [
        ("old " + " ".join(f"{number}" for number in range(0, 40, 2)),),
        ("copy " + " ".join(f"{number}" for number in range(2, 40, 2)),),
        ("old " + " ".join(f"{number}" for number in range(2, 40, 2)),),
    ]


async def test_tasks_that_share_a_transaction_lose_no_statement(store: EventStore) -> None:
    async with store.transaction() as connection:

        async def insert(start: int) -> None:
            for number in range(start, start + 50):
                await connection.execute(INSERT, number, "x")
                await connection.execute("UPDATE users SET name = name || 'y' WHERE name = 'x'")

        async with asyncio.TaskGroup() as tasks:
            for start in range(0, 500, 100):
                tasks.create_task(insert(start))

    assert await store.fetch("SELECT name, count(*) FROM users GROUP BY name") == [("xy", 250)]


async def test_a_statement_that_is_refused_is_named_and_the_transaction_goes_on(store: EventStore) -> None:
    async with store.transaction() as connection:
        for number in range(5):
            await connection.execute(INSERT, number, "x")
        wrong: list[tuple[Any, ...]] = [
            (INSERT, 4, "taken"),
            (INSERT, 5, None),
            (INSERT, 5),
            (INSERT, 5, object()),
            ("INSERT INTO nowhere VALUES (1)",),
            (7,),
            ([INSERT],),
        ]
        for sql, *params in wrong:
            with pytest.raises(StatementError) as caught:
                await connection.execute(sql, *params)
            assert caught.value.sql == sql
        await connection.execute(INSERT, 5, "x")

    assert await store.fetch_one("SELECT count(*) FROM users") == (6,)


async def test_a_trigger_made_by_another_process_is_not_overlooked(thread_store: EventStore, tmp_path: Path) -> None:
    async with thread_store.transaction() as connection:
        await connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        await connection.execute("CREATE TABLE seen (id INTEGER)")
    async with thread_store.transaction() as connection:
        await connection.execute(INSERT, 1, "x")
        await connection.execute(INSERT, 2, "x")
    async with await EventStore.connect(f"sqlite:///{tmp_path}/threads.db") as other, other.transaction() as connection:
        await connection.execute("CREATE TRIGGER t AFTER INSERT ON users BEGIN INSERT INTO seen VALUES (new.id); END")

    async with thread_store.transaction() as connection:
        await connection.execute(INSERT, 3, "x")
        await connection.execute(INSERT, 4, "x")

    assert await thread_store.fetch("SELECT id FROM seen") == [(3,), (4,)]


async def test_many_quick_statements_leave_the_loop_its_turns(store: EventStore) -> None:
    had_its_turn = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, store.transaction() as connection:
        tasks.create_task(after_turns(20, had_its_turn))
        number = 0
        while not had_its_turn.is_set():
            await connection.execute(INSERT, number, "x")
            number += 1


async def test_a_slow_statement_does_not_hold_the_loop(thread_store: EventStore) -> None:
    turns = 0
    async with thread_store.transaction() as connection, asyncio.TaskGroup() as tasks:
        for _ in range(3):
            assert await connection.fetch_one(COUNT_TO, 3) == (3,)  # quick as it was so far
        counting = tasks.create_task(connection.fetch_one(COUNT_TO, 1_000_000))
        while not counting.done():
            await asyncio.sleep(0)
            turns += 1

    assert counting.result() == (1_000_000,)
    assert turns > 100


async def test_a_query_whose_caller_gives_up_ends_and_the_transaction_goes_on(thread_store: EventStore) -> None:
    async with thread_store.transaction() as connection:
        await connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await connection.fetch(COUNT_TO, FOR_EVER)
        await connection.execute(INSERT, 1, "x")

    assert await thread_store.fetch(NAMES) == [("x",)]
    assert (await thread_store.append("s", Opened())).version == 1


async def test_a_write_whose_caller_gives_up_ends_and_takes_the_transaction_with_it(thread_store: EventStore) -> None:
    async def go_on() -> None:
        async with thread_store.transaction() as connection:
            await connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await connection.execute(f"INSERT INTO users {COUNT_TO.replace('count(*)', 'i, i')}", FOR_EVER)
            with pytest.raises(TransactionError, match="given up"):
                await connection.execute(INSERT, 1, "x")

    with pytest.raises(TransactionError, match="given up"):
        await go_on()

    assert (await thread_store.append("s", Opened())).version == 1
    async with thread_store.transaction() as connection:
        assert await connection.fetch("SELECT name FROM sqlite_master WHERE name = 'users'") == []
        assert await connection.fetch_one(COUNT_TO, 3_000_000) == (3_000_000,)  # one that is not given up


async def test_a_query_of_a_store_in_memory_whose_caller_gives_up_ends() -> None:
    async with await EventStore.connect("sqlite://?writer=thread") as store:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await store.fetch(COUNT_TO, FOR_EVER)

        assert (await store.append("s", Opened())).version == 1


async def test_a_transaction_that_is_cancelled_at_any_turn_is_undone_and_the_next_one_begins(store: EventStore) -> None:
    async def insert_for_ever() -> None:
        async with store.transaction() as connection:
            number = 0
            while True:
                await connection.execute(INSERT, number, "x")
                number += 1

    async with asyncio.TaskGroup() as tasks:
        for turns in range(20):
            task = tasks.create_task(insert_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await until(task.done)

            async with store.transaction() as connection:
                assert await connection.fetch(NAMES) == []
            await store.append("s", Opened())


async def test_a_connection_is_of_no_use_after_its_block(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute(INSERT, 1, "x")
        await connection.execute(INSERT, 2, "x")

    for _ in range(2):
        with pytest.raises(TransactionError, match="transaction is over"):
            await connection.execute(INSERT, 3, "x")
    async with store.transaction():
        with pytest.raises(TransactionError, match="transaction is over"):
            await connection.execute(INSERT, 3, "x")


async def test_a_store_that_is_closed_refuses_the_statements_of_an_open_transaction(store: EventStore) -> None:
    with pytest.raises(ClosedError):
        await close_in_a_transaction(store)


async def close_in_a_transaction(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute(INSERT, 1, "x")
        await connection.execute(INSERT, 2, "x")
        await store.close()
        await connection.execute(INSERT, 3, "x")


async def test_a_block_whose_store_is_closed_meanwhile_is_told_so(store: EventStore) -> None:
    await store.fetch(NAMES)  # closing waits for the threads that read
    told: list[type] = []

    async def go_on(tasks: asyncio.TaskGroup) -> None:
        async with store.transaction() as connection:
            closing = tasks.create_task(store.close())
            while not closing.done():
                await asyncio.sleep(0)
                told.append(await outcome_of(connection.execute(INSERT, 1, "x")))

    async with asyncio.TaskGroup() as tasks:
        assert await outcome_of(go_on(tasks)) is ClosedError

    assert set(told) == {ClosedError}


async def test_a_block_that_ends_while_its_store_is_closed_is_told_so(store: EventStore) -> None:
    await store.fetch(NAMES)

    async def end_at_once(tasks: asyncio.TaskGroup) -> None:
        async with store.transaction():
            tasks.create_task(store.close())
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        assert await outcome_of(end_at_once(tasks)) is ClosedError


async def test_a_transaction_that_waits_for_its_turn_does_not_begin_in_a_closed_store(store: EventStore) -> None:
    await store.fetch(NAMES)
    may_end = asyncio.Event()
    begun: list[str] = []

    async def wait_in_a_transaction(name: str) -> None:
        async with store.transaction():
            begun.append(name)
            await may_end.wait()

    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(outcome_of(wait_in_a_transaction(name))) for name in ("first", "second")]
        await until(lambda: begun)
        closing = tasks.create_task(store.close())
        await asyncio.sleep(0)
        may_end.set()

    assert closing.done()
    assert begun == ["first"]
    assert [task.result() for task in waiting] == [ClosedError, ClosedError]


async def test_the_connection_of_a_transaction_belongs_to_its_loop(store: EventStore) -> None:
    async with store.transaction() as connection:
        for _ in range(3):  # as one that is not known, and as one that is brief
            await connection.fetch("SELECT name FROM users WHERE id = ?", 1)
            call = connection.fetch("SELECT name FROM users WHERE id = ?", 1)

            assert await asyncio.to_thread(asyncio.run, outcome_of(call)) is WrongLoopError

        await connection.execute(INSERT, 1, "x")
    assert await store.fetch(NAMES) == [("x",)]


async def test_a_transaction_is_entered_on_the_loop_of_its_store(store: EventStore) -> None:
    async def enter(transaction: AbstractAsyncContextManager[object]) -> None:
        async with transaction:
            pass

    transaction = store.transaction()

    assert await asyncio.to_thread(asyncio.run, outcome_of(enter(transaction))) is WrongLoopError


async def outcome_of(call: Coroutine[Any, Any, object]) -> type:
    """Return the class of what ``call`` returns or raises."""
    try:
        return type(await call)
    except Exception as exc:  # noqa: BLE001 - is looked at by the test
        return type(exc)


async def after_turns(count: int, event: asyncio.Event) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
    event.set()
