"""What transports promise of topics: one pattern language, with the same answers on every broker."""

# ruff: noqa: D102, S101 - tests: a name is its docstring, assert speaks

import asyncio
from typing import Any, Final

import pytest

from avx_events.bus.subscriber import Subscriber
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import ClosedError, InvalidTopicError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope
from avx_events.core.topic import matches
from avx_events.testing.bus_contract import Collected, Other, Sent, SentOn, new_namespace
from avx_events.testing.own_loop import interrupted, on_its_own_loop

TOPICS: Final = (
    "a",
    "b",
    "a.b",
    "a.c",
    "a.b.c",
    "a.b.b",
    "b.a.b.c",
    "orders.eu.placed",
    "Größe.日本",
    "with-dash_and$and/and:and>",
    "a.b.c.d.e.f.g.h.i.j",
)
PATTERNS: Final = (
    *TOPICS,
    "*",
    "**",
    "*.*",
    "a.*",
    "*.b",
    "a.**",
    "**.b",
    "a.**.b",
    "**.b.**",
    "a.*.c",
    "*.**",
    "**.*.**",
    "orders.*.placed",
    "Größe.*",
    "A",
)
_LAST: Final = 99

MALFORMED_TOPICS: Final = ("", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\x00", "a.*", "*", "**", "a.\ud800", 3, None)
MALFORMED_PATTERNS: Final = ("", ".", "a.", ".a", "a..b", "a b", "a\n", "a*", "*a", "a.b*", "***", "a.***", 3, None)


class TopicContract:
    """What a topic bus selects, on every transport; see ``BusContract`` for the use of contracts."""

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        """Return a topic bus that was not started, without a group.

        Args:
            namespace: A name that no other test has: nothing of others may be received on this bus.
            options: Options of ``TopicBus``: ``drain_timeout_s``.
        """
        raise NotImplementedError

    async def topic_bus(self, **options: Any) -> TopicBus:
        """Return what ``connect_topics`` gives, in a namespace of its own."""
        return await self.connect_topics(new_namespace(), **options)

    @on_its_own_loop
    async def test_a_pattern_selects_the_topics_that_it_should_and_no_others(self) -> None:
        async with await self.topic_bus() as bus:
            subscribers = {pattern: await bus.subscribe(pattern) for pattern in PATTERNS}
            last = {pattern: await bus.subscribe("the.end", pattern) for pattern in PATTERNS}

            for topic in TOPICS:
                await bus.publish_to(topic, Sent("k"))
            await bus.publish_to("the.end", Sent("k", _LAST))

            for pattern in PATTERNS:
                selected = [topic for topic in TOPICS if matches(pattern, topic)]
                assert await _topics(last[pattern]) == selected, pattern
                received = [await subscribers[pattern].recv_envelope() for _ in selected]
                assert [envelope and envelope.topic for envelope in received] == selected, pattern

    @on_its_own_loop
    async def test_several_patterns_of_one_subscriber_give_each_event_once(self) -> None:
        async with await self.topic_bus() as bus:
            subscriber = await bus.subscribe("a.*", "*.b", "**")

            await bus.publish_to("a.b", Sent("k", 1))
            await bus.publish_to("c", Sent("k", 2))

            assert [await subscriber.recv() for _ in range(2)] == [Sent("k", 1), Sent("k", 2)]

    @on_its_own_loop
    async def test_the_envelope_has_the_topic_and_the_metadata_of_its_publish(self) -> None:
        async with await self.topic_bus() as bus:
            subscriber = await bus.subscribe("orders.**")

            metadata = await bus.publish_to("orders.eu.placed", Sent("a", 1), headers={"trace": "1"})

            assert await subscriber.recv_envelope() == EventEnvelope(Sent("a", 1), metadata, "orders.eu.placed")
            assert dict(metadata.headers) == {"trace": "1"}

    @on_its_own_loop
    async def test_an_event_that_is_published_without_a_topic_goes_to_its_type(self) -> None:
        async with await self.topic_bus() as bus:
            subscriber = await bus.subscribe(Sent.event_type)

            await bus.publish(Sent("a", 1))
            await bus.publish_many([Other(2), Sent("a", 3)])
            await bus.publish_to("elsewhere", Sent("a", 4))
            await bus.publish_to(Sent.event_type, SentOn("a", 5))

            assert [await subscriber.recv() for _ in range(3)] == [Sent("a", 1), Sent("a", 3), SentOn("a", 5)]

    @on_its_own_loop
    async def test_events_of_all_topics_arrive_in_publish_order(self) -> None:
        async with await self.topic_bus() as bus, asyncio.TaskGroup() as tasks:
            subscriber = await bus.subscribe("*")

            async def publish() -> None:
                for number in range(1000):
                    await bus.publish_to(f"topic.{number % 17}", Sent("a", number))

            tasks.create_task(publish())

            assert [await subscriber.recv() for _ in range(1000)] == [Sent("a", number) for number in range(1000)]

    @on_its_own_loop
    async def test_a_handler_is_given_what_its_patterns_select(self) -> None:
        bus = await self.topic_bus()
        handled: Collected[tuple[str, Event]] = Collected()

        @bus.on("orders.*", "users.**", concurrency=2)
        async def handler(event: Event, envelope: EventEnvelope[Event]) -> None:
            handled.add((envelope.topic, event))

        async with bus:
            for topic in ("orders", "orders.placed", "orders.eu.placed", "users", "users.eu.created"):
                await bus.publish_to(topic, Sent("a"))

            assert await handled.have(3) == [
                (topic, Sent("a")) for topic in ("orders.placed", "users", "users.eu.created")
            ]

    @on_its_own_loop
    async def test_an_ended_subscription_selects_nothing_any_more(self) -> None:
        async with await self.topic_bus() as bus:
            ended, other = await bus.subscribe("a.*"), await bus.subscribe("a.*")
            await ended.close()

            await bus.publish_to("a.b", Sent("k"))

            assert await other.recv() == Sent("k")
            assert await ended.recv() is None

    @pytest.mark.parametrize("after_turns", range(4))
    @on_its_own_loop
    async def test_a_publish_that_is_cancelled_is_whole_or_absent(self, after_turns: int) -> None:
        async with await self.topic_bus() as bus:
            first, second = await bus.subscribe("a"), await bus.subscribe("**")

            for number in range(5):
                await interrupted(bus.publish_to("a", Sent("k", number)), after_turns=after_turns)
            await bus.publish_to("a", Sent("k", _LAST))

            assert await _until_the_end(first) == await _until_the_end(second)

    @on_its_own_loop
    async def test_malformed_topics_and_patterns_are_refused(self) -> None:
        async with await self.topic_bus() as bus:
            topic: Any
            pattern: Any
            for topic in MALFORMED_TOPICS:
                with pytest.raises(InvalidTopicError):
                    await bus.publish_to(topic, Sent("a"))
            for pattern in MALFORMED_PATTERNS:
                with pytest.raises(InvalidTopicError):
                    await bus.subscribe(pattern)
                with pytest.raises(InvalidTopicError):
                    bus.on(pattern)

    @on_its_own_loop
    async def test_a_closed_bus_refuses_everything_and_readers_get_the_end(self) -> None:
        bus = await self.topic_bus()
        async with bus:
            subscriber = await bus.subscribe("**")
        await bus.close()

        assert await subscriber.recv() is None
        with pytest.raises(ClosedError):
            await bus.publish_to("a", Sent("a"))
        with pytest.raises(ClosedError):
            await bus.subscribe("a")


async def _topics(subscriber: Subscriber[Any]) -> list[str]:
    """Return the topics of what comes before the event that ends a test."""
    found: list[str] = []
    async for envelope in subscriber.envelopes():
        if envelope.event.number == _LAST:
            break
        found.append(envelope.topic)
    return found


async def _until_the_end(subscriber: Subscriber[Any]) -> list[int]:
    found: list[int] = []
    async for event in subscriber:
        if event.number == _LAST:
            break
        found.append(event.number)
    return found
