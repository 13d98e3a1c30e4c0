"""Outbox and inbox on connections of asyncpg, whose transactions run at once and commit in any order."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from avx_events.core.errors import TransactionError
from avx_events.patterns.outbox import Inbox, Outbox, OutboxRelay
from avx_events.store.event_store import EventStore
from avx_events.testing import ManualClock
from tests.unit.patterns.outbox.buses import Noted, OwnedBus
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
DAY_S = 86_400.0


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Connection, None]:
    connection: Connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def store(postgres_database: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(postgres_database) as opened:
        yield opened


@pytest.fixture
async def outbox(store: EventStore) -> Outbox:
    outbox = Outbox()
    await outbox.prepare(store)
    return outbox


async def test_a_row_that_is_committed_after_others_with_greater_numbers_is_published(
    postgres_database: str, store: EventStore, outbox: Outbox
) -> None:
    bus = OwnedBus()
    async with (
        connected(postgres_database) as late,
        connected(postgres_database) as early,
        OutboxRelay(store, bus, poll_s=0.001) as running,
    ):
        transaction = late.transaction()
        await transaction.start()
        await outbox.add(Noted("late", 1), late)
        for number in range(2, 300):
            async with early.transaction():
                await outbox.add(Noted("early", number), early)
        await until(lambda: len(bus.accepted) == 298)
        await running.caught_up()  # of what is committed
        await transaction.commit()
        await running.caught_up()

    assert bus.numbers == [*range(2, 300), 1]
    assert await store.fetch("SELECT * FROM avx_outbox") == []


async def test_a_connection_of_a_pool_adds_and_one_outside_of_a_transaction_is_refused(
    postgres_database: str, store: EventStore, outbox: Outbox
) -> None:
    bus = OwnedBus()
    async with asyncpg.create_pool(postgres_database, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        with pytest.raises(TransactionError, match="begin one first"):
            await outbox.add(Noted("a", 1), connection)
        async with connection.transaction():
            await outbox.prepare(connection)
            await outbox.add(Noted("a", 2), connection)
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [2]


async def test_many_who_make_the_tables_at_once_all_succeed(postgres_database: str) -> None:
    async def prepare() -> None:
        async with connected(postgres_database) as connection, connection.transaction():
            await Outbox().prepare(connection)
            await Inbox(name="billing").prepare(connection)

    async def enter(store: EventStore) -> None:
        async with OutboxRelay(store, OwnedBus()):
            pass

    async with await EventStore.connect(postgres_database) as store, asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(prepare())
            tasks.create_task(enter(store))


async def inserted(connection: Connection) -> list[Any]:
    return [row[0] for row in await connection.fetch("SELECT event_id FROM avx_inbox ORDER BY event_id")]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_of_two_deliveries_at_once_the_second_waits_for_the_end_of_the_first(
    postgres_database: str, store: EventStore, *, is_committed: bool
) -> None:
    inbox = Inbox(name="billing")
    await inbox.prepare(store)
    async with connected(postgres_database) as one, connected(postgres_database) as other:
        first, second = one.transaction(), other.transaction()
        await first.start()
        await second.start()
        assert await inbox.first_time("e-1", one)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(inbox.first_time("e-1", other))
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not (await store.fetch(blocked))[0][0]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nothing announces that a statement waits
            assert not waiting.done()
            await (first.commit() if is_committed else first.rollback())
        assert waiting.result() is not is_committed
        await second.commit()

        assert await inserted(other) == ["e-1"]


async def test_an_inbox_prunes_past_rows_that_another_transaction_prunes(
    postgres_database: str, store: EventStore
) -> None:
    clock = ManualClock()
    inboxes = [Inbox(name="billing", keep_s=DAY_S, clock=clock) for _ in range(2)]
    await inboxes[0].prepare(store)
    async with connected(postgres_database) as one, connected(postgres_database) as other:
        async with one.transaction():
            for number in range(300):
                await Inbox(name="billing", clock=clock).first_time(f"old-{number:03}", one)
        clock.advance(2 * DAY_S)

        first, second = one.transaction(), other.transaction()
        await first.start()
        await second.start()
        for number in range(10):
            await inboxes[0].first_time(f"new-{number}", one)
            await inboxes[1].first_time(f"newer-{number}", other)  # would wait for the first where it locked its rows
        await first.commit()
        await second.commit()

        assert len(await inserted(one)) == 20


async def test_a_relay_gives_up_a_transaction_in_which_it_stands_still(store: EventStore) -> None:
    async with OutboxRelay(store, OwnedBus(), lease_s=0.3) as running:
        await until(lambda: running.is_active)
    settings: list[str] = []
    async with store.transaction() as connection:
        await running._lease.renew(connection)
        settings += [row[0] for row in await connection.fetch("SHOW idle_in_transaction_session_timeout")]
    settings += [row[0] for row in await store.fetch("SHOW idle_in_transaction_session_timeout")]

    assert settings == ["300ms", "0"]
