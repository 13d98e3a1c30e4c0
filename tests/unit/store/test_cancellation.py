"""Wherever a call of the store is cancelled: it is done or not done, never half, and the store goes on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, stamp
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult, Connection
from tests.unit.store.cuts import Cut, at_every_place
from tests.waiting import until

FILES = ["sqlite:///{folder}/events.db?writer=thread", "sqlite:///{folder}/events.db?writer=inline"]
DATABASES = [*FILES, "sqlite://?writer=thread", "sqlite://?writer=inline"]
STORES = ["memory", *DATABASES]


class Added(Event, event_type="cancellation.added", aggregate_id="total_id"):
    total_id: str
    amount: int


class Total(AggregateRoot):
    amount: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Added):
            self.amount += event.amount


async def connect(url: str, folder: Path, **options: Any) -> EventStore:
    return EventStore(**options) if url == "memory" else await EventStore.connect(url.format(folder=folder), **options)


def batch(*amounts: int) -> list[EventEnvelope[Any]]:
    return [stamp(Added("a", amount), clock=SYSTEM_CLOCK) for amount in amounts]


async def amounts(store: EventStore) -> list[int]:
    return [stored.event.amount async for stored in store.read_all()]


@pytest.mark.parametrize("url", STORES)
def test_an_append_is_whole_or_absent_and_can_be_repeated(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store:
            envelopes = batch(1, 2, 3)
            await cut(store.append("a", envelopes, expected_version=0))

            assert await store.version_of("a") in {0, 3}
            assert await store.append("a", envelopes, expected_version=0) == AppendResult(3, 3)
            assert await store.append("a", Added("a", 4), expected_version=3) == AppendResult(4, 4)
            assert await amounts(store) == [1, 2, 3, 4]

    assert at_every_place(tmp_path, scenario) == (0 if url == "memory" else 2)


@pytest.mark.parametrize("url", STORES)
@pytest.mark.parametrize("read", ["get_events", "read_stream", "read_all", "version_of", "last_position"])
def test_a_read_can_be_repeated(tmp_path: Path, url: str, read: str) -> None:
    async def answer(store: EventStore) -> Any:
        match read:
            case "get_events":
                return await store.get_events("a")
            case "read_stream":
                return [stored async for stored in store.read_stream("a")]
            case "read_all":
                return [stored async for stored in store.read_all()]
            case "version_of":
                return await store.version_of("a")
            case _:
                return await store.last_position()

    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store:
            await store.append("a", [Added("a", number) for number in range(1_001)])  # three pages
            await cut(answer(store))

            again = await answer(store)
            assert (again if isinstance(again, int) else len(again)) == 1_001
            assert await store.append("a", Added("a", 0)) == AppendResult(1_002, 1_002)

    at_every_place(tmp_path, scenario)


@pytest.mark.parametrize("url", STORES)
def test_a_step_of_a_follower_loses_nothing(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store, asyncio.TaskGroup() as tasks:
            await store.append("a", Added("a", 1))
            follower = store.subscribe()
            seen = [(await anext(follower)).event.amount]
            tasks.create_task(store.append("a", Added("a", 2)))
            stored = await cut(anext(follower))  # looks, waits for the append, looks again
            seen += [] if stored is None else [stored.event.amount]
            await store.append("a", Added("a", 3))

            while len(seen) < 3:
                seen.append((await anext(follower)).event.amount)

            assert seen == [1, 2, 3]

    assert at_every_place(tmp_path, scenario) >= 2


@pytest.mark.parametrize("url", STORES)
def test_a_save_leaves_an_aggregate_that_can_be_saved_again(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store:
            total = Total("a")
            for amount in (1, 2):
                total.record(Added("a", amount))
            await cut(store.save(total))

            await store.save(total)

            assert (total.uncommitted, total.version) == ((), 2)
            assert await amounts(store) == [1, 2]

    at_every_place(tmp_path, scenario)


@pytest.mark.parametrize("url", STORES)
def test_a_load_and_the_snapshot_it_leaves_can_be_repeated(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder, snapshot_every=1) as store:
            for amount in (1, 2):
                await store.append("a", Added("a", amount))
                await cut(store.load(Total, "a"))
            total = await store.load(Total, "a")

            assert (total.amount, total.version) == (3, 2)
            assert await store.append("b", Added("b", 4)) == AppendResult(1, 3)

    at_every_place(tmp_path, scenario)


@pytest.mark.parametrize("url", DATABASES)
def test_a_transaction_is_committed_or_undone_and_holds_nobody_up(tmp_path: Path, url: str) -> None:
    async def move(store: EventStore) -> None:
        async with store.transaction() as connection:
            await connection.execute("INSERT INTO totals VALUES (1)")
            await connection.execute("INSERT INTO totals VALUES (2)")

    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store:
            async with store.transaction() as connection:
                await connection.execute("CREATE TABLE totals (amount INTEGER)")
            await cut(move(store))

            assert await store.append("a", Added("a", 1), expected_version=0) == AppendResult(1, 1)
            async with store.transaction() as connection:
                rows = await connection.fetch("SELECT amount FROM totals ORDER BY amount")
            assert rows in ([], [(1,), (2,)])
            assert cut.has_happened or rows

    at_every_place(tmp_path, scenario)


@pytest.mark.parametrize("url", DATABASES)
def test_a_turn_in_the_queue_for_a_transaction_is_given_up(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store, asyncio.TaskGroup() as tasks:
            has_begun, may_end = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with store.transaction() as connection:
                    await connection.execute("CREATE TABLE held (at TEXT)")
                    has_begun.set()
                    await may_end.wait()

            tasks.create_task(hold())
            await has_begun.wait()
            asyncio.get_running_loop().call_soon(may_end.set)
            await cut(rows_of(store, "held"))
            may_end.set()

            assert await rows_of(store, "held") == []
            assert await store.append("a", Added("a", 1)) == AppendResult(1, 1)

    at_every_place(tmp_path, scenario)


async def rows_of(store: EventStore, table: str) -> list[tuple[Any, ...]]:
    async with store.transaction() as connection:
        return await connection.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a name of this file


@pytest.mark.parametrize("url", STORES)
def test_a_close_goes_on_or_can_be_repeated_and_loses_nothing(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        store = await connect(url, folder)
        follower = store.subscribe()
        await store.get_events("a")
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(to_the_end(follower))
            appending = [tasks.create_task(store.append("a", Added("a", number))) for number in range(20)]
            await asyncio.sleep(0)
            await cut(store.close())
            await store.close()

        assert [task.result().version for task in appending] == [*range(1, 21)]
        assert following.result() <= 20
        if "{folder}" in url:
            async with await connect(url, folder) as again:
                assert sorted(await amounts(again)) == [*range(20)]

    at_every_place(tmp_path, scenario)


async def to_the_end(follower: Any) -> int:
    return len([stored async for stored in follower])


async def test_an_append_that_is_cancelled_while_it_is_written_is_written_or_not(tmp_path: Path) -> None:
    async with await connect(FILES[0], tmp_path) as store, asyncio.TaskGroup() as tasks:
        await store.append("a", Added("a", 0))
        envelopes = batch(1, 2)
        with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            appending = tasks.create_task(store.append("a", envelopes))
            neighbour = tasks.create_task(store.append("a", Added("a", 3)))
            await store.last_position()
            appending.cancel()
            await until(appending.done)
            other.execute("ROLLBACK")
        await neighbour

        assert await store.version_of("a") in {2, 4}
        assert (await store.append("a", envelopes)).version in {3, 4}
        assert sorted(await amounts(store)) == [0, 1, 2, 3]


async def test_a_transaction_that_is_cancelled_while_it_waits_for_the_lock_is_not_begun(tmp_path: Path) -> None:
    async with await connect(FILES[0], tmp_path) as store, asyncio.TaskGroup() as tasks:
        with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = tasks.create_task(rows_of(store, "avx_events"))
            await store.last_position()
            waiting.cancel()
            await until(waiting.done)
            other.execute("ROLLBACK")

        assert await store.append("a", Added("a", 1)) == AppendResult(1, 1)


@pytest.mark.parametrize("url", DATABASES)
def test_a_statement_that_is_cancelled_does_not_end_its_transaction(tmp_path: Path, url: str) -> None:
    async def insert(connection: Connection, amount: int) -> None:
        await connection.execute("INSERT INTO totals VALUES (?)", amount)

    async def scenario(folder: Path, cut: Cut) -> None:
        async with await connect(url, folder) as store:
            async with store.transaction() as connection:
                await connection.execute("CREATE TABLE totals (amount INTEGER)")
                await cut(insert(connection, 1))
                await insert(connection, 2)

            # A statement that was begun is done to its end, if it is a short one.
            assert await rows_of(store, "totals") in ([(1,), (2,)], [(2,)])

    at_every_place(tmp_path, scenario)
