"""Bounded subscriptions: who waits, who is refused, what is dropped, and that a publish reaches all or none."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from avx_events import Event, Retry, RetryAfter
from avx_events.bus.event_bus import EventBus
from avx_events.bus.subscriber import Subscriber
from avx_events.core.errors import ClosedError, EngineFailedError, SubscriptionFullError
from avx_events.testing.clock import ManualClock
from tests.waiting import until


class Filled(Event, aggregate_id="key"):
    key: str
    number: int = 0


class Other(Event, aggregate_id="key"):
    key: str
    number: int = 0


def numbers(events: list[Any]) -> list[int]:
    return [event.number for event in events]


async def a_full(bus: EventBus, *classes: type[Any], capacity: int = 2) -> Subscriber[Any]:
    """Return a subscriber that was given ``capacity`` events with the numbers from 0."""
    subscriber = await bus.subscribe(*classes, capacity=capacity)
    for number in range(capacity):
        await bus.publish(classes[0]("a", number))
    return subscriber


def waiting(subscriber: Subscriber[Any]) -> int:
    return subscriber.statistics().waiting_publishers


async def test_publishers_wait_for_room_and_get_in_first_come_first_served() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled, capacity=4)
    order: list[int] = []

    async def publish(number: int) -> None:
        await bus.publish(Filled("a", number))
        order.append(number)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for number in range(4, 20):
            tasks.create_task(publish(number))
        await until(lambda: waiting(subscriber) == 16)
        read = [await subscriber.recv() for _ in range(20)]

    assert numbers(read) == list(range(20))
    assert order == list(range(4, 20))
    assert bus.statistics().published == 20


async def test_a_publisher_is_woken_at_half_full() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled, capacity=4)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        publish = tasks.create_task(bus.publish(Filled("a", 4)))
        await until(lambda: waiting(subscriber))
        await subscriber.recv()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not publish.done()
        await subscriber.recv()
        await publish

    assert numbers(await subscriber.recv_many()) == [2, 3, 4]


async def test_nobody_overtakes_a_publisher_that_waits_though_there_is_room() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled, capacity=4)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish(Filled("a", 4)))
        await until(lambda: waiting(subscriber))
        await subscriber.recv()
        with pytest.raises(SubscriptionFullError):
            bus.publish_nowait(Filled("a", 99))
        tasks.create_task(bus.publish(Filled("a", 5)))
        await until(lambda: waiting(subscriber) == 2)
        await subscriber.recv()
        await until(lambda: not waiting(subscriber))

    assert numbers(await subscriber.recv_many()) == [2, 3, 4, 5]


async def test_a_publish_reaches_nobody_while_one_of_several_is_full() -> None:
    bus = EventBus()
    free = await bus.subscribe(Filled)
    full = await a_full(bus, Filled)
    last = await bus.subscribe(Filled)
    await free.recv_many()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        publish = tasks.create_task(bus.publish(Filled("a", 7)))
        await until(lambda: waiting(full))
        assert [free.statistics().queued, last.statistics().queued] == [0, 0]
        await full.recv_many()
        await publish

    assert [numbers(await each.recv_many()) for each in (free, full, last)] == [[7], [7], [7]]


@pytest.mark.parametrize("is_woken", [False, True])
async def test_a_cancelled_publish_reaches_nobody_and_lets_the_next_one_in(*, is_woken: bool) -> None:
    bus = EventBus()
    other = await bus.subscribe(Filled)
    subscriber = await a_full(bus, Filled)
    await other.recv_many()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        cancelled = tasks.create_task(bus.publish(Filled("a", 7)))
        tasks.create_task(bus.publish(Filled("a", 8)))
        await until(lambda: waiting(subscriber) == 2)
        if is_woken:
            await subscriber.recv_many()  # which wakes it; it has not run yet
        cancelled.cancel()
        await until(cancelled.done)
        if not is_woken:
            await subscriber.recv_many()

    assert numbers(await subscriber.recv_many()) == [8]
    assert numbers(await other.recv_many()) == [8]
    assert bus.statistics().published == 3


async def test_publishers_that_wait_for_overlapping_subscriptions_all_get_in_and_in_one_order() -> None:
    bus = EventBus()
    left = await bus.subscribe(Filled, capacity=2)
    right = await bus.subscribe(Other, capacity=2)
    both = await bus.subscribe(Filled, Other, capacity=3)
    seen: dict[str, list[tuple[str, int]]] = {"left": [], "right": [], "both": []}

    async def read(name: str, subscriber: Subscriber[Any], pause: int) -> None:
        async for event in subscriber:
            seen[name].append((type(event).__name__, event.number))
            for _ in range(pause):
                await asyncio.sleep(0)

    async def publish(kind: Callable[[str, int], object], base: int) -> None:
        for number in range(base, base + 20):
            await bus.publish(kind("a", number))

    async with asyncio.timeout(10), asyncio.TaskGroup() as readers:
        readers.create_task(read("left", left, 1))
        readers.create_task(read("right", right, 3))
        readers.create_task(read("both", both, 2))
        async with asyncio.TaskGroup() as publishers:
            for base in range(0, 100, 20):
                publishers.create_task(publish(Filled, base))
                publishers.create_task(publish(Other, base))
        await bus.close()

    assert len(seen["both"]) == 200
    assert seen["left"] == [entry for entry in seen["both"] if entry[0] == "Filled"]
    assert seen["right"] == [entry for entry in seen["both"] if entry[0] == "Other"]


async def test_a_subscriber_that_is_closed_holds_no_publisher_back() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled)
    other = await bus.subscribe(Filled)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish(Filled("a", 7)))
        tasks.create_task(bus.publish(Filled("a", 8)))
        await until(lambda: waiting(subscriber) == 2)
        await subscriber.close()

    assert numbers(await subscriber.recv_many()) == [0, 1]
    assert numbers(await other.recv_many()) == [7, 8]


async def test_closing_the_bus_refuses_those_who_wait() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled)

    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as tasks:
            refused = [tasks.create_task(outcome(bus.publish(Filled("a", number)))) for number in (7, 8)]
            many = tasks.create_task(outcome(bus.publish_many([Filled("a", 9), Other("a", 10)])))
            await until(lambda: waiting(subscriber) == 3)
            await bus.close()

    assert [type(task.result()) for task in (*refused, many)] == [ClosedError] * 3
    assert numbers(await subscriber.recv_many()) == [0, 1]
    assert bus.statistics().published == 2


async def outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - what it raised is what the test looks at
        return error


async def test_publish_many_goes_in_as_there_is_room_however_many_there_are() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Filled, capacity=3)
    seen: list[int] = []

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish_many([Filled("a", number) for number in range(50)]))
        for _ in range(50):
            seen += numbers([await subscriber.recv()])
            assert subscriber.statistics().queued <= 3

    assert seen == list(range(50))


async def test_publish_many_reaches_those_who_had_subscribed_when_it_was_called() -> None:
    bus = EventBus()
    full = await a_full(bus, Filled)
    early = await bus.subscribe(Other)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish_many([Filled("a", 2), Other("a", 3)]))
        await until(lambda: waiting(full))
        late = await bus.subscribe(Filled, Other)
        await full.recv_many()

    assert (early.statistics().queued, late.statistics().queued) == (1, 0)


async def test_publish_many_that_is_cancelled_counts_what_went_in() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Filled, capacity=3)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        publish = tasks.create_task(bus.publish_many([Filled("a", number) for number in range(10)]))
        await until(lambda: waiting(subscriber))
        publish.cancel()

    assert numbers(await subscriber.recv_many()) == [0, 1, 2]
    assert bus.statistics().published == bus.statistics().delivered == 3


async def test_publish_nowait_that_would_wait_is_refused_and_nobody_gets_it() -> None:
    bus = EventBus()
    other = await bus.subscribe(Filled)
    await a_full(bus, Filled)
    last = await bus.subscribe(Filled)
    await other.recv_many()

    with pytest.raises(SubscriptionFullError, match="subscriber-2"):
        bus.publish_nowait(Filled("a", 7))

    assert other.statistics().queued == last.statistics().queued == 0
    assert bus.statistics().published == 2


async def test_drop_oldest_keeps_the_newest_and_counts_the_others() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Filled, capacity=3, overflow="drop_oldest")

    for number in range(5):
        await bus.publish(Filled("a", number))
    await bus.publish_many([Filled("a", number) for number in range(5, 12)])
    bus.publish_nowait(Filled("a", 12))

    assert numbers(await subscriber.recv_many()) == [10, 11, 12]
    assert (subscriber.statistics().dropped, subscriber.statistics().delivered) == (10, 3)


async def test_drop_newest_keeps_the_oldest_and_counts_the_others() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Filled, capacity=3, overflow="drop_newest")

    await bus.publish_many([Filled("a", number) for number in range(2)])
    await bus.publish_many([Filled("a", number) for number in range(2, 6)])
    await bus.publish(Filled("a", 6))
    bus.publish_nowait(Filled("a", 7))

    assert numbers(await subscriber.recv_many()) == [0, 1, 2]
    assert (subscriber.statistics().dropped, subscriber.statistics().delivered) == (5, 3)


async def test_raise_refuses_for_everybody() -> None:
    bus = EventBus()
    first = await bus.subscribe(Filled)
    strict = await bus.subscribe(Filled, capacity=2, overflow="raise", name="strict")
    await bus.publish_many([Filled("a", number) for number in range(2)])

    with pytest.raises(SubscriptionFullError, match="strict"):
        await bus.publish(Filled("a", 7))
    with pytest.raises(SubscriptionFullError, match="strict"):
        bus.publish_nowait(Filled("a", 8))
    await strict.recv()
    with pytest.raises(SubscriptionFullError, match="strict"):
        await bus.publish_many([Filled("a", 9), Filled("a", 10)])

    assert numbers(await first.recv_many()) == [0, 1, 9]
    assert numbers(await strict.recv_many()) == [1, 9]
    assert bus.statistics().published == 3


@pytest.mark.parametrize("is_inside", [False, True])
async def test_of_publish_many_what_fits_is_published_before_it_is_refused(*, is_inside: bool) -> None:
    bus = EventBus()
    strict = await bus.subscribe(Filled, capacity=3, overflow="raise")

    async def publish_five() -> None:
        with pytest.raises(SubscriptionFullError):
            await bus.publish_many([Filled("a", number) for number in range(5)])

    @bus.on(Other)
    async def handler(event: Other) -> None:
        await publish_five()

    async with asyncio.timeout(5), bus:
        if is_inside:
            await bus.publish(Other("a"))
            await bus.settled()
        else:
            await publish_five()
        assert numbers(await strict.recv_many()) == [0, 1, 2]
        assert bus.statistics().handled == int(is_inside)


async def test_a_refusal_comes_before_any_wait() -> None:
    bus = EventBus()
    await a_full(bus, Filled)
    await bus.subscribe(Other, capacity=1, overflow="raise")
    await bus.publish(Other("a"))
    await bus.subscribe(Filled, Other)

    with pytest.raises(SubscriptionFullError):
        async with asyncio.timeout(5):
            await bus.publish(Other("b"))


async def test_subscriptions_of_all_policies_get_their_own_from_one_publisher() -> None:
    bus = EventBus()
    patient = await bus.subscribe(Filled, capacity=2)
    newest = await bus.subscribe(Filled, capacity=2, overflow="drop_oldest")
    oldest = await bus.subscribe(Filled, capacity=2, overflow="drop_newest")
    seen: list[int] = []

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish_many([Filled("a", number) for number in range(9)]))
        while len(seen) < 9:
            seen += numbers([await patient.recv()])

    assert seen == list(range(9))
    assert numbers(await newest.recv_many()) == [7, 8]
    assert numbers(await oldest.recv_many()) == [0, 1]


async def test_a_handler_that_publishes_on_its_own_full_bus_never_waits() -> None:
    bus = EventBus()
    seen: list[int] = []
    most = 0

    @bus.on(Filled, capacity=2)
    async def spread(event: Filled) -> None:
        nonlocal most
        seen.append(event.number)
        if event.number == 0:
            for number in range(1, 6):
                await bus.publish(Filled("a", number))
            await bus.publish_many([Filled("a", number) for number in (6, 7)])
            bus.publish_nowait(Filled("a", 8))
            most = bus.statistics().over_capacity

    async with asyncio.timeout(5), bus:
        await bus.publish(Filled("a", 0))
        await bus.settled()

    assert seen == list(range(9))
    assert most == 6
    assert bus.statistics().over_capacity == 0


async def test_outside_publishers_wait_until_what_handlers_published_fits_again() -> None:
    bus = EventBus()
    go = asyncio.Event()
    seen: list[int] = []

    @bus.on(Filled, capacity=2)
    async def spread(event: Filled) -> None:
        if event.number == 0:
            for number in range(1, 5):
                await bus.publish(Filled("a", number))
            await go.wait()
        seen.append(event.number)

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:
        await bus.publish(Filled("a", 0))
        await until(lambda: bus.statistics().over_capacity == 2)
        outside = tasks.create_task(bus.publish(Filled("a", 9)))
        await until(lambda: bus.statistics().waiting_publishers)
        assert not outside.done()
        go.set()
        await outside
        await bus.settled()

    assert seen == [0, 1, 2, 3, 4, 9]


async def test_a_task_of_a_handler_publishes_as_the_handler_does() -> None:
    bus = EventBus()
    seen: list[int] = []

    @bus.on(Filled, capacity=1)
    async def spread(event: Filled) -> None:
        seen.append(event.number)
        if event.number == 0:
            async with asyncio.TaskGroup() as tasks:
                for number in range(1, 5):
                    tasks.create_task(bus.publish(Filled("a", number)))

    async with asyncio.timeout(5), bus:
        await bus.publish(Filled("a", 0))
        await bus.settled()

    assert sorted(seen) == [0, 1, 2, 3, 4]


async def test_a_handler_in_a_thread_publishes_on_its_full_bus_without_waiting() -> None:
    bus = EventBus()
    seen: list[int] = []

    @bus.on(Filled, capacity=1)
    def spread(event: Filled) -> None:
        seen.append(event.number)
        if event.number == 0:
            for number in range(1, 5):
                bus.publish_threadsafe(Filled("a", number)).result(timeout=5)

    async with asyncio.timeout(5), bus:
        await bus.publish(Filled("a", 0))
        await bus.settled()

    assert seen == [0, 1, 2, 3, 4]


async def test_a_delivery_block_publishes_on_its_full_bus_without_waiting() -> None:
    bus = EventBus()
    subscriber = await a_full(bus, Filled)

    async with asyncio.timeout(5):
        async for delivery in subscriber.deliveries():
            async with delivery as event:
                if event.number == 0:
                    for number in range(2, 6):
                        await bus.publish(Filled("a", number))
                    assert subscriber.statistics().over_capacity == 3
            if event.number == 5:
                break

    assert subscriber.statistics().handled == 6


async def test_a_handler_that_reads_deliveries_publishes_on_its_own_full_bus_without_waiting() -> None:
    bus, other = EventBus(), EventBus()
    work = await other.subscribe(Other)
    deliveries = work.deliveries()
    seen: list[int] = []

    @bus.on(Filled, capacity=1)
    async def spread(event: Filled) -> None:
        seen.append(event.number)
        if event.number == 0:
            async with await anext(deliveries):
                for number in range(1, 4):
                    await bus.publish(Filled("a", number))

    await other.publish(Other("a"))
    async with asyncio.timeout(5), bus:
        await bus.publish(Filled("a", 0))
        await bus.settled()

    assert seen == [0, 1, 2, 3]


async def test_publishers_get_in_beside_events_that_wait_for_a_retry() -> None:
    clock = ManualClock()
    bus = EventBus(clock=clock)
    seen: list[str] = []

    @bus.on(Filled, capacity=4, retry=Retry(attempts=2))
    async def handler(event: Filled) -> None:
        if event.key.startswith("bad"):
            raise RetryAfter(3600)
        seen.append(event.key)

    async with asyncio.timeout(5), bus:
        for number in range(3):
            await bus.publish(Filled(f"bad-{number}"))
            await clock.planned(number + 1)
        assert bus.statistics().queued == 3
        async with asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(bus.publish(Filled(f"good-{number}")))
        await until(lambda: len(seen) == 10)
        assert seen == [f"good-{number}" for number in range(10)]
        clock.advance(3600)


async def test_retries_that_take_all_the_room_let_publishers_in_when_one_is_over() -> None:
    clock = ManualClock()
    bus = EventBus(clock=clock)
    is_broken = True
    seen: list[str] = []

    @bus.on(Filled, capacity=2, retry=Retry(attempts=2))
    async def handler(event: Filled) -> None:
        if is_broken:
            raise RetryAfter(60)
        seen.append(event.key)

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:
        for number in range(2):
            await bus.publish(Filled(f"bad-{number}"))
        await clock.planned(2)
        publishes = [tasks.create_task(bus.publish(Filled(f"good-{number}"))) for number in range(3)]
        await until(lambda: bus.statistics().waiting_publishers == 3)
        is_broken = False
        clock.advance(60)
        await asyncio.wait(publishes)
        await bus.settled()

    assert sorted(seen) == ["bad-0", "bad-1", "good-0", "good-1", "good-2"]


async def test_those_who_wait_when_the_bus_fails_are_told_that_it_failed() -> None:
    bus = EventBus()

    @bus.on(Filled, capacity=1)
    async def handler(event: Filled) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), bus:
        for number in range(2):
            await bus.publish(Filled("a", number))
            await asyncio.sleep(0)
        async with asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(outcome(bus.publish(Filled("a", 2))))
            await until(lambda: bus.statistics().waiting_publishers)
            (worker,) = [task for task in asyncio.all_tasks() if "handler" in task.get_name()]
            worker.cancel()

    assert isinstance(waits.result(), EngineFailedError)
