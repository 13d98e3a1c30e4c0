"""An observer is told of each step of an event, and may give it headers; without one a bus takes its short paths."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.subscription import AnyEnvelope
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import ClosedError, HandlerTimeoutError, SubscriptionFullError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, Headers
from avx_events.core.policy import Retry

pytestmark = pytest.mark.timeout(20)


class Noted(Event, event_type="observer.noted", aggregate_id="key"):
    key: str


class Watcher:
    """Writes down what it is told, and gives each event a header."""

    def __init__(self, mark: str = "1") -> None:
        self.mark = mark
        self.seen: list[str] = []

    @contextmanager
    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> Generator[Sequence[AnyEnvelope], None, None]:
        keys = " ".join(envelope.event.key for envelope in envelopes)
        with self._noted(f"publish {keys}"):
            yield [self._marked(envelope) for envelope in envelopes]

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        self.seen.append(f"{handler} receives {len(envelopes)}")

    @contextmanager
    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> Generator[None, None, None]:
        with self._noted(f"{handler} {envelope.event.key} #{attempt}"):
            yield

    @contextmanager
    def settling(self, handler: str, count: int) -> Generator[None, None, None]:
        with self._noted(f"{handler} settles {count}"):
            yield

    @contextmanager
    def _noted(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except BaseException as exc:
            self.seen.append(f"{what}: {type(exc).__name__}")
            raise
        self.seen.append(what)

    def _marked(self, envelope: AnyEnvelope) -> AnyEnvelope:
        before = envelope.metadata.headers
        headers = Headers({**before, "mark": before.get("mark", "") + self.mark})
        return msgspec.structs.replace(envelope, metadata=msgspec.structs.replace(envelope.metadata, headers=headers))


async def received(subscriber: Subscriber[Any]) -> EventEnvelope[Any]:
    envelope = await subscriber.recv_envelope()
    assert envelope is not None
    return envelope


AnyBus = EventBus | TopicBus


async def publish(bus: AnyBus, event: Noted) -> Any:
    return await bus.publish(event)


async def publish_many(bus: AnyBus, event: Noted) -> Any:
    (metadata,) = await bus.publish_many([event])
    return metadata


async def publish_nowait(bus: AnyBus, event: Noted) -> Any:
    return bus.publish_nowait(event)


async def publish_threadsafe(bus: AnyBus, event: Noted) -> Any:
    return await asyncio.wrap_future(await asyncio.to_thread(bus.publish_threadsafe, event))


async def publish_to(bus: AnyBus, event: Noted) -> Any:
    assert isinstance(bus, TopicBus)
    return await bus.publish_to("observer.noted", event)


Publish = Callable[[AnyBus, Noted], Awaitable[Any]]


@pytest.mark.parametrize(
    ("kind", "publish"),
    [
        (kind, way)
        for kind in (EventBus, TopicBus)
        for way in (publish, publish_many, publish_nowait, publish_threadsafe, publish_to)
        if kind is TopicBus or way is not publish_to
    ],
)
async def test_every_way_to_publish_is_seen_and_the_publisher_is_told_of_the_headers(
    kind: type[AnyBus], publish: Publish
) -> None:
    watcher, bus = Watcher(), kind()
    got: list[EventEnvelope[Noted]] = []
    async with bus:

        async def note(_: Noted, envelope: EventEnvelope[Noted]) -> None:
            got.append(envelope)

        if isinstance(bus, EventBus):
            bus.on(Noted, name="note")(note)
        else:
            bus.on("**", name="note")(note)
        await bus.publish(Noted("before"))
        await bus.settled()
        bus.observe(watcher)

        metadata = await publish(bus, Noted("a"))
        await bus.settled()

    assert [envelope.metadata.headers for envelope in got] == [{}, {"mark": "1"}]
    assert metadata == got[1].metadata
    assert watcher.seen == ["publish a", "note a #1"]
    assert bus.statistics().published == 2


async def test_a_batch_is_one_publish_for_each_run_of_one_class() -> None:
    watcher = Watcher()
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Noted)
        bus.observe(watcher)
        stamped = await bus.publish_many([Noted("a"), Noted("b")])

        assert [envelope.metadata for envelope in (await received(subscriber), await received(subscriber))] == stamped
    assert watcher.seen == ["publish a b"]


async def test_each_attempt_is_seen_with_its_error() -> None:
    watcher, attempts = Watcher(), iter(range(2))
    async with EventBus(dead_letter_queue=DeadLetterQueue()) as bus:

        @bus.on(Noted, name="note", retry=Retry(attempts=3, initial_s=0))
        async def note(_: Noted) -> None:
            if next(attempts, None) is not None:
                raise KeyError

        bus.observe(watcher)
        await bus.publish(Noted("a"))
        await bus.settled()

    assert watcher.seen == ["publish a", "note a #1: KeyError", "note a #2: KeyError", "note a #3"]


async def test_an_attempt_that_is_late_is_seen_to_be_cancelled() -> None:
    watcher, queue = Watcher(), DeadLetterQueue()
    async with EventBus(dead_letter_queue=queue) as bus:

        @bus.on(Noted, name="note", retry=None, timeout_s=0.01)
        async def note(_: Noted) -> None:
            await asyncio.get_running_loop().create_future()

        bus.observe(watcher)
        await bus.publish(Noted("a"))
        await bus.settled()

    assert watcher.seen == ["publish a", "note a #1: CancelledError"]
    assert (await queue.list())[0].error_type == HandlerTimeoutError.__name__


async def test_a_delivery_block_is_seen_as_an_attempt() -> None:
    watcher = Watcher()
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Noted, name="reader", retry=Retry(attempts=2, initial_s=0))
        bus.observe(watcher)
        await bus.publish(Noted("a"))
        deliveries = subscriber.deliveries()
        async with await anext(deliveries):
            raise KeyError
        async with await anext(deliveries) as event:
            assert event == Noted("a")

    assert watcher.seen == ["publish a", "reader a #1: KeyError", "reader a #2"]


async def test_a_publish_that_is_refused_is_seen_with_its_error() -> None:
    watcher = Watcher()
    async with EventBus() as bus:
        await bus.subscribe(Noted, capacity=1, overflow="raise")
        bus.observe(watcher)
        await bus.publish(Noted("a"))
        with pytest.raises(SubscriptionFullError):
            await bus.publish(Noted("b"))

    assert watcher.seen == ["publish a", "publish b: SubscriptionFullError"]


async def test_several_observers_are_told_one_after_the_other() -> None:
    first, second = Watcher("1"), Watcher("2")
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Noted)
        bus.observe(first)
        bus.observe(second)
        await bus.publish(Noted("a"))

        assert (await received(subscriber)).metadata.headers == {"mark": "12"}
    assert first.seen == second.seen == ["publish a"]


async def test_handlers_that_come_later_are_seen_too() -> None:
    watcher = Watcher()
    async with EventBus() as bus:
        bus.observe(watcher)

        @bus.on(Noted, name="note", concurrency=4)
        async def note(_: Noted) -> None:
            pass

        await bus.publish(Noted("a"))
        await bus.settled()

    assert watcher.seen == ["publish a", "note a #1"]


async def test_a_closed_bus_is_not_observed() -> None:
    bus = EventBus()
    await bus.close()

    with pytest.raises(ClosedError):
        bus.observe(Watcher())


def test_a_bus_says_what_carries_its_events() -> None:
    bus = EventBus(name="orders")

    assert (bus.name, bus.system, bus.group) == ("orders", "memory", None)
