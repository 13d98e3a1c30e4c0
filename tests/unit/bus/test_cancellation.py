"""Whichever turn of the loop a call is cancelled in: it is done or not done, and the bus goes on with nothing lost."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any, Final, TypeVar

import pytest

from avx_events import DeadLetterQueue, Event, EventBus, Request, Retry, TopicBus
from avx_events.bus.dead_letters import DeadLetter
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.bus.responders import Listener
from avx_events.bus.statistics import BusStatistics
from avx_events.bus.subscriber import Subscriber
from avx_events.core.errors import DeadLetterNotFoundError
from tests.waiting import until

ValueT = TypeVar("ValueT")

AT_ONCE: Final = Retry(attempts=2, initial_s=0, max_s=0)
MOST_TURNS: Final = 300


class Cut(Event, event_type="cancellation.cut", aggregate_id="key"):
    key: str
    number: int = 0


class CutQuestion(Request[int], event_type="cancellation.question"):
    number: int = 0


class Interruption:
    """Cancels the call it is given after so many turns of the loop, if it is not done before."""

    def __init__(self, after_turns: int) -> None:
        self.after_turns = after_turns
        self.has_happened = False

    async def __call__(self, call: Coroutine[Any, Any, ValueT]) -> ValueT | None:
        """Return what ``call`` returns, or None where it was cancelled."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(call)
            for _ in range(self.after_turns):
                await asyncio.sleep(0)
            self.has_happened = task.cancel()
        assert task.cancelled() == self.has_happened, "the cancellation was swallowed"
        return None if task.cancelled() else task.result()


async def at_every_turn(scenario: Callable[[Interruption], Awaitable[None]]) -> int:
    """Play ``scenario`` again and again, its call cancelled one turn later each time, until it is done before.

    Returns:
        How often it was cancelled.
    """
    for after_turns in count():
        assert after_turns < MOST_TURNS, "the call never ends"
        interruption = Interruption(after_turns)
        async with asyncio.timeout(5):
            await scenario(interruption)
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        if not interruption.has_happened:
            return after_turns
    raise AssertionError


class SlowDeadLetters(DeadLetterQueue):
    """A queue that takes a turn before and after each change, as one on a disk would."""

    async def add(self, letter: DeadLetter) -> None:
        await asyncio.sleep(0)
        await super().add(letter)
        await asyncio.sleep(0)

    async def claim(self, letter_id: str) -> DeadLetter | None:
        await asyncio.sleep(0)
        claimed = await super().claim(letter_id)
        await asyncio.sleep(0)
        return claimed

    async def resolve(self, letter_id: str) -> None:
        await asyncio.sleep(0)
        await super().resolve(letter_id)
        await asyncio.sleep(0)


def all_ended(statistics: BusStatistics) -> bool:
    """Tell whether every event that a handler was given ended in one way."""
    ended = statistics.handled + statistics.discarded + statistics.dead_lettered
    return statistics.delivered == ended and not statistics.queued and not statistics.in_flight


async def read_slowly(subscriber: Subscriber[Any], seen: list[int]) -> None:
    async for event in subscriber:
        seen.append(event.number)
        await asyncio.sleep(0)


# Publishing


@pytest.mark.parametrize("bus_class", [EventBus, TopicBus])
async def test_a_publish_is_whole_or_absent(bus_class: type[EventBus | TopicBus]) -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = bus_class()
        wanted: Any = Cut if bus_class is EventBus else Cut.event_type
        subscribers = [await bus.subscribe(wanted, capacity=capacity) for capacity in (4, 2, 100)]
        seen: list[list[int]] = [[], [], []]

        async with asyncio.TaskGroup() as readers:
            for subscriber, numbers in zip(subscribers, seen, strict=True):
                readers.create_task(read_slowly(subscriber, numbers))
            async with asyncio.TaskGroup() as publishers:
                for number in range(6):
                    publishers.create_task(bus.publish(Cut("a", number)))
                await cancelled(bus.publish(Cut("a", 99)))
                await bus.publish(Cut("a", 6))
            await bus.close()

        assert seen[0] == seen[1] == seen[2]
        assert [number for number in seen[0] if number != 99] == list(range(7))
        assert (99 in seen[0]) != cancelled.has_happened
        assert bus.statistics().published * 3 == bus.statistics().delivered == len(seen[0]) * 3

    assert await at_every_turn(scenario) > 3


@pytest.mark.parametrize("bus_class", [EventBus, TopicBus])
async def test_of_publish_many_the_first_ones_are_there(bus_class: type[EventBus | TopicBus]) -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = bus_class()
        wanted: Any = Cut if bus_class is EventBus else Cut.event_type
        subscribers = [await bus.subscribe(wanted, capacity=capacity) for capacity in (3, 2)]
        seen: list[list[int]] = [[], []]

        async with asyncio.TaskGroup() as readers:
            for subscriber, numbers in zip(subscribers, seen, strict=True):
                readers.create_task(read_slowly(subscriber, numbers))
            stamped = await cancelled(bus.publish_many([Cut("a", number) for number in range(8)]))
            await bus.publish(Cut("a", 99))
            await bus.close()

        first = list(range(len(seen[0]) - 1))
        assert seen[0] == seen[1] == [*first, 99]
        assert (len(first) == 8) == (stamped is not None)
        assert bus.statistics().published * 2 == bus.statistics().delivered == len(seen[0]) * 2

    assert await at_every_turn(scenario) > 3


# Reading


async def recv(subscriber: Subscriber[Cut]) -> list[int]:
    event = await subscriber.recv()
    return [] if event is None else [event.number]


async def recv_envelope(subscriber: Subscriber[Cut]) -> list[int]:
    envelope = await subscriber.recv_envelope()
    return [] if envelope is None else [envelope.event.number]


async def recv_many(subscriber: Subscriber[Cut]) -> list[int]:
    return [event.number for event in await subscriber.recv_many(2)]


async def loop_over_events(subscriber: Subscriber[Cut]) -> list[int]:
    async for event in subscriber:
        return [event.number]
    return []


async def loop_over_envelopes(subscriber: Subscriber[Cut]) -> list[int]:
    async for envelope in subscriber.envelopes():
        return [envelope.event.number]
    return []


@pytest.mark.parametrize("read", [recv, recv_envelope, recv_many, loop_over_events, loop_over_envelopes])
async def test_a_read_takes_what_it_gives_and_nothing_else(
    read: Callable[[Subscriber[Cut]], Coroutine[Any, Any, list[int]]],
) -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus()
        subscriber = await bus.subscribe(Cut, capacity=1)

        async def publish() -> None:
            for number in range(4):
                await asyncio.sleep(0)
                await bus.publish(Cut("a", number))
            await bus.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            seen = await cancelled(read(subscriber)) or []
            await read_slowly(subscriber, seen)

        assert seen == [0, 1, 2, 3]
        assert bus.statistics().delivered == 4

    assert await at_every_turn(scenario) > 1


async def test_an_event_of_a_delivery_block_ends_once_whoever_has_it_in_the_end() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus(dead_letter_queue=SlowDeadLetters())
        subscriber = await bus.subscribe(Cut, retry=AT_ONCE)
        handled: list[int] = []

        async def read() -> None:
            async for delivery in subscriber.deliveries():
                async with delivery as event:
                    await asyncio.sleep(0)
                    if event.key == "never" or (event.key == "later" and delivery.attempt == 1):
                        raise RuntimeError
                    handled.append(event.number)

        keys = ("a", "never", "later", "a", "never", "b")
        await bus.publish_many(Cut(key, number) for number, key in enumerate(keys))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(close_when(bus, lambda: all_ended(bus.statistics())))
            await cancelled(read())
            await read()

        letters = await bus.dead_letter_queue.list()
        dead = [letter.envelope.event.number for letter in letters if letter.envelope]
        assert Counter([*handled, *dead]) == Counter(range(6))
        assert {letter.attempts for letter in letters} == {2}

    assert await at_every_turn(scenario) > 10


async def close_when(bus: EventBus | RequestReplyBus, condition: Callable[[], bool]) -> None:
    await until(condition)
    await bus.close()


# The life of a bus


def handling(bus: EventBus) -> list[int]:
    """Handle what can be; return the list to which that is added."""
    handled: list[int] = []

    @bus.on(Cut, retry=AT_ONCE, concurrency=2)
    async def handler(event: Cut) -> None:
        await asyncio.sleep(0)
        if event.key == "never":
            raise RuntimeError
        handled.append(event.number)

    return handled


async def test_waiting_until_all_is_settled_changes_nothing() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus(dead_letter_queue=SlowDeadLetters())
        handled = handling(bus)

        async with bus:
            await bus.publish_many([Cut("a", 0), Cut("a", 1), Cut("never", 2), Cut("b", 3)])
            await cancelled(bus.settled())
            await bus.settled()

            assert sorted(handled) == [0, 1, 3]
            assert await bus.dead_letter_queue.count() == 1
            assert all_ended(bus.statistics())

    assert await at_every_turn(scenario) > 5


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_close_ends_at_once_and_settles_what_is_left(cancellations: int) -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus(dead_letter_queue=SlowDeadLetters())
        handled = handling(bus)

        await bus.start()
        subscriber = await bus.subscribe(Cut, name="reader")
        await bus.publish_many([Cut("a", 0), Cut("a", 1), Cut("never", 2), Cut("never", 3), Cut("b", 4)])
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as tasks:
            also_closing = tasks.create_task(bus.close()) if cancellations == 2 else None
            await cancelled(bus.close())
            if also_closing is not None:
                also_closing.cancel()
        await bus.close()

        dead = [letter.envelope.event.number for letter in await bus.dead_letter_queue.list() if letter.envelope]
        assert Counter([*handled, *dead]) == Counter(range(5))
        assert [event.number async for event in subscriber] == list(range(5))
        statistics = bus.statistics()
        assert statistics.handled + statistics.dead_lettered == statistics.published == 5
        assert (statistics.queued, statistics.in_flight) == (0, 0)

    assert await at_every_turn(scenario) > 5


async def test_a_subscription_is_there_or_not() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus()

        subscriber = await cancelled(bus.subscribe(Cut))
        await bus.publish(Cut("a"))

        assert len(bus.statistics().subscriptions) == (0 if subscriber is None else 1)
        assert bus.statistics().delivered == (0 if subscriber is None else 1)
        await bus.close()

    assert await at_every_turn(scenario) == 1


async def test_a_subscriber_that_is_being_closed_keeps_nothing_back() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus(dead_letter_queue=SlowDeadLetters())
        subscriber = await bus.subscribe(Cut, retry=Retry(attempts=2, initial_s=1000, max_s=1000))
        await bus.publish_many([Cut("a", 0), Cut("b", 1), Cut("c", 2)])
        for _ in range(2):
            async with await anext(aiter(subscriber.deliveries())):
                raise RuntimeError

        await cancelled(subscriber.close())
        await subscriber.close()
        await bus.close()

        dead = [letter.envelope.event.number for letter in await bus.dead_letter_queue.list() if letter.envelope]
        assert sorted(dead) == [0, 1]
        assert await subscriber.recv() == Cut("c", 2)
        assert await subscriber.recv() is None

    assert await at_every_turn(scenario) > 1


async def test_a_dead_letter_is_given_back_or_can_be_again() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = EventBus(dead_letter_queue=SlowDeadLetters())
        is_broken = True
        handled: list[int] = []

        @bus.on(Cut, retry=None)
        async def handler(event: Cut) -> None:
            await asyncio.sleep(0)
            if is_broken:
                raise RuntimeError
            handled.append(event.number)

        async with bus:
            await bus.publish(Cut("a", 1))
            await bus.settled()
            (letter,) = await bus.dead_letter_queue.list()
            is_broken = False
            await cancelled(bus.republish(letter))
            with suppress(DeadLetterNotFoundError):  # where it was given back, and is done already
                await bus.republish(letter)
            await bus.settled()

            assert handled == [1]
            assert await bus.dead_letter_queue.count() == 0

    assert await at_every_turn(scenario) > 1


# Requests


async def test_a_request_is_answered_or_dropped_and_counted() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = RequestReplyBus()
        begun: list[int] = []
        ended: list[int] = []

        @bus.respond(CutQuestion, concurrency=1)
        async def responder(request: CutQuestion) -> int:
            begun.append(request.number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ended.append(request.number)
            return request.number

        async with bus, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(bus.request(CutQuestion(1)))
            await asyncio.sleep(0)
            second = await cancelled(bus.request(CutQuestion(2)))
            assert await bus.request(CutQuestion(3)) == 3

        assert await first == 1
        assert second in ([None] if cancelled.has_happened else [2])
        assert begun == ended
        statistics = bus.statistics()
        assert statistics.replied + statistics.late_replies == len(ended)
        assert statistics.replied in ({2, 3} if cancelled.has_happened else {3})
        assert (statistics.waiting, statistics.in_flight, statistics.failed, statistics.timed_out) == (0, 0, 0, 0)

    assert await at_every_turn(scenario) > 3


async def test_a_reader_of_requests_leaves_those_it_did_not_take_to_others() -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = RequestReplyBus()
        listener = await bus.listen(CutQuestion)

        async def ask(number: int) -> int:
            for _ in range(number * 2):
                await asyncio.sleep(0)
            return await bus.request(CutQuestion(number))

        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(ask(number)) for number in range(3)]
            tasks.create_task(close_when(bus, lambda: all(task.done() for task in asking)))
            await cancelled(answer_all(listener))
            await answer_all(listener)

        assert [task.result() for task in asking] == [0, 1, 2]
        assert bus.statistics().replied == 3

    assert await at_every_turn(scenario) > 3


async def answer_all(listener: Listener[CutQuestion, int]) -> None:
    async for request, reply in listener:
        await reply.send(request.number)
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_close_of_a_request_bus_answers_or_says_why_not(*, is_begun: bool) -> None:
    async def scenario(cancelled: Interruption) -> None:
        bus = RequestReplyBus()

        @bus.respond(CutQuestion, concurrency=1)
        async def responder(request: CutQuestion) -> int:
            await asyncio.sleep(0)
            return request.number

        await bus.start()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(outcome(bus.request(CutQuestion(number)))) for number in range(3)]
            if is_begun:
                await asyncio.sleep(0)
            await cancelled(bus.close())
            await bus.close()

        assert all(task.result() in {0, 1, 2, "StoppedError", "ClosedError"} for task in asking)
        assert bus.statistics().in_flight == bus.statistics().waiting == 0

    assert await at_every_turn(scenario) > 1


async def outcome(call: Awaitable[int]) -> int | str:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - which one it is, the test says
        return type(error).__name__
