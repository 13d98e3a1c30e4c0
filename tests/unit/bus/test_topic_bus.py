"""The topic bus: which subscriptions a topic reaches, and what its events carry."""

import asyncio

import pytest

from avx_events import DeadLetterQueue, Event, EventEnvelope, EventMetadata, Request, Retry, TopicBus, UnknownEvent
from avx_events.core.errors import (
    ClosedError,
    InvalidArgumentError,
    InvalidTopicError,
    NotAnEventError,
    NotStartedError,
    SubscriptionFullError,
)
from avx_events.testing.clock import ManualClock


class Routed(Event, aggregate_id="key", event_type="routed.sent"):
    key: str = ""
    number: int = 0


class RoutedQuestion(Request[int]):
    pass


async def test_a_topic_reaches_the_subscriptions_whose_patterns_select_it() -> None:
    bus = TopicBus()
    patterns = ["users.*", "orders.**", "*", "**", "*.*", "users.created", "orders.*.placed"]
    subscribers = {pattern: await bus.subscribe(pattern) for pattern in patterns}

    for topic in ("users.created", "orders", "orders.eu.placed", "other"):
        await bus.publish_to(topic, Routed(topic))
    await bus.close()

    reached = {pattern: [event.aggregate_id() async for event in reader] for pattern, reader in subscribers.items()}
    everything = ["users.created", "orders", "orders.eu.placed", "other"]
    assert reached == {
        "users.*": ["users.created"],
        "orders.**": ["orders", "orders.eu.placed"],
        "*": everything,
        "**": everything,
        "*.*": ["users.created"],
        "users.created": ["users.created"],
        "orders.*.placed": ["orders.eu.placed"],
    }


async def test_several_patterns_give_each_event_once() -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("a.*", "*.b", "a.b")

    await bus.publish_to("a.b", Routed("x"))

    assert await subscriber.recv_many() == [Routed("x")]


async def test_publish_uses_the_event_type_and_an_envelope_keeps_its_topic() -> None:
    bus, other = TopicBus(), TopicBus()
    subscriber, mirrored = await bus.subscribe("**"), await other.subscribe("special.topic")

    await bus.publish(Routed("a"))
    await bus.publish_to("special.topic", Routed("b"), headers={"h": "1"})
    first, second = await subscriber.recv_envelope(), await subscriber.recv_envelope()
    assert first is not None
    assert second is not None
    await other.publish(second)
    await other.publish_to("special.topic", first)

    assert (first.topic, second.topic) == ("routed.sent", "special.topic")
    assert second.metadata.headers == {"h": "1"}
    assert await mirrored.recv_envelope() is second
    assert await mirrored.recv_envelope() == EventEnvelope(first.event, first.metadata, "special.topic")


async def test_a_handler_of_a_pattern_has_everything_a_handler_has() -> None:
    clock = ManualClock()
    bus = TopicBus(dead_letter_queue=DeadLetterQueue(), clock=clock)
    topics: list[str] = []

    @bus.on("orders.**", retry=Retry(attempts=2, initial_s=1), name="orders")
    async def handler(event: Routed, envelope: EventEnvelope[Routed]) -> None:
        topics.append(envelope.topic)
        if len(topics) < 4:
            raise RuntimeError

    with pytest.raises(NotStartedError):
        await bus.publish_to("orders.eu", Routed("a"))
    async with bus:
        await bus.publish_to("orders.eu", Routed("a"))
        await bus.publish_to("users.eu", Routed("b"))
        await clock.planned()
        clock.advance(1)
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()
        await bus.republish(letter)
        await clock.planned()
        clock.advance(1)
        await bus.settled()

    assert topics == ["orders.eu"] * 4
    assert await bus.dead_letter_queue.count() == 0
    assert bus.statistics().published == 2


async def test_every_way_to_publish_takes_a_topic() -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("t.*", capacity=4)
    loop = asyncio.get_running_loop()

    def from_thread() -> None:
        bus.publish_threadsafe(Routed("d"), topic="t.d").result(5)

    bus.publish_nowait(Routed("a"), topic="t.a")
    await bus.publish_many([Routed("b"), Routed("c")], topic="t.b")
    await loop.run_in_executor(None, from_thread)

    with pytest.raises(SubscriptionFullError):
        bus.publish_nowait(Routed("e"), topic="t.e")
    assert [event.aggregate_id() for event in await subscriber.recv_many()] == ["a", "b", "c", "d"]
    assert bus.statistics().published == 4


async def test_a_publisher_waits_for_room_and_order_is_kept() -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("t", capacity=2)
    seen: list[int] = []

    async def read() -> None:
        seen.extend([event.number async for event in subscriber if isinstance(event, Routed)])

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        for number in range(50):
            await bus.publish_to("t", Routed("a", number))
        await bus.close()

    assert seen == list(range(50))


@pytest.mark.parametrize("topic", ["", "a..b", "a.", "a.*", "**", "a b", "a\n", 3, None, "\ud800"])
async def test_a_malformed_topic_says_what_is_wrong_and_publishes_nothing(topic: str) -> None:
    bus = TopicBus()
    await bus.subscribe("**")

    with pytest.raises(InvalidTopicError):
        await bus.publish_to(topic, Routed("a"))

    assert bus.statistics().published == 0


@pytest.mark.parametrize("pattern", ["", "a..b", "a*", "***", "a b", ".a", "a\x00", 3])
async def test_a_malformed_pattern_says_what_is_wrong_and_subscribes_nothing(pattern: str) -> None:
    bus = TopicBus()

    with pytest.raises(InvalidTopicError):
        await bus.subscribe("ok", pattern)
    with pytest.raises(InvalidTopicError):
        bus.on(pattern)

    assert bus.statistics().subscriptions == {}


async def test_what_is_no_event_has_no_topic_either() -> None:
    bus = TopicBus()

    for wrong in (Routed, RoutedQuestion(), 3):
        with pytest.raises(NotAnEventError):
            await bus.publish_to("t", wrong)
        with pytest.raises(NotAnEventError):
            bus.publish_threadsafe(wrong, topic="t")
    with pytest.raises(InvalidArgumentError, match="at least one pattern"):
        await bus.subscribe()
    with pytest.raises(InvalidArgumentError, match="several events"):
        await bus.publish_many(Routed("a"), topic="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_closed_subscriber_no_longer_matches() -> None:
    bus = TopicBus()
    gone, stays = await bus.subscribe("t", "t.*"), await bus.subscribe("t")

    await gone.close()
    await bus.publish_to("t", Routed("a"))
    await bus.close()

    assert await gone.recv() is None
    assert await stays.recv() == Routed("a")
    with pytest.raises(ClosedError):
        await bus.publish_to("t", Routed("b"))


async def test_an_event_that_no_class_has_is_passed_on_in_its_envelope() -> None:
    event = UnknownEvent("topic_bus.of.another.process", {"a": [1]}, 3)
    metadata = EventMetadata("id-1", event.event_type, "key", 1, "id-1")
    async with TopicBus() as bus, await bus.subscribe("**") as subscriber:
        await bus.publish(EventEnvelope(event, metadata, "some.topic"))

        assert await subscriber.recv_envelope() == EventEnvelope(event, metadata, "some.topic")
