"""What a message inherits from the one that is being handled, through any chain of handlers, tasks and threads."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest

from avx_events import DeadLetterQueue, Event, EventBus, EventEnvelope, EventMetadata, Request, TopicBus, context
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.metadata import current_context
from avx_events.testing import ManualClock

if TYPE_CHECKING:
    from avx_events.bus.subscriber import Subscriber


class Caused(Event, event_type="context.caused", aggregate_id="key"):
    key: str
    depth: int = 0


class Followed(Event, event_type="context.followed"):
    way: str = ""


class WhatFor(Request[str], event_type="context.what.for"):
    pass


def is_caused_by(metadata: EventMetadata, cause: EventMetadata) -> bool:
    return (metadata.causation_id, metadata.correlation_id, metadata.user_id) == (
        cause.event_id,
        cause.correlation_id,
        cause.user_id,
    )


def is_first_of_a_chain(metadata: EventMetadata) -> bool:
    return (metadata.causation_id, metadata.correlation_id, metadata.user_id) == (None, metadata.event_id, None)


Publish: TypeAlias = Callable[[EventBus], Awaitable[object]]


async def in_a_task(bus: EventBus) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish(Followed()))


async def in_a_thread(bus: EventBus) -> None:
    await asyncio.to_thread(lambda: bus.publish_threadsafe(Followed()).result(5))


async def without_waiting(bus: EventBus) -> None:
    bus.publish_nowait(Followed())


async def in_a_block(bus: EventBus) -> None:
    """Publish in a block of another bus, and again after it, inside of the handler."""
    other = EventBus()
    subscriber = await other.subscribe(Caused)
    await other.publish(Caused("inner"))
    async with await anext(subscriber.deliveries()):
        pass
    await bus.publish(Followed())


WAYS: Final[dict[str, Publish]] = {
    "publish": lambda bus: bus.publish(Followed()),
    "publish with headers": lambda bus: bus.publish(Followed(), headers={"h": "1"}),
    "publish_many": lambda bus: bus.publish_many([Followed(), Followed()]),
    "publish_nowait": without_waiting,
    "from a task": in_a_task,
    "from to_thread": in_a_thread,
    "after a block of another bus": in_a_block,
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_handler_publishes_is_caused_by_its_event_whichever_way(way: str) -> None:
    bus = EventBus()
    followed = await bus.subscribe(Followed)

    @bus.on(Caused)
    async def handler(event: Caused) -> None:
        await WAYS[way](bus)

    async with asyncio.timeout(5), bus:
        with context(correlation_id="chain", user_id="jane"):
            cause = await bus.publish(Caused("a"))
        await bus.settled()

    metadata = [envelope.metadata async for envelope in followed.envelopes()]
    assert metadata
    assert all(is_caused_by(each, cause) for each in metadata)
    assert (cause.correlation_id, cause.user_id, cause.causation_id) == ("chain", "jane", None)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_chain_has_one_correlation_id_and_each_event_the_one_before_as_its_cause(concurrency: int) -> None:
    bus = EventBus()
    everything = await bus.subscribe(Caused)

    @bus.on(Caused, concurrency=concurrency)
    async def goes_deeper(event: Caused) -> None:
        await asyncio.sleep(0)
        if event.depth < 5:
            await bus.publish(Caused(event.key, event.depth + 1))

    async with asyncio.timeout(5), bus:
        firsts = [await bus.publish(Caused(key)) for key in "abc"]
        await bus.settled()

    chains: dict[str, list[EventMetadata]] = {}
    async for envelope in everything.envelopes():
        chains.setdefault(envelope.metadata.aggregate_id, []).append(envelope.metadata)
    for first in firsts:
        chain = chains[first.aggregate_id]
        assert is_first_of_a_chain(chain[0])
        assert [each.correlation_id for each in chain] == [first.event_id] * 6
        assert [each.causation_id for each in chain[1:]] == [each.event_id for each in chain[:-1]]


async def test_attempts_and_redrives_are_in_the_context_of_their_own_event() -> None:
    clock = ManualClock()
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock)
    followed = await bus.subscribe(Followed)

    @bus.on(Caused, retry=None)
    async def handler(event: Caused) -> None:
        await bus.publish(Followed(event.key))
        raise RuntimeError

    async with bus:
        with context(user_id="jane"):
            first = await bus.publish(Caused("a"))
        second = await bus.publish(Caused("b"))
        await bus.settled()
        with context(user_id="the one who redrives"):
            for letter in await bus.dead_letter_queue.list():
                await bus.republish(letter)
        await bus.settled()

    causes = {"a": first, "b": second}
    envelopes = [envelope async for envelope in followed.envelopes()]
    assert [envelope.event.way for envelope in envelopes] == ["a", "b", "a", "b"]
    assert all(is_caused_by(envelope.metadata, causes[envelope.event.way]) for envelope in envelopes)


async def test_a_handler_in_a_thread_a_block_and_a_responder_have_the_context_too() -> None:
    bus, topics, requests = EventBus(), TopicBus(), RequestReplyBus()
    followed: Subscriber[Any] = await topics.subscribe("followed.*")
    blocks = await bus.subscribe(Caused)

    @bus.on(Caused)
    def handler(event: Caused) -> None:
        topics.publish_threadsafe(Followed("thread"), topic="followed.thread").result(5)

    @requests.respond(WhatFor)
    async def responder(request: WhatFor) -> str:
        metadata = await topics.publish_to("followed.responder", Followed("responder"))
        return metadata.event_id

    async with asyncio.timeout(5), bus, topics, requests:
        with context(user_id="jane"):
            cause = await bus.publish(Caused("a"))
        await bus.settled()
        async with await anext(blocks.deliveries()):
            await topics.publish_to("followed.block", Followed("block"))
            await requests.request(WhatFor())
        after = await topics.publish_to("followed.after", Followed("after"))

    metadata = {envelope.event.way: envelope.metadata async for envelope in followed.envelopes()}
    assert is_caused_by(metadata["thread"], cause)
    assert is_caused_by(metadata["block"], cause)
    of_responder: EventMetadata = metadata["responder"]
    assert (of_responder.correlation_id, of_responder.user_id) == (cause.event_id, "jane")
    assert of_responder.causation_id not in {None, cause.event_id}
    assert is_first_of_a_chain(after)


async def test_context_at_the_edge_is_nested_and_ends_with_its_block() -> None:
    bus = EventBus()

    with context(correlation_id="outer", user_id="jane"):
        with context(user_id="joe", causation_id="cause"):
            inner = await bus.publish(Caused("a"))
        outer = await bus.publish(Caused("a"))
    after = await bus.publish(Caused("a"))

    assert (inner.correlation_id, inner.user_id, inner.causation_id) == ("outer", "joe", "cause")
    assert (outer.correlation_id, outer.user_id, outer.causation_id) == ("outer", "jane", None)
    assert is_first_of_a_chain(after)


async def test_a_handler_may_set_another_context_for_a_part_of_what_it_does() -> None:
    bus = EventBus()
    followed = await bus.subscribe(Followed)

    @bus.on(Caused)
    async def handler(event: Caused) -> None:
        with context(user_id="somebody else"):
            await bus.publish(Followed("inner"))
        await bus.publish(Followed("outer"))

    async with bus:
        cause = await bus.publish(Caused("a"))

    inner, outer = [envelope.metadata async for envelope in followed.envelopes()]
    assert (inner.user_id, inner.causation_id, inner.correlation_id) == (
        "somebody else",
        cause.event_id,
        cause.correlation_id,
    )
    assert is_caused_by(outer, cause)


async def test_an_envelope_that_a_handler_publishes_again_keeps_its_own_chain() -> None:
    bus, other = EventBus(), EventBus()
    received = await other.subscribe(Caused)

    @bus.on(Caused)
    async def forward(event: Caused, envelope: EventEnvelope[Caused]) -> None:
        await other.publish(envelope)
        await other.publish_many([envelope])
        other.publish_nowait(envelope)
        await asyncio.to_thread(lambda: other.publish_threadsafe(envelope).result(5))

    async with asyncio.timeout(5), bus, other:
        metadata = await bus.publish(Caused("a"))
        await bus.settled()

    assert [envelope.metadata async for envelope in received.envelopes()] == [metadata] * 4


async def test_a_task_that_outlives_its_handler_stays_in_the_chain_of_its_event() -> None:
    bus = EventBus()
    may_publish = asyncio.Event()
    published: list[EventMetadata] = []

    async def publish_later() -> None:
        await may_publish.wait()
        published.append(await bus.publish(Followed()))

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:

        @bus.on(Caused)
        async def handler(event: Caused) -> None:
            if event.key == "first":
                tasks.create_task(publish_later())

        first = await bus.publish(Caused("first"))
        await bus.publish(Caused("second"))
        await bus.settled()
        may_publish.set()

    assert is_caused_by(published[0], first)


async def test_nothing_of_a_message_is_left_where_it_was_published_or_handled() -> None:
    bus = EventBus()
    seen: list[Any] = []

    @bus.on(Caused)
    async def handler(event: Caused) -> None:
        seen.append(current_context().event_id)

    with context(user_id="whoever starts it"):
        await bus.start()
    async with bus:
        first = await bus.publish(Caused("a"))
        await bus.settled()
        here = current_context()
        second = await bus.publish(Caused("a"))

    assert here == current_context()
    assert (here.event_id, here.correlation_id, here.user_id) == (None, None, None)
    assert seen == [first.event_id, second.event_id]
    assert is_first_of_a_chain(second)
