"""Delivery blocks: what ends them and how, who may nest them, and what closing leaves of them.

An assertion inside of a block would be a failed attempt: what is seen there is looked at afterwards.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from avx_events import DeadLetterQueue, Discard, Event, EventBus, Reject, Retry, RetryAfter
from avx_events.bus.dead_letters import DeadLetter, MemoryDeadLetters
from avx_events.bus.deliveries import Delivery
from avx_events.bus.subscriber import Subscriber
from avx_events.core.errors import DeliveryError, HandlerWaitError
from avx_events.testing import ManualClock
from tests.waiting import until


class Delivered(Event, event_type="deliveries.delivered", aggregate_id="key"):
    key: str
    number: int = 0


class Elsewhere(Event, event_type="deliveries.elsewhere"):
    number: int = 0


class Unusual(BaseException):
    """No Exception."""


def a_bus(clock: ManualClock | None = None) -> EventBus:
    return EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock or ManualClock())


async def handled(delivery: Delivery[Delivered]) -> int:
    """Handle one, and return its number."""
    async with delivery:
        pass
    return delivery.event.number


async def rest_of(subscriber: Subscriber[Delivered]) -> list[int]:
    """Handle what is left until the end, and return its numbers."""
    return [await handled(delivery) async for delivery in subscriber.deliveries()]


# How a block ends


async def test_a_block_that_fails_comes_again_after_its_pause_and_then_becomes_a_dead_letter() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    subscriber = await bus.subscribe(Delivered, name="mail", retry=Retry(attempts=2, initial_s=8, max_s=8))
    await bus.publish(Delivered("a", 1))
    deliveries = subscriber.deliveries()

    for attempt in (1, 2):
        async with await anext(deliveries) as event:
            raise KeyError(event.key)
        if attempt == 1:
            assert 0 <= clock.pauses_s[0] <= 8
            assert subscriber.statistics().queued == 1
            clock.advance(8)

    (letter,) = await bus.dead_letter_queue.list()
    assert (letter.handler, letter.reason, letter.error, letter.attempts) == ("mail", "failed", "KeyError: 'a'", 2)
    assert "raise KeyError(event.key)" in letter.traceback
    assert subscriber.statistics().retried == subscriber.statistics().dead_lettered == 1


async def test_a_block_says_what_to_do_as_a_handler_does() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    subscriber = await bus.subscribe(Delivered, retry=Retry(attempts=2))
    orders = {"discard": Discard("old"), "reject": Reject("bad"), "later": RetryAfter(42)}
    await bus.publish_many([Delivered(key) for key in orders])

    deliveries = subscriber.deliveries()
    for _ in orders:
        async with await anext(deliveries) as event:
            raise orders[event.key]

    (letter,) = await bus.dead_letter_queue.list()
    assert (letter.reason, letter.attempts, letter.error) == ("rejected", 1, "Reject: bad")
    assert clock.pauses_s == [42]
    statistics = subscriber.statistics()
    assert (statistics.discarded, statistics.retried, statistics.dead_lettered, statistics.queued) == (1, 1, 1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit, Unusual])
async def test_an_interrupted_block_gives_its_event_back_and_says_nothing_of_it(error: type[BaseException]) -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered, retry=None)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2)])
    deliveries = subscriber.deliveries()

    with pytest.raises(error):
        async with await anext(deliveries):
            raise error
    again = await anext(deliveries)

    assert (again.event.number, again.attempt) == (1, 1)
    assert await handled(again) == 1
    assert await bus.dead_letter_queue.count() == 0
    assert subscriber.statistics().queued == 1


async def test_leaving_the_loop_inside_of_a_block_settles_it() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2)])

    async for delivery in subscriber.deliveries():
        async with delivery:
            break

    assert (subscriber.statistics().handled, subscriber.statistics().in_flight) == (1, 0)
    await bus.close()
    assert await rest_of(subscriber) == [2]


async def test_a_delivery_knows_its_event_and_its_attempt_before_and_in_its_block() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered, retry=None)
    metadata = await bus.publish(Delivered("a", 1), headers={"h": "1"})

    delivery = await anext(subscriber.deliveries())
    before = (delivery.event, delivery.attempt)
    during: list[tuple[Delivered, int]] = []
    async with delivery as event:
        during.append((event, delivery.attempt))

    assert [before] == during == [(Delivered("a", 1), 1)]
    assert delivery.envelope.metadata is metadata


@pytest.mark.parametrize("fails", [False, True])
async def test_a_delivery_has_one_block(*, fails: bool) -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish(Delivered("a"))
    delivery = await anext(subscriber.deliveries())

    async with delivery:
        with pytest.raises(DeliveryError, match=subscriber.name):
            await delivery.__aenter__()
        if fails:
            raise RuntimeError
    with pytest.raises(DeliveryError):
        await delivery.__aenter__()

    assert subscriber.statistics().in_flight == 0


async def test_a_block_is_settled_whatever_context_it_ends_in() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2)])

    async def events() -> AsyncGenerator[Delivered, None]:
        async for delivery in subscriber.deliveries():
            async with delivery as event:
                yield event

    generator = events()
    async with asyncio.TaskGroup() as tasks:  # each step in a task of its own, as asyncio.wait_for makes one
        first = tasks.create_task(anext(generator))
        await until(first.done)
        second = tasks.create_task(anext(generator))
    await generator.aclose()

    assert (first.result().number, second.result().number) == (1, 2)
    assert subscriber.statistics().handled == 1
    await bus.close()
    assert await rest_of(subscriber) == [2]


# Nesting


async def test_blocks_of_several_events_can_be_open_at_once_and_end_in_any_order() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered, retry=None)
    await bus.publish_many([Delivered(key, number) for number, key in enumerate("abca")])
    deliveries = subscriber.deliveries()
    first, second, third = [await anext(deliveries) for _ in range(3)]

    in_flight: list[int] = []
    async with first:
        async with second:
            async with third:
                in_flight.append(subscriber.statistics().in_flight)
            raise RuntimeError
        in_flight.append(subscriber.statistics().in_flight)

    assert in_flight == [3, 1]
    (letter,) = await bus.dead_letter_queue.list()
    assert letter.envelope is not None
    assert letter.envelope.event.number == 1
    await bus.close()
    assert await rest_of(subscriber) == [3]


async def test_a_block_inside_of_a_handler_of_another_bus_is_settled_for_itself() -> None:
    outer, inner = a_bus(), a_bus()
    subscriber = await inner.subscribe(Delivered, retry=None, name="inner")
    await inner.publish_many([Delivered("a", 1), Delivered("b", 2)])

    @outer.on(Elsewhere, retry=None, name="outer")
    async def handler(event: Elsewhere) -> None:
        deliveries = subscriber.deliveries()
        async with await anext(deliveries):
            raise RuntimeError("of the block alone")
        async with await anext(deliveries):
            pass
        raise RuntimeError("of the handler alone")

    async with outer:
        await outer.publish(Elsewhere())
        await outer.settled()

    assert [letter.error for letter in await inner.dead_letter_queue.list()] == ["RuntimeError: of the block alone"]
    assert [letter.error for letter in await outer.dead_letter_queue.list()] == ["RuntimeError: of the handler alone"]
    assert inner.statistics().handled == 1


async def test_a_block_cannot_wait_until_its_own_event_is_settled() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish(Delivered("a"))

    async with asyncio.timeout(5), await anext(subscriber.deliveries()):
        with pytest.raises(HandlerWaitError, match="settle"):
            await bus.settled()
    await bus.settled()


# Several readers


async def test_a_key_waits_for_its_open_block_and_the_other_reader_gets_what_is_free() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2), Delivered("b", 3)])
    may_end = asyncio.Event()
    seen: list[int] = []

    async def read() -> None:
        async for delivery in subscriber.deliveries():
            async with delivery as event:
                seen.append(event.number)
                if event.number == 1:
                    await may_end.wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(read())
        await until(lambda: seen == [1, 3])
        assert subscriber.statistics().queued == 1
        may_end.set()
        await bus.settled()
        await bus.close()

    assert seen == [1, 3, 2]


async def test_a_reader_that_waits_is_woken_for_what_comes_again() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    subscriber = await bus.subscribe(Delivered, retry=Retry(attempts=2, initial_s=1, max_s=1))
    await bus.publish(Delivered("a", 1))
    async with await anext(subscriber.deliveries()):
        raise RuntimeError

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(rest_of(subscriber))
        await until(lambda: bus.statistics().queued)
        clock.advance(1)
        await until(lambda: bus.statistics().handled)
        await bus.close()

    assert reading.result() == [1]


@pytest.mark.parametrize("comes_from", ["an interrupted block", "a retry", "a redrive"])
async def test_what_is_there_again_reaches_a_reader_that_has_no_blocks(comes_from: str) -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    policy = Retry(attempts=2, initial_s=1, max_s=1) if comes_from == "a retry" else None
    subscriber = await bus.subscribe(Delivered, retry=policy)
    await bus.publish(Delivered("a", 1))

    with suppress(asyncio.CancelledError):
        async with await anext(subscriber.deliveries()):
            raise asyncio.CancelledError if comes_from == "an interrupted block" else RuntimeError
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(subscriber.recv())
        await asyncio.sleep(0)
        clock.advance(1)
        for letter in await bus.dead_letter_queue.list():
            assert await bus.republish(letter)

    assert reading.result() == Delivered("a", 1)
    assert await bus.dead_letter_queue.count() == 0
    assert (subscriber.statistics().queued, subscriber.statistics().in_flight) == (0, 0)


# What nobody settles


async def test_a_delivery_that_is_never_entered_is_in_flight_and_can_still_be_settled_after_the_close() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish_many([Delivered("a", 1), Delivered("b", 2)])

    unused = await anext(subscriber.deliveries())
    assert subscriber.statistics().in_flight == 1
    async with asyncio.timeout(5):
        await bus.close()

    assert await handled(unused) == 1
    assert await rest_of(subscriber) == [2]
    assert bus.statistics().handled == 2


# Closing


async def test_a_close_waits_for_the_open_blocks_of_other_tasks() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.start()
    await bus.publish(Delivered("a", 1))
    may_end = asyncio.Event()

    async def read() -> None:
        async for delivery in subscriber.deliveries():
            async with delivery:
                await may_end.wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await until(lambda: bus.statistics().in_flight)
        closing = tasks.create_task(bus.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        may_end.set()

    assert bus.statistics().handled == 1


async def test_a_block_may_close_its_own_bus_and_subscriber() -> None:
    bus = a_bus()
    first, second = await bus.subscribe(Delivered), await bus.subscribe(Delivered)
    await bus.publish(Delivered("a", 1))

    async with asyncio.timeout(5):
        async with await anext(first.deliveries()):
            await first.close()
        async with await anext(second.deliveries()):
            await bus.close()

    assert (await rest_of(first), await rest_of(second)) == ([], [])
    assert bus.statistics().handled == 2


@pytest.mark.parametrize("closes", ["the bus", "the subscriber"])
async def test_what_was_never_tried_can_be_read_after_a_close(closes: str) -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2), Delivered("b", 3), Delivered("b", 4)])
    deliveries = subscriber.deliveries()

    first = await anext(deliveries)
    other = await anext(deliveries)  # which has a look at the second of the first key
    with suppress(Unusual):
        async with first:
            await (bus.close() if closes == "the bus" else subscriber.close())
            raise Unusual

    assert await handled(other) == 3
    assert await rest_of(subscriber) == [1, 2, 4]
    assert await bus.dead_letter_queue.count() == 0
    assert await subscriber.recv() is None


@pytest.mark.parametrize("closes", ["the bus", "the subscriber"])
async def test_what_waits_for_a_retry_is_a_dead_letter_after_a_close(closes: str) -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered, name="reader")
    await bus.publish_many([Delivered("a", 1), Delivered("b", 2)])
    async with await anext(subscriber.deliveries()):
        raise RuntimeError

    await (bus.close() if closes == "the bus" else subscriber.close())

    (letter,) = await bus.dead_letter_queue.list()
    assert (letter.handler, letter.reason, letter.attempts) == ("reader", "stopped", 1)
    assert await rest_of(subscriber) == [2]


@pytest.mark.parametrize("closes", ["the bus", "the subscriber"])
async def test_a_block_that_fails_after_a_close_leaves_a_dead_letter(closes: str) -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish(Delivered("a", 1))

    async with await anext(subscriber.deliveries()):
        await (bus.close() if closes == "the bus" else subscriber.close())
        raise RuntimeError
    await bus.close()

    (letter,) = await bus.dead_letter_queue.list()
    assert letter.envelope is not None
    assert letter.envelope.event.number == 1
    assert (bus.statistics().dead_lettered, bus.statistics().in_flight) == (1, 0)


async def test_a_block_that_outlives_its_subscriber_is_counted_and_waited_for() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish(Delivered("a", 1))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        delivery = await anext(subscriber.deliveries())
        await subscriber.close()
        settling = tasks.create_task(bus.settled())
        for _ in range(5):
            await asyncio.sleep(0)
        assert bus.statistics().in_flight == 1
        assert not settling.done()
        assert await handled(delivery) == 1

    assert (bus.statistics().handled, bus.statistics().delivered, bus.statistics().in_flight) == (1, 1, 0)


async def test_readers_that_wait_come_to_the_end_when_their_subscriber_is_closed() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(rest_of(subscriber)) for _ in range(3)]
        await asyncio.sleep(0)
        await subscriber.close()

    assert [reader.result() for reader in readers] == [[], [], []]


async def test_a_dead_letter_that_its_queue_does_not_take_keeps_the_event_in_line_until_it_does() -> None:
    clock = ManualClock()
    failures = iter([True])

    class Failing(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            if next(failures, False):
                raise OSError("disk full")
            await super().add(letter)

    bus = EventBus(dead_letter_queue=Failing(), clock=clock)
    subscriber = await bus.subscribe(Delivered, retry=None)
    await bus.publish_many([Delivered("a", 1), Delivered("a", 2)])
    async with await anext(subscriber.deliveries()):
        raise RuntimeError

    assert (subscriber.statistics().queued, subscriber.statistics().dead_lettered) == (2, 0)
    clock.advance(1)
    async with asyncio.timeout(5):
        assert await handled(await anext(subscriber.deliveries())) == 2

    assert subscriber.statistics().dead_lettered == await bus.dead_letter_queue.count() == 1


async def test_a_delivery_says_which_attempt_its_block_was() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Delivered)
    await bus.publish(Delivered("a"))
    delivery = await anext(subscriber.deliveries())

    attempts = [delivery.attempt]
    async with delivery:
        attempts.append(delivery.attempt)
    attempts.append(delivery.attempt)

    assert attempts == [1, 1, 1]


async def test_settled_waits_for_a_dead_letter_that_a_reader_carries_to_a_slow_queue() -> None:
    clock, may_add = ManualClock(), asyncio.Event()

    class FailingThenSlow(DeadLetterQueue):
        calls = 0

        async def add(self, letter: DeadLetter) -> None:
            self.calls += 1
            if self.calls == 1:
                raise OSError
            await may_add.wait()
            await super().add(letter)

    queue = FailingThenSlow()
    bus = EventBus(dead_letter_queue=queue, clock=clock)
    subscriber = await bus.subscribe(Delivered, retry=None)

    async def read() -> None:
        async for delivery in subscriber.deliveries():
            async with delivery:
                raise RuntimeError

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(read())
        await bus.publish(Delivered("a"))
        await clock.planned()
        clock.advance(1)
        await until(lambda: queue.calls == 2)
        settled = tasks.create_task(bus.settled())
        await asyncio.sleep(0)
        assert not settled.done()
        may_add.set()
        await settled
        reader.cancel()

    assert await queue.count() == 1


async def test_a_discard_counts_once_though_its_reader_was_interrupted() -> None:
    may_discard, asked = asyncio.Event(), asyncio.Event()

    class Slow(MemoryDeadLetters):
        async def discard(self, letter_id: str) -> bool:
            asked.set()
            await may_discard.wait()
            return await super().discard(letter_id)

    bus = EventBus(dead_letter_queue=DeadLetterQueue(store=Slow(10)))
    subscriber = await bus.subscribe(Delivered, retry=None)
    await bus.publish(Delivered("a"))
    async with await anext(subscriber.deliveries()):
        raise RuntimeError
    (letter,) = await bus.dead_letter_queue.list()
    assert await bus.republish(letter)

    async def discard() -> None:
        async with await anext(subscriber.deliveries()):
            raise Discard

    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(discard())
            await asked.wait()
            reader.cancel()
        may_discard.set()
        await discard()

    assert subscriber.statistics().discarded == 1
    assert await bus.dead_letter_queue.count() == 0
