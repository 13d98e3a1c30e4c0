"""The figures of a bus: each counts what its name says, at every moment, and they add up."""

import asyncio

import pytest

from avx_events import DeadLetterQueue, Discard, Event, EventBus, Reject, Retry, TopicBus
from avx_events.bus.statistics import BusStatistics, SubscriptionStatistics
from avx_events.core.errors import SubscriptionFullError
from avx_events.testing import ManualClock
from tests.waiting import until


class Counted(Event, event_type="statistics.counted", aggregate_id="key"):
    key: str
    number: int = 0


class NotCounted(Event, event_type="statistics.not.counted"):
    pass


def figures(statistics: SubscriptionStatistics) -> dict[str, int]:
    """Return the counts that are not 0."""
    names = SubscriptionStatistics.__struct_fields__
    return {name: value for name in names if (value := getattr(statistics, name))}


async def test_a_new_bus_has_counted_nothing() -> None:
    bus = EventBus()
    assert bus.statistics() == BusStatistics()

    await bus.subscribe(Counted, name="reader")

    assert bus.statistics() == BusStatistics(subscriptions={"reader": SubscriptionStatistics()})


async def test_every_moment_of_an_event_in_a_handler_is_counted_once() -> None:
    clock = ManualClock()
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock)
    may_go = asyncio.Event()

    @bus.on(Counted, name="handler", retry=Retry(attempts=2, initial_s=8, max_s=8))
    async def handler(event: Counted) -> None:
        await may_go.wait()
        if event.key == "fails":
            raise RuntimeError
        if event.key == "discards":
            raise Discard
        if event.key == "rejects":
            raise Reject

    async with asyncio.timeout(5), bus:
        await bus.publish(NotCounted())
        await bus.publish_many([Counted(key) for key in ("fails", "fails", "discards", "rejects", "works", "works")])
        await until(lambda: bus.statistics().in_flight)
        assert figures(bus.statistics().subscriptions["handler"]) == {"delivered": 6, "queued": 5, "in_flight": 1}

        may_go.set()
        await until(lambda: bus.statistics().queued == 2)
        waiting = {"delivered": 6, "queued": 2, "retried": 1, "handled": 2, "discarded": 1, "dead_lettered": 1}
        assert figures(bus.statistics().subscriptions["handler"]) == waiting

        for _ in range(3):
            clock.advance(8)
            for _ in range(20):
                await asyncio.sleep(0)
        await bus.settled()
        done = {"delivered": 6, "retried": 2, "handled": 2, "discarded": 1, "dead_lettered": 3}
        assert figures(bus.statistics().subscriptions["handler"]) == done

        assert bus.statistics().published == 7
        assert figures(bus.statistics()) == done

    assert figures(bus.statistics()) == done


async def test_a_redrive_counts_as_handled_and_not_as_delivered_again() -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=ManualClock())
    attempts = 0

    @bus.on(Counted, retry=None)
    async def handler(event: Counted) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError

    async with bus:
        await bus.publish(Counted("a"))
        await bus.settled()
        for _ in range(2):
            (letter,) = await bus.dead_letter_queue.list()
            await bus.republish(letter)
            await bus.settled()

        assert figures(bus.statistics()) == {"delivered": 1, "dead_lettered": 2, "handled": 1}
        assert bus.statistics().published == 1


async def test_a_reader_that_takes_events_handles_none() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Counted)
    await bus.publish_many([Counted("a"), Counted("a"), Counted("a"), Counted("a")])

    await subscriber.recv()
    await subscriber.recv_many(2)

    assert figures(subscriber.statistics()) == {"delivered": 4, "queued": 1}


async def test_what_is_dropped_is_not_among_what_was_delivered() -> None:
    bus = EventBus()
    oldest = await bus.subscribe(Counted, capacity=2, overflow="drop_oldest", name="oldest")
    newest = await bus.subscribe(Counted, capacity=2, overflow="drop_newest", name="newest")
    await bus.subscribe(Counted, capacity=9, overflow="raise", name="strict")

    for number in range(9):
        await bus.publish(Counted("a", number))
        if number == 4:
            await oldest.recv()
            await newest.recv()
    with pytest.raises(SubscriptionFullError):
        await bus.publish(Counted("a", 9))

    statistics = bus.statistics()
    assert {name: figures(each) for name, each in statistics.subscriptions.items()} == {
        "oldest": {"delivered": 3, "dropped": 6, "queued": 2},
        "newest": {"delivered": 3, "dropped": 6, "queued": 2},
        "strict": {"delivered": 9, "queued": 9},
    }
    assert statistics.published * 3 == statistics.delivered + statistics.dropped == 27


async def test_what_a_subscription_counted_stays_in_the_sums_when_it_is_closed_and_its_name_is_free_again() -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=ManualClock())
    subscriber = await bus.subscribe(Counted, name="reader", retry=None, capacity=3, overflow="drop_newest")
    await bus.publish_many([Counted("a", number) for number in range(5)])
    deliveries = subscriber.deliveries()
    async with await anext(deliveries):
        raise RuntimeError
    async with await anext(deliveries):
        pass

    await subscriber.close()
    await bus.subscribe(Counted, name="reader")
    await bus.publish(Counted("a", 5))

    statistics = bus.statistics()
    assert figures(statistics.subscriptions["reader"]) == {"delivered": 1, "queued": 1}
    assert (statistics.delivered, statistics.dropped, statistics.handled, statistics.dead_lettered) == (4, 2, 1, 1)
    assert statistics.published == 6


async def test_what_is_over_capacity_and_who_waits_is_counted_while_it_is_so() -> None:
    bus = EventBus()
    may_go = asyncio.Event()

    @bus.on(Counted, capacity=2, name="handler")
    async def handler(event: Counted) -> None:
        if event.number == 0:
            for number in range(1, 6):
                await bus.publish(Counted("a", number))
            await may_go.wait()

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:
        await bus.publish(Counted("a", 0))
        await until(lambda: bus.statistics().queued == 5)
        tasks.create_task(bus.publish(Counted("a", 6)))
        tasks.create_task(bus.publish_many([Counted("a", 7), Counted("a", 8)]))
        await until(lambda: bus.statistics().waiting_publishers == 2)

        expected = {"delivered": 6, "queued": 5, "in_flight": 1, "over_capacity": 3, "waiting_publishers": 2}
        assert figures(bus.statistics()) == figures(bus.statistics().subscriptions["handler"]) == expected
        assert bus.statistics().published == 6
        may_go.set()
        await until(lambda: bus.statistics().published == 9)
        await bus.settled()

    assert figures(bus.statistics()) == {"delivered": 9, "handled": 9}


async def test_a_publisher_that_waits_for_several_is_one() -> None:
    bus = EventBus()
    full, *roomy = [await bus.subscribe(Counted, capacity=capacity) for capacity in (1, 10, 10)]
    await bus.publish(Counted("a"))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish(Counted("a")))
        await until(lambda: full.statistics().waiting_publishers)
        assert [subscriber.statistics().waiting_publishers for subscriber in roomy] == [1, 1]
        assert bus.statistics().waiting_publishers == 1
        await full.recv()


@pytest.mark.parametrize("bus_class", [EventBus, TopicBus])
async def test_every_way_to_publish_counts_each_event_once(bus_class: type[EventBus | TopicBus]) -> None:
    bus = bus_class()
    subscriber = await (bus.subscribe(Counted) if isinstance(bus, EventBus) else bus.subscribe("**"))

    await bus.publish(Counted("a"))
    await bus.publish(Counted("a"), headers={"h": "1"})
    await bus.publish_many([Counted("a"), Counted("b"), Counted("a")])
    await bus.publish_many([])
    bus.publish_nowait(Counted("a"))
    bus.publish_threadsafe(Counted("a"))
    await asyncio.to_thread(bus.publish_threadsafe, Counted("a"))
    await until(lambda: subscriber.statistics().queued == 8)
    await bus.publish(await subscriber.recv_envelope())

    assert bus.statistics().published == bus.statistics().delivered == 9


async def test_what_nobody_subscribed_to_is_published_and_reaches_nobody() -> None:
    bus = EventBus()
    await bus.subscribe(Counted)

    await bus.publish(NotCounted())
    await bus.publish_many([NotCounted(), NotCounted()])
    bus.publish_nowait(NotCounted())

    assert bus.statistics().published == 4
    assert figures(bus.statistics()) == {}


async def test_the_figures_that_were_given_do_not_change_any_more() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Counted, name="reader")

    before, of_reader = bus.statistics(), subscriber.statistics()
    await bus.publish(Counted("a"))
    await bus.subscribe(Counted)

    assert before == BusStatistics(subscriptions={"reader": SubscriptionStatistics()})
    assert of_reader == SubscriptionStatistics()
