"""No event outlives its handling: whatever became of it, nothing of the bus holds it, nor a cycle that must be found.

The collector is off in here, so that what is gone went with its last reference.
"""

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest

from avx_events import DeadLetterQueue, Discard, EventBus, Reject, Request, Retry, TopicBus, event
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import AvxEventsError
from avx_events.testing import ManualClock
from tests.waiting import until


@event("memory.traced", aggregate_id="key")
@dataclass(eq=False)
class Traced:
    """A plain dataclass: unlike a struct it can be referred to weakly."""

    key: str


class Load:
    """What a request or a reply carries, to be referred to weakly."""


class TracedQuestion(Request[object], event_type="memory.question"):
    load: object


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


Traces = list["weakref.ref[Any]"]


async def are_gone(traces: Traces) -> None:
    """Wait until nothing holds them, where a thread or a callback that is on its way may do so for a moment."""
    await until(lambda: not any(trace() for trace in traces), timeout_s=5)


def traced(traces: Traces, key: str = "a") -> Traced:
    made = Traced(key)
    traces.append(weakref.ref(made))
    return made


async def handler_succeeds(event: Traced) -> None:
    await asyncio.sleep(0)


async def handler_fails(event: Traced) -> None:
    raise RuntimeError(event)


async def handler_fails_of_another_error(event: Traced) -> None:
    raise RuntimeError from KeyError(event)


async def handler_discards(event: Traced) -> None:
    raise Discard


async def handler_rejects(event: Traced) -> None:
    raise Reject


async def handler_is_late(event: Traced) -> None:
    await asyncio.Event().wait()


def handler_in_a_thread(event: Traced) -> None:
    pass


def handler_fails_in_a_thread(event: Traced) -> None:
    raise RuntimeError(event)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "handler",
    [
        handler_succeeds,
        handler_fails,
        handler_fails_of_another_error,
        handler_discards,
        handler_rejects,
        handler_is_late,
        handler_in_a_thread,
        handler_fails_in_a_thread,
    ],
)
async def test_a_handler_keeps_nothing_of_what_it_is_done_with(
    handler: Callable[[Traced], Any], concurrency: int
) -> None:
    clock = ManualClock()
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock)
    bus.on(Traced, retry=Retry(attempts=2, initial_s=1, max_s=1), timeout_s=5, concurrency=concurrency)(handler)
    traces: Traces = []

    async with asyncio.timeout(10), bus, asyncio.TaskGroup() as tasks:
        await bus.publish_many([traced(traces, key) for key in "aabbc"])
        settling = tasks.create_task(bus.settled())
        while not settling.done():
            await asyncio.sleep(0)
            if bus.statistics().in_flight == 0 or handler is handler_is_late:
                clock.advance(min(clock.pauses_s, default=0))
        await bus.dead_letter_queue.purge()
        clock.advance(60)  # timers that were cancelled are forgotten with their time
        await are_gone(traces)


async def reads(bus: EventBus, traces: Traces) -> None:
    subscriber = await bus.subscribe(Traced, capacity=2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish_many([traced(traces) for _ in range(5)]))
        for _ in range(3):
            await subscriber.recv()
        await until(lambda: subscriber.statistics().queued == 2)
        await subscriber.recv_many(2)


async def publishes_in_every_way(bus: EventBus, traces: Traces) -> None:
    subscriber = await bus.subscribe(Traced)
    await bus.publish(traced(traces))
    await bus.publish(traced(traces), headers={"h": "1"})
    bus.publish_nowait(traced(traces))
    bus.publish_threadsafe(traced(traces))
    await asyncio.to_thread(lambda: bus.publish_threadsafe(traced(traces)).result(5))
    await subscriber.recv_many(5)


async def waits_and_is_cancelled_or_refused(bus: EventBus, traces: Traces) -> None:
    await bus.subscribe(Traced, capacity=1)
    strict = await bus.subscribe(Traced, capacity=1, overflow="raise")
    first = await bus.subscribe(Traced, capacity=1)
    await bus.publish(Traced("stays"))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bus.publish(traced(traces)))
        await until(lambda: first.statistics().waiting_publishers)
        waiting.cancel()
    with suppress(AvxEventsError):
        bus.publish_nowait(traced(traces))
    del strict


async def drops(bus: EventBus, traces: Traces) -> None:
    for overflow in ("drop_oldest", "drop_newest"):
        subscriber = await bus.subscribe(Traced, capacity=1, overflow=overflow)
        await bus.publish_many([traced(traces) for _ in range(5)])
        await subscriber.recv()
        await subscriber.close()


async def delivers(bus: EventBus, traces: Traces) -> None:
    subscriber = await bus.subscribe(Traced, retry=None)
    await bus.publish_many([traced(traces) for _ in range(3)])
    deliveries = subscriber.deliveries()
    async with await anext(deliveries):
        pass
    async with await anext(deliveries):
        raise RuntimeError
    with suppress(asyncio.CancelledError):
        async with await anext(deliveries):
            raise asyncio.CancelledError
    async with await anext(deliveries):
        pass
    await bus.dead_letter_queue.purge()


async def loops(bus: EventBus, traces: Traces) -> None:
    subscriber = await bus.subscribe(Traced)
    await bus.publish_many([traced(traces) for _ in range(3)])
    await first_of(subscriber)
    await first_of(subscriber.envelopes())
    await subscriber.recv_envelope()


async def first_of(events: AsyncIterable[object]) -> None:
    async for _ in events:
        return


@pytest.mark.parametrize(
    "deed", [reads, publishes_in_every_way, waits_and_is_cancelled_or_refused, drops, delivers, loops]
)
async def test_a_bus_keeps_nothing_of_what_was_read_dropped_or_refused(
    deed: Callable[[EventBus, Traces], Awaitable[None]],
) -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), clock=ManualClock())
    traces: Traces = []

    async with asyncio.timeout(10):
        await deed(bus, traces)
        assert len(traces) > 1
        await are_gone(traces)


async def test_a_topic_bus_keeps_nothing_either() -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("*")
    traces: Traces = []

    for topic in ("a.b", "c"):
        await bus.publish_to(topic, traced(traces))
    await subscriber.recv_many(2)

    assert [trace() for trace in traces] == [None, None]


@pytest.mark.parametrize("outcome", ["replies", "fails", "is cancelled", "is late"])
async def test_a_request_is_gone_when_it_is_answered_and_so_is_its_reply(outcome: str) -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)
    traces: Traces = []
    may_go = asyncio.Event()

    def a_load() -> Load:
        load = Load()
        traces.append(weakref.ref(load))
        return load

    @bus.respond(TracedQuestion)
    async def responder(request: TracedQuestion) -> object:
        await may_go.wait()
        if outcome == "fails":
            raise RuntimeError(a_load())
        return a_load()

    async def ask() -> None:
        with suppress(AvxEventsError):
            await bus.request(TracedQuestion(a_load()))

    async with asyncio.timeout(10), bus:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask())
            await until(lambda: bus.statistics().in_flight)
            if outcome == "is cancelled":
                asking.cancel()
            if outcome == "is late":
                clock.advance(6)
                await until(asking.done)
            may_go.set()
        await until(lambda: not bus.statistics().in_flight)
        del asking, tasks

        assert len(traces) == 2
        await are_gone(traces)


BEFORE: Final = 2_000
AFTER: Final = 20_000


async def test_memory_does_not_grow_with_the_number_of_events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "avx_events")  # pytest keeps all that is logged
    bus = EventBus(dead_letter_queue=DeadLetterQueue(capacity=10), clock=ManualClock())
    subscriber = await bus.subscribe(Traced, capacity=16)

    @bus.on(Traced, retry=None)
    async def handler(event: Traced) -> None:
        if event.key == "7":
            raise RuntimeError

    async def blocks_after(count: int) -> int:
        for number in range(count):
            await bus.publish(Traced(str(number % 100)))
            await subscriber.recv()
        await bus.settled()
        return sys.getallocatedblocks()

    async with asyncio.timeout(30), bus:
        before = await blocks_after(BEFORE)
        after = await blocks_after(AFTER)

    # One block of memory for each event would be 20,000; a few hundred are the free lists of the interpreter.
    assert after - before < 1_000
