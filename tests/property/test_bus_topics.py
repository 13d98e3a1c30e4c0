"""The topic bus from end to end: each subscription has what the naive matcher selects, once and in order."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events import Event, EventEnvelope, TopicBus
from avx_events.bus.subscriber import Subscriber
from avx_events.core.topic import matches


class Routed(Event, event_type="topics.law.routed", aggregate_id="topic"):
    topic: str
    number: int


segments = st.sampled_from(["a", "b", "topics", "law", "routed"])
topics = st.lists(segments, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(
    topics, st.lists(st.one_of(segments, st.sampled_from(["*", "**"])), min_size=1, max_size=4).map(".".join)
)


@dataclass(frozen=True)
class Subscribe:
    patterns: tuple[str, ...]
    is_handler: bool


@dataclass(frozen=True)
class Unsubscribe:
    place: int


@dataclass(frozen=True)
class Publish:
    topics: tuple[str | None, ...]  # None is the event's own type


Step: TypeAlias = Subscribe | Unsubscribe | Publish

steps = st.lists(
    st.one_of(
        st.builds(Subscribe, st.lists(patterns, min_size=1, max_size=3).map(tuple), st.booleans()),
        st.builds(Unsubscribe, st.integers(0, 20)),
        st.builds(Publish, st.lists(st.one_of(topics, st.none()), min_size=1, max_size=5).map(tuple)),
    ),
    max_size=25,
)


@dataclass
class Naive:
    """Some patterns, and what they have selected so far."""

    patterns: tuple[str, ...]
    subscriber: Subscriber[Any] | None
    selected: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    received: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    is_closed: bool = False

    def see(self, topic: str, number: int) -> None:
        if not self.is_closed and any(matches(pattern, topic) for pattern in self.patterns):
            self.selected.append((topic, number))

    def receive(self, envelope: EventEnvelope[Any]) -> None:
        self.received.append((envelope.topic, envelope.event.number))


class Routing:
    """A bus and, beside it, what each of its subscriptions must get."""

    def __init__(self) -> None:
        self.bus = TopicBus()
        self.naives: list[Naive] = []
        self.published = 0

    async def take(self, step: Step) -> None:
        match step:
            case Subscribe(chosen, is_handler=True):
                self.handle(chosen)
            case Subscribe(chosen):
                self.naives.append(Naive(chosen, await self.bus.subscribe(*chosen)))
            case Unsubscribe(place):
                await self.close_one(place)
            case Publish(chosen):
                for topic in chosen:
                    await self.publish(topic)

    def handle(self, chosen: tuple[str, ...]) -> None:
        naive = Naive(chosen, None)
        self.naives.append(naive)

        @self.bus.on(*chosen, name=f"handler-{len(self.naives)}")
        async def handler(event: Routed, envelope: EventEnvelope[Routed]) -> None:
            naive.receive(envelope)

    async def close_one(self, place: int) -> None:
        readers = [naive for naive in self.naives if naive.subscriber is not None]
        if readers:
            naive = readers[place % len(readers)]
            assert naive.subscriber is not None
            await naive.subscriber.close()
            naive.is_closed = True

    async def publish(self, topic: str | None) -> None:
        """Publish one event, in all ways in turn."""
        number, self.published = self.published, self.published + 1
        event = Routed(topic or "", number)
        if topic is None:
            await self.bus.publish(event)
        elif number % 3 == 0:
            await self.bus.publish_to(topic, event)
        elif number % 3 == 1:
            await self.bus.publish_many([event], topic=topic)
        else:
            self.bus.publish_nowait(event, topic=topic)
        for naive in self.naives:
            naive.see(topic or Routed.event_type, number)

    async def read_the_rest(self) -> None:
        for naive in self.naives:
            if naive.subscriber is not None:
                async for envelope in naive.subscriber.envelopes():
                    naive.receive(envelope)


@settings(max_examples=150)
@given(steps=steps)
def test_each_subscription_has_what_its_patterns_select(steps: list[Step]) -> None:
    async def scenario() -> None:
        routing = Routing()
        async with routing.bus:
            for step in steps:
                await routing.take(step)
        await routing.read_the_rest()

        assert all(naive.received == naive.selected for naive in routing.naives)
        statistics = routing.bus.statistics()
        assert statistics.published == routing.published
        assert statistics.delivered == sum(len(naive.selected) for naive in routing.naives)

    asyncio.run(scenario())
