"""Publishing from other threads: order, answers, refusals; and what calls from the wrong thread are told."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from avx_events import DeadLetterQueue, Event, EventBus, EventMetadata, TopicBus
from avx_events.core.errors import (
    ClosedError,
    InvalidArgumentError,
    NotAnEventError,
    NotStartedError,
    SubscriptionFullError,
    WrongLoopError,
)
from tests.waiting import until

if TYPE_CHECKING:
    from concurrent.futures import Future

ValueT = TypeVar("ValueT")

THREADS: Final = 8
EVENTS: Final = 2_000


class Threaded(Event, event_type="threads.threaded", aggregate_id="key"):
    key: str
    number: int = 0


class ThreadedOn(Event, event_type="threads.threaded.on", aggregate_id="key"):
    key: str
    number: int = 0


async def in_another_thread(function: Callable[[], ValueT]) -> ValueT:
    async with asyncio.timeout(10):
        return await asyncio.to_thread(function)


def on_another_loop(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    async def use() -> None:
        async with asyncio.timeout(5):
            await call()

    asyncio.run(use())


@pytest.mark.parametrize("capacity", [64, 100_000])
async def test_each_of_8_threads_keeps_the_order_of_its_2000_events(capacity: int) -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded, capacity=capacity)
    numbers: dict[str, list[int]] = {f"thread-{thread}": [] for thread in range(THREADS)}
    futures: dict[str, list[Future[EventMetadata]]] = {key: [] for key in numbers}

    def publish(key: str) -> None:
        futures[key] = [bus.publish_threadsafe(Threaded(key, number)) for number in range(EVENTS)]

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for key in numbers:
            tasks.create_task(asyncio.to_thread(publish, key))
        for _ in range(THREADS * EVENTS):
            event = await subscriber.recv()
            assert event is not None
            numbers[event.key].append(event.number)
        await until(lambda: all(future.done() for made in futures.values() for future in made))

    assert all(found == list(range(EVENTS)) for found in numbers.values())
    stamped = [future.result().event_id for made in futures.values() for future in made]
    assert len(set(stamped)) == THREADS * EVENTS == bus.statistics().published


async def test_a_thread_that_waits_for_each_of_its_events_is_held_back() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded, capacity=2)
    most = 0

    def publish() -> None:
        for number in range(50):
            bus.publish_threadsafe(Threaded("a", number)).result(10)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(publish))
        for number in range(50):
            event = await subscriber.recv()
            assert event == Threaded("a", number)
            most = max(most, subscriber.statistics().queued + subscriber.statistics().waiting_publishers)

    assert most <= 3


async def test_the_future_gives_the_metadata_that_the_subscriber_sees() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded)

    metadata = await in_another_thread(
        lambda: bus.publish_threadsafe(Threaded("a"), headers={"from": "a thread"}).result(5)
    )

    envelope = await subscriber.recv_envelope()
    assert envelope is not None
    assert envelope.metadata is metadata
    assert metadata.headers == {"from": "a thread"}


async def test_what_is_wrong_with_the_event_is_raised_at_once_in_the_thread() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded)
    wrong_headers: Any = {"a": 1}

    wrong_events: list[object] = [Threaded, 3, None]
    for wrong in wrong_events:
        with pytest.raises(NotAnEventError):
            await in_another_thread(partial(bus.publish_threadsafe, wrong))
    with pytest.raises(InvalidArgumentError, match="headers"):
        await in_another_thread(lambda: bus.publish_threadsafe(Threaded("a"), headers=wrong_headers))

    assert subscriber.statistics().queued == 0


async def test_what_the_bus_refuses_is_raised_by_the_future() -> None:
    bus = EventBus()
    await bus.subscribe(Threaded, capacity=1, overflow="raise", name="strict")
    await bus.publish(Threaded("a"))

    with pytest.raises(SubscriptionFullError, match="strict"):
        await in_another_thread(lambda: bus.publish_threadsafe(Threaded("b")).result(5))

    assert bus.statistics().published == 1


async def test_a_future_that_is_cancelled_before_the_loop_sees_it_publishes_nothing() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded)

    cancelled = bus.publish_threadsafe(Threaded("a", 1))
    assert cancelled.cancel()
    await bus.publish(Threaded("a", 2))
    await asyncio.sleep(0)

    assert [event.number for event in await subscriber.recv_many()] == [2]


async def test_a_future_that_waits_for_room_cannot_be_cancelled_and_comes_in() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded, capacity=1)
    await bus.publish(Threaded("a", 1))

    waiting = await in_another_thread(lambda: bus.publish_threadsafe(Threaded("a", 2)))
    await until(lambda: subscriber.statistics().waiting_publishers)
    assert not waiting.cancel()

    assert [await subscriber.recv(), await subscriber.recv()] == [Threaded("a", 1), Threaded("a", 2)]
    assert waiting.result(0).aggregate_id == "a"


async def test_from_the_loops_own_thread_it_comes_in_with_the_next_turn() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded)

    later = [bus.publish_threadsafe(Threaded("a", number)) for number in (2, 3)]
    await bus.publish(Threaded("a", 1))
    assert not any(future.done() for future in later)
    await asyncio.sleep(0)

    assert all(future.done() for future in later)
    assert [event.number for event in await subscriber.recv_many()] == [1, 2, 3]


async def test_those_who_wait_when_the_bus_closes_are_refused() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded, capacity=1)
    await bus.publish(Threaded("a", 1))

    def publish() -> list[BaseException | None]:
        made = [bus.publish_threadsafe(Threaded("a", number)) for number in (2, 3)]
        return [future.exception(5) for future in made]

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(asyncio.to_thread(publish))
        await until(lambda: subscriber.statistics().waiting_publishers == 2)
        await bus.close()

    assert [type(error) for error in publishing.result()] == [ClosedError, ClosedError]
    assert [event.number async for event in subscriber] == [1]


def test_before_the_first_use_on_a_loop_a_thread_is_told_so() -> None:
    for bus in (EventBus(), TopicBus()):
        with pytest.raises(NotStartedError):
            bus.publish_threadsafe(Threaded("a"))


def test_after_the_close_a_thread_is_told_so_whether_the_loop_runs_stands_or_is_closed() -> None:
    async def a_closed_bus() -> EventBus:
        async with EventBus() as bus:
            await bus.subscribe(Threaded)
        with pytest.raises(ClosedError):
            await in_another_thread(lambda: bus.publish_threadsafe(Threaded("a")).result(5))
        return bus

    loop = asyncio.new_event_loop()
    bus = loop.run_until_complete(a_closed_bus())
    with pytest.raises(ClosedError):
        bus.publish_threadsafe(Threaded("a")).result(5)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    with pytest.raises(ClosedError):
        bus.publish_threadsafe(Threaded("a")).result(5)


async def test_handlers_in_threads_publish_in_order_on_their_own_full_bus() -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue())
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}

    @bus.on(Threaded, concurrency=3, retry=None)
    def spread(event: Threaded) -> None:
        for number in range(20):
            bus.publish_threadsafe(ThreadedOn(event.key, number)).result(5)

    @bus.on(ThreadedOn, capacity=1)
    async def collect(event: ThreadedOn) -> None:
        seen[event.key].append(event.number)

    async with asyncio.timeout(10), bus:
        await bus.publish_many([Threaded(key) for key in seen])
        await bus.settled()

    assert seen == {key: list(range(20)) for key in seen}
    assert await bus.dead_letter_queue.count() == 0


CALLS: Final[dict[str, Callable[[EventBus], Coroutine[Any, Any, object]]]] = {
    "publish": lambda bus: bus.publish(Threaded("a")),
    "publish_many": lambda bus: bus.publish_many([Threaded("a")]),
    "subscribe": lambda bus: bus.subscribe(Threaded),
    "settled": lambda bus: bus.settled(),
    "close": lambda bus: bus.close(),
    "start": lambda bus: bus.start(),
    "republish": lambda bus: bus.republish("a letter"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_what_belongs_on_the_loop_is_refused_in_another_thread(name: str) -> None:
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Threaded)
        await bus.publish(Threaded("a"))

        remedy = "publish_threadsafe" if name.startswith("publish") else "make one for each loop"
        with pytest.raises(WrongLoopError, match=remedy):
            await in_another_thread(lambda: on_another_loop(lambda: CALLS[name](bus)))

        assert subscriber.statistics().queued == 1


async def test_what_is_plain_is_refused_in_another_thread_too() -> None:
    async def handler(event: Threaded) -> None:
        pass

    async with EventBus() as bus:
        await bus.publish(Threaded("a"))

        with pytest.raises(WrongLoopError):
            await in_another_thread(lambda: bus.publish_nowait(Threaded("a")))
        with pytest.raises(WrongLoopError):
            await in_another_thread(lambda: bus.on(Threaded)(handler))

        assert bus.statistics().published == 1
        assert bus.statistics().subscriptions == {}


async def test_nobody_waits_for_events_in_another_thread() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded)

    with pytest.raises(WrongLoopError):
        await in_another_thread(lambda: on_another_loop(subscriber.recv))

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(subscriber.recv())
        await bus.publish(Threaded("a", 1))
    assert reading.result() == Threaded("a", 1)


async def test_a_thread_may_look_at_the_figures_while_events_go_through() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Threaded, capacity=8)
    is_over = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not is_over.is_set():
            seen.append(bus.statistics().published)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(asyncio.to_thread(look))
        for number in range(2_000):
            await bus.publish(Threaded("a", number))
            await subscriber.recv()
            if number % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: seen)
        is_over.set()
        await looking

    assert seen == sorted(seen)
