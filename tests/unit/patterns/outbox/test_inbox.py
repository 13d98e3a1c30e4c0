"""An event that is delivered again, later or at the same time, has its effect once."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import HandlerDefinitionError, InvalidArgumentError, TransactionError
from avx_events.core.metadata import EventEnvelope, stamp
from avx_events.core.policy import Retry
from avx_events.patterns.outbox import Inbox, inbox_ddl
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.testing import ManualClock
from tests.unit.patterns.outbox.buses import Noted
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

DAY_S = 86_400.0
AT_ONCE = Retry(attempts=3, initial_s=0, max_s=0)


@pytest.fixture
async def bills(store: EventStore) -> EventStore:
    async with store.transaction() as connection:
        await connection.execute("CREATE TABLE bills (number INTEGER)")
    return store


async def numbers(store: EventStore) -> list[int]:
    return [number for (number,) in await store.fetch("SELECT number FROM bills ORDER BY number")]


async def bill(inbox: Inbox, event_id: str, number: int) -> bool:
    async with inbox.once(event_id) as connection:
        if connection is None:
            return False
        await execute(connection, "INSERT INTO bills VALUES (?)", number)
    return True


async def test_the_effect_of_an_event_happens_once(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")

    assert [await bill(inbox, event_id, at) for at, event_id in enumerate(["e-1", "e-2", "e-1"])] == [True, True, False]
    assert await numbers(bills) == [0, 1]


async def test_it_is_remembered_by_the_next_process(bills: EventStore) -> None:
    assert await bill(Inbox(bills, name="billing"), "e-1", 1)
    assert not await bill(Inbox(bills, name="billing"), "e-1", 2)


async def test_an_event_counts_once_for_each_name(bills: EventStore) -> None:
    for name in ("billing", "shipping"):
        assert await bill(Inbox(bills, name=name), "e-1", 1)


async def test_what_was_undone_has_not_happened(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")

    async def fail() -> None:
        async with inbox.once("e-1") as connection:
            assert connection is not None
            await connection.execute("INSERT INTO bills VALUES (1)")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    assert await bill(inbox, "e-1", 2)
    assert await numbers(bills) == [2]


async def test_of_two_deliveries_at_once_one_waits_for_the_other(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")
    may_end = asyncio.Event()
    order: list[str] = []

    async def slow() -> None:
        async with inbox.once("e-1") as connection:
            assert connection is not None
            await connection.execute("INSERT INTO bills VALUES (1)")
            order.append("begun")
            await may_end.wait()
            order.append("done")

    async def second() -> None:
        await until(lambda: order)
        async with inbox.once("e-1") as connection:
            order.append(f"second: {connection}")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(slow())
        tasks.create_task(second())
        await until(lambda: order)
        for _ in range(20):
            await asyncio.sleep(0)
        may_end.set()

    assert order == ["begun", "done", "second: None"]


async def test_a_second_delivery_wins_where_the_first_is_undone(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")
    may_fail = asyncio.Event()
    has_begun = asyncio.Event()

    async def fail() -> None:
        async with inbox.once("e-1"):
            has_begun.set()
            await may_fail.wait()
            raise RuntimeError

    async def failing() -> None:
        with pytest.raises(RuntimeError):
            await fail()

    async def second() -> bool:
        await has_begun.wait()
        return await bill(inbox, "e-1", 2)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(failing())
        won = tasks.create_task(second())
        await has_begun.wait()
        may_fail.set()

    assert won.result()


async def test_the_block_of_one_that_was_handled_holds_nobody_up(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")
    await bill(inbox, "e-1", 1)
    async with inbox.once("e-1") as connection:
        assert connection is None
        assert await bill(inbox, "e-2", 2)  # on the same writer


# Handlers of a bus


async def test_a_handler_is_passed_over_for_an_event_that_comes_again(bills: EventStore) -> None:
    bus, inbox = EventBus(), Inbox(bills, name="billing")

    @bus.on(Noted)
    @inbox.handler
    async def bill_order(event: Noted, connection: Connection) -> None:
        """Write a bill."""
        await execute(connection, "INSERT INTO bills VALUES (?)", event.number)

    envelope = stamp(Noted("a", 1), clock=ManualClock())
    async with bus:
        for _ in range(3):
            await bus.publish(envelope)
        await bus.settled()
        assert bus.statistics().handled == 3

    assert await numbers(bills) == [1]
    assert bill_order.__doc__ == "Write a bill."


async def test_a_handler_is_given_the_envelope_where_it_asks_for_it(bills: EventStore) -> None:
    bus, inbox = EventBus(), Inbox(bills, name="billing")
    seen: list[EventEnvelope[Noted]] = []

    @bus.on(Noted)
    @inbox.handler
    async def handle(event: Noted, connection: Connection, envelope: EventEnvelope[Noted]) -> None:
        seen.append(envelope)

    async with bus:
        metadata = await bus.publish(Noted("a", 1))
        await bus.settled()

    assert [envelope.metadata for envelope in seen] == [metadata]


async def test_a_failed_attempt_of_a_handler_is_made_again_and_leaves_nothing(bills: EventStore) -> None:
    bus, inbox = EventBus(dead_letter_queue=DeadLetterQueue()), Inbox(bills, name="billing")
    attempts: list[int] = []

    @bus.on(Noted, retry=AT_ONCE)
    @inbox.handler
    async def handle(event: Noted, connection: Connection) -> None:
        attempts.append(event.number)
        await execute(connection, "INSERT INTO bills VALUES (?)", event.number)
        if len(attempts) < 3:
            raise ConnectionError

    async with bus:
        await bus.publish(Noted("a", 1))
        await bus.settled()

    assert attempts == [1, 1, 1]
    assert await numbers(bills) == [1]


async def test_what_cannot_be_an_inboxs_handler_is_refused(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")

    def plain(event: Noted, connection: Connection) -> None: ...

    async def too_few(event: Noted) -> None: ...

    async def by_keyword(event: Noted, *, connection: Connection) -> None: ...

    for function in (plain, too_few, by_keyword):
        with pytest.raises(HandlerDefinitionError):
            inbox.handler(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Connections of others


async def test_the_callers_own_connection_remembers(tmp_path: Any) -> None:
    inbox = Inbox(name="billing")
    with closing(sqlite3.connect(tmp_path / "bills.db")) as database:
        database.executescript(inbox_ddl("sqlite"))
        with database:
            assert inbox.first_time_nowait("e-1", database)
        with database:
            assert not await inbox.first_time("e-1", database)
            assert await inbox.first_time("e-2", database)
            database.rollback()
        with database:
            assert await inbox.first_time("e-2", database)


async def test_a_transaction_of_the_store_that_is_open_remembers(bills: EventStore) -> None:
    inbox = Inbox(name="billing")
    await inbox.prepare(bills)
    async with bills.transaction() as connection:
        await inbox.prepare(connection)
        assert await inbox.first_time("e-1", connection)
        assert not await inbox.first_time("e-1", connection)


# How long


async def remembered(store: EventStore) -> list[str]:
    return [event_id for (event_id,) in await store.fetch("SELECT event_id FROM avx_inbox ORDER BY event_id")]


async def test_what_is_older_than_it_is_kept_is_forgotten_little_by_little(bills: EventStore) -> None:
    clock = ManualClock()
    inbox, other = Inbox(bills, name="billing", keep_s=DAY_S, clock=clock), Inbox(bills, name="other", clock=clock)
    for number in range(300):
        await bill(inbox, f"old-{number:03}", number)
    assert await bill(other, "others", 0)
    clock.advance(2 * DAY_S)

    for number in range(10):
        await bill(inbox, f"new-{number}", number)
    assert len(await remembered(bills)) == 300 - 200 + 10 + 1
    for number in range(10, 20):
        await bill(inbox, f"new-{number}", number)
    assert len(await remembered(bills)) == 20 + 1
    assert "others" in await remembered(bills)


async def test_an_id_is_remembered_for_as_long_as_it_is_kept(bills: EventStore) -> None:
    clock = ManualClock()
    inbox = Inbox(bills, name="billing", clock=clock)
    await bill(inbox, "e-1", 1)
    clock.advance(13 * DAY_S)
    for number in range(30):
        await bill(inbox, f"new-{number}", number)

    assert not await bill(inbox, "e-1", 1)


# What cannot be


async def test_an_inbox_without_a_store_begins_no_transaction() -> None:
    with pytest.raises(TransactionError, match=r"first_time\(\)"):
        async with Inbox(name="billing").once("e-1"):
            pass


async def test_what_is_not_acceptable_is_refused(bills: EventStore) -> None:
    inbox = Inbox(bills, name="billing")
    for options in ({"name": ""}, {"name": "a", "keep_s": 0}, {"name": "a", "store": "sqlite://"}):
        given: dict[str, Any] = dict(options)
        with pytest.raises(InvalidArgumentError):
            Inbox(given.pop("store", bills), **given)
    with pytest.raises(InvalidArgumentError):
        async with inbox.once(""):
            pass
    with pytest.raises(InvalidArgumentError):
        await inbox.first_time("e-1", object())
    assert inbox.name == "billing"
