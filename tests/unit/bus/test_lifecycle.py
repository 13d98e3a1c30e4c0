"""The life of a bus: what is done before it starts, while it runs, as it closes, afterwards, and on which loop."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import pytest

from avx_events import DeadLetterQueue, Event, EventBus, Request, Retry, RetryAfter, TopicBus
from avx_events.bus.dead_letters import DeadLetter
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    EngineFailedError,
    HandlerWaitError,
    NotStartedError,
    WrongLoopError,
)
from avx_events.core.tasks import TaskScope
from avx_events.testing import ManualClock
from tests.waiting import until


class Lived(Event, event_type="lifecycle.lived", aggregate_id="key"):
    key: str
    number: int = 0


class LivedOn(Event, event_type="lifecycle.lived.on"):
    number: int = 0


class LifeQuestion(Request[int], event_type="lifecycle.question"):
    pass


class Unusual(BaseException):
    """No Exception."""


def a_bus(clock: ManualClock | None = None, *, drain_timeout_s: float = 10.0) -> EventBus:
    queue = DeadLetterQueue()
    return EventBus(dead_letter_queue=queue, clock=clock or ManualClock(), drain_timeout_s=drain_timeout_s)


async def letters_of(bus: EventBus) -> dict[int, DeadLetter]:
    """Return the dead letters by the number of their event."""
    letters = await bus.dead_letter_queue.list()
    return {letter.envelope.event.number: letter for letter in letters if letter.envelope}


async def some_turns() -> None:
    """Let everybody go as far as they come by themselves."""
    for _ in range(20):
        await asyncio.sleep(0)


# Starting


async def test_starting_twice_runs_each_handler_once() -> None:
    bus = a_bus()
    seen: list[int] = []

    @bus.on(Lived)
    async def handler(event: Lived) -> None:
        seen.append(event.number)

    await bus.start()
    async with bus:
        await bus.start()
        await bus.publish(Lived("a", 1))

    assert seen == [1]


async def test_whatever_gives_work_to_handlers_that_nobody_runs_is_refused() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Lived)

    @bus.on(LivedOn)
    async def handler(event: LivedOn) -> None:
        pass

    future = bus.publish_threadsafe(Lived("a"))
    for call in (
        bus.publish(Lived("a")),
        bus.publish_many([Lived("a")]),
        bus.republish("no letter"),
        bus.settled(),
        asyncio.wrap_future(future),
    ):
        with pytest.raises(NotStartedError, match="async with bus"):
            await call
    with pytest.raises(NotStartedError):
        bus.publish_nowait(Lived("a"))

    assert subscriber.statistics().queued == 0
    assert bus.statistics().published == 0
    await bus.close()


async def test_a_handler_that_is_added_before_and_after_a_start_runs_from_then_on() -> None:
    bus = a_bus()
    seen: list[str] = []

    @bus.on(Lived)
    async def early(event: Lived) -> None:
        seen.append(f"early {event.number}")

    async with bus:
        await bus.publish(Lived("a", 1))
        await bus.settled()

        @bus.on(Lived, concurrency=2)
        def late(event: Lived) -> None:
            seen.append(f"late {event.number}")

        await bus.publish(Lived("a", 2))

    assert sorted(seen) == ["early 1", "early 2", "late 2"]
    with pytest.raises(ClosedError, match="add a handler"):
        bus.on(Lived)(early)


# Closing in good order


async def test_an_exception_in_the_body_goes_on_after_everything_was_handled() -> None:
    bus = a_bus()
    seen: list[int] = []

    @bus.on(Lived)
    async def handler(event: Lived) -> None:
        await asyncio.sleep(0)
        seen.append(event.number)

    async def body() -> None:
        async with bus:
            await bus.publish_many([Lived("a", 1), Lived("a", 2)])
            raise Unusual

    with pytest.raises(Unusual):
        await body()

    assert seen == [1, 2]
    with pytest.raises(ClosedError):
        await bus.publish(Lived("a"))


@pytest.mark.parametrize(("work_s", "is_in_time"), [(9.999, True), (10.001, False)])
async def test_a_handler_has_until_the_drain_timeout_to_finish(work_s: float, *, is_in_time: bool) -> None:
    clock = ManualClock()
    bus = a_bus(clock, drain_timeout_s=10)
    is_done = asyncio.Event()
    ended: list[str] = []

    @bus.on(Lived)
    async def works(event: Lived) -> None:
        try:
            await is_done.wait()
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Lived("a", 1))
        await until(lambda: bus.statistics().in_flight)
        closing = tasks.create_task(bus.close())
        await clock.planned()
        clock.call_later(work_s, is_done.set)
        for _ in range(2):
            clock.advance(clock.pauses_s[0])
            await some_turns()
            if closing.done():
                break

    assert ended == ["done" if is_in_time else "cancelled"]
    assert [letter.reason for letter in (await letters_of(bus)).values()] == ([] if is_in_time else ["stopped"])
    assert bus.statistics().handled == (1 if is_in_time else 0)


async def test_a_retry_that_comes_in_time_is_tried_and_one_that_does_not_is_a_dead_letter() -> None:
    clock = ManualClock()
    bus = a_bus(clock, drain_timeout_s=10)
    attempts: list[int] = []

    @bus.on(Lived, retry=Retry(attempts=9, initial_s=100, max_s=100))
    async def handler(event: Lived) -> None:
        attempts.append(event.number)
        if attempts.count(event.number) == 1 or event.number == 2:
            raise RetryAfter(5 if event.number == 1 else 50)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish_many([Lived("soon", 1), Lived("late", 2)])
        await until(lambda: bus.statistics().retried == 2)
        tasks.create_task(bus.close())
        await clock.planned(3)
        clock.advance(5)
        await until(lambda: bus.statistics().handled == 1)
        clock.advance(5)

    assert attempts == [1, 2, 1]
    assert {number: letter.reason for number, letter in (await letters_of(bus)).items()} == {2: "stopped"}


async def test_everything_that_is_not_done_in_time_is_a_dead_letter_that_says_how_far_it_came() -> None:
    clock = ManualClock()
    bus = a_bus(clock, drain_timeout_s=1)
    began = clock.now

    @bus.on(Lived, name="stopped", concurrency=2, retry=Retry(initial_s=1000, max_s=1000))
    async def handler(event: Lived) -> None:
        if event.key == "fails":
            raise KeyError
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        keys = ["fails", "fails", "runs", "runs", "runs too", "waits", "waits"]
        await bus.publish_many([Lived(key, number) for number, key in enumerate(keys)])
        await until(lambda: bus.statistics().in_flight == 2 and bus.statistics().retried == 1)
        tasks.create_task(bus.close())
        await clock.planned(2)
        clock.advance(1)

    letters = await letters_of(bus)
    assert sorted(letters) == list(range(7))
    assert {letter.reason for letter in letters.values()} == {"stopped"}
    assert {number: letter.attempts for number, letter in letters.items() if letter.attempts} == {0: 1, 2: 1, 4: 1}
    assert {letter.error_type for letter in letters.values()} == {"StoppedError"}
    assert letters[0].first_failed_at == began
    assert letters[0].dead_at == clock.now
    statistics = bus.statistics()
    assert (statistics.dead_lettered, statistics.queued, statistics.in_flight) == (7, 0, 0)


async def test_closing_while_nothing_runs_takes_no_time_at_all() -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Lived)
    async def handler(event: Lived) -> None:
        pass

    async with asyncio.timeout(5):
        await bus.start()
        await bus.close()

    assert clock.pauses_s == []


async def test_the_real_clock_ends_the_drain_too() -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), drain_timeout_s=0.02)

    @bus.on(Lived)
    async def hangs(event: Lived) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), bus:
        await bus.publish(Lived("a", 1))

    assert (await letters_of(bus))[1].reason == "stopped"


async def test_after_the_close_handlers_are_gone_and_everything_from_outside_is_refused() -> None:
    bus = a_bus()

    @bus.on(Lived, retry=None)
    async def handler(event: Lived) -> None:
        raise RuntimeError

    async with bus:
        await bus.publish(Lived("a", 1))
    (letter,) = await bus.dead_letter_queue.list()

    with pytest.raises(ClosedError, match="redrive"):
        await bus.republish(letter)
    with pytest.raises(ClosedError, match="publish"):
        bus.publish_threadsafe(Lived("a")).result(timeout=5)
    await bus.settled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("place", ["the handler", "a task of it", "a thread of it"])
async def test_a_close_from_inside_of_a_handler_is_refused_wherever_it_comes_from(place: str) -> None:
    bus = a_bus()
    loop = asyncio.get_running_loop()
    refused: list[object] = []

    async def close() -> None:
        try:
            await bus.close()
        except HandlerWaitError as error:
            refused.append(error.action)

    @bus.on(Lived)
    async def handler(event: Lived) -> None:
        if place == "the handler":
            await close()
        elif place == "a task of it":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(close())
        else:
            await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(close(), loop).result(5))

    async with asyncio.timeout(5), bus:
        await bus.publish(Lived("a"))

    assert refused == ["close"]


# Handlers that make it hard


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        StopIteration,
        StopAsyncIteration,
        asyncio.CancelledError,
        Unusual,
    ],
)
async def test_whatever_a_handler_raises_fails_one_attempt_and_nothing_else(
    error: type[BaseException], *, is_plain: bool
) -> None:
    bus = a_bus()
    seen: list[int] = []

    async def raises(event: Lived) -> None:
        if event.number == 1:
            raise error
        seen.append(event.number)

    def raises_in_a_thread(event: Lived) -> None:
        if event.number == 1:
            raise error
        seen.append(event.number)

    @bus.on(Lived)
    async def sibling(event: Lived) -> None:
        seen.append(event.number)

    bus.on(Lived, retry=None)(raises_in_a_thread if is_plain else raises)
    async with asyncio.timeout(5), bus:
        await bus.publish_many([Lived("a", 1), Lived("a", 2)])
        await bus.settled()

    assert sorted(seen) == [1, 2, 2]
    letter = (await letters_of(bus))[1]
    assert (letter.reason, letter.attempts) == ("failed", 1)
    assert error.__name__ in letter.traceback


@pytest.mark.parametrize("deed", ["returns", "raises"])
async def test_a_handler_that_makes_something_of_its_cancellation_is_taken_at_its_word(deed: str) -> None:
    clock = ManualClock()
    bus = a_bus(clock, drain_timeout_s=1)

    @bus.on(Lived, retry=None)
    async def handler(event: Lived) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if deed == "raises":
                raise KeyError from None

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish_many([Lived("a", 1), Lived("a", 2)])
        await until(lambda: bus.statistics().in_flight)
        tasks.create_task(bus.close())
        await clock.planned()
        clock.advance(1)

    reasons = {number: letter.reason for number, letter in (await letters_of(bus)).items()}
    assert reasons == ({2: "stopped"} if deed == "returns" else {1: "failed", 2: "stopped"})
    statistics = bus.statistics()
    assert statistics.handled + statistics.dead_lettered == statistics.delivered == 2


async def test_a_handler_that_swallows_its_cancellation_does_not_hold_back_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), drain_timeout_s=0.01)
    release = asyncio.Event()
    refused: list[type] = []

    @bus.on(Lived, name="stubborn")
    async def stubborn(event: Lived) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        try:
            await bus.publish(Lived("b"))
        except ClosedError as error:
            refused.append(type(error))

    with caplog.at_level(logging.ERROR, "avx_events"):
        async with asyncio.timeout(10), bus:
            await bus.publish_many([Lived("a", 1), Lived("a", 2)])
    before = bus.statistics()
    release.set()
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    assert "stubborn" in caplog.text
    assert {letter.reason for letter in (await letters_of(bus)).values()} == {"stopped"}
    assert (before.dead_lettered, before.handled, before.in_flight) == (2, 0, 0)
    assert bus.statistics() == before
    assert refused == [ClosedError]


async def test_a_thread_that_never_returns_holds_back_neither_its_siblings_nor_the_close() -> None:
    clock = ManualClock()
    bus = a_bus(clock, drain_timeout_s=1)
    release = threading.Event()
    seen: list[int] = []

    @bus.on(Lived, timeout_s=1, retry=None, name="hangs")
    def hangs(event: Lived) -> None:
        release.wait(20)

    @bus.on(LivedOn)
    def sibling(event: LivedOn) -> None:
        seen.append(event.number)

    try:
        async with asyncio.timeout(10), bus:
            for number in (1, 2):
                await bus.publish(Lived("a", number))
                await clock.planned()
                clock.advance(1)
                await bus.settled()
            await bus.publish(LivedOn(3))
            await until(lambda: seen == [3])
    finally:
        release.set()

    assert {letter.error_type for letter in (await letters_of(bus)).values()} == {"HandlerTimeoutError"}


@pytest.mark.parametrize("is_slow", [False, True])
async def test_the_event_of_a_handler_that_was_given_up_is_in_flight_until_its_letter_is_kept(*, is_slow: bool) -> None:
    clock = ManualClock()
    may_be_kept = asyncio.Event()

    class Slow(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            if is_slow:
                await may_be_kept.wait()
            await super().add(letter)

    bus = EventBus(dead_letter_queue=Slow(), clock=clock)
    release = asyncio.Event()

    @bus.on(Lived, timeout_s=1, retry=None)
    async def stubborn(event: Lived) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:
        await bus.publish(Lived("a", 1))
        await clock.planned()
        clock.advance(1)
        await some_turns()
        clock.advance(1)
        settling = tasks.create_task(bus.settled())
        await some_turns()
        assert settling.done() != is_slow
        assert bus.statistics().in_flight + bus.statistics().queued == int(is_slow)
        may_be_kept.set()
        release.set()

    assert (await letters_of(bus))[1].error_type == "HandlerTimeoutError"


# Dead letter queues that make it hard


async def test_a_queue_that_fails_while_the_bus_is_closed_loses_no_other_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()

    class Failing(DeadLetterQueue):
        async def release(self, letter_id: str) -> None:
            raise OSError("disk full")

    queue = Failing()
    bus = EventBus(dead_letter_queue=queue, clock=clock, drain_timeout_s=1)
    attempts: list[int] = []

    @bus.on(Lived, retry=None, concurrency=4)
    async def handler(event: Lived) -> None:
        attempts.append(event.number)
        if attempts == [1]:
            raise RuntimeError
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Lived("a", 1))
        await bus.settled()
        (letter,) = await queue.list()
        assert await bus.republish(letter)
        await bus.publish_many([Lived("b", 2), Lived("b", 3)])
        await until(lambda: attempts == [1, 1, 2])
        tasks.create_task(bus.close())
        await clock.planned()
        clock.advance(1)
    await bus.close()

    assert sorted(await letters_of(bus)) == [1, 2, 3]


async def test_a_queue_that_hangs_does_not_hold_back_the_close_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    class Hanging(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            await asyncio.Event().wait()

    bus = EventBus(dead_letter_queue=Hanging(), clock=clock, drain_timeout_s=1)

    @bus.on(Lived, retry=None, name="broken")
    async def broken(event: Lived) -> None:
        raise KeyError

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish_many([Lived("a", 1), Lived("a", 2)])
        closing = tasks.create_task(bus.close())
        while not closing.done():
            await some_turns()
            for pause_s in clock.pauses_s[:1]:
                clock.advance(pause_s)

    for number in (1, 2):
        assert f"number={number}" in caplog.text


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time leaps when it is told to."""

    leap_s = 0.0

    def time(self) -> float:
        return super().time() + self.leap_s


def test_a_queue_that_hangs_holds_back_the_key_of_its_letter_for_ten_seconds_at_a_time_and_no_other() -> None:
    clock = ManualClock()
    loop = LeapingLoop()
    seen: list[str] = []

    class HangingOnce(DeadLetterQueue):
        calls = 0

        async def add(self, letter: DeadLetter) -> None:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()
            await super().add(letter)

    async def main() -> None:
        queue = HangingOnce()
        async with EventBus(dead_letter_queue=queue, clock=clock) as bus:

            @bus.on(Lived, retry=None)
            async def handler(event: Lived) -> None:
                seen.append(event.key)
                if event.number == 1:
                    raise KeyError

            await bus.publish_many([Lived("a", 1), Lived("b", 2), Lived("a", 3)])
            await until(lambda: queue.calls)
            loop.leap_s = 10
            await until(lambda: clock.pauses_s)
            assert (seen, clock.pauses_s, bus.statistics().dead_lettered) == (["a", "b"], [1], 0)
            clock.advance(1)
            await bus.settled()
            assert await queue.count() == 1

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())

    assert seen == ["a", "b", "a"]


async def test_a_queue_that_cancels_who_waits_for_it_fails_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    class Cancelling(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            raise asyncio.CancelledError

    bus = EventBus(dead_letter_queue=Cancelling(), clock=clock, drain_timeout_s=1)

    @bus.on(Lived, retry=None)
    async def broken(event: Lived) -> None:
        raise KeyError

    @bus.on(LivedOn)
    async def hangs(event: LivedOn) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish_many([Lived("a", 1), LivedOn(2), LivedOn(3)])
        await clock.planned()
        assert bus.statistics().queued == 2
        closing = tasks.create_task(bus.close())
        while not closing.done():
            await some_turns()
            for pause_s in clock.pauses_s[:1]:
                clock.advance(pause_s)
    await bus.close()

    for number in (1, 2, 3):
        assert f"number={number}" in caplog.text


@pytest.mark.parametrize("fault", ["cancels", "hangs"])
def test_a_queue_that_does_not_resolve_a_letter_whose_work_is_done_stops_nobody(
    caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    loop = LeapingLoop()
    seen: list[int] = []

    class Unresolving(DeadLetterQueue):
        calls = 0

        async def resolve(self, letter_id: str) -> None:
            self.calls += 1
            if fault == "cancels":
                raise asyncio.CancelledError
            await asyncio.Event().wait()

    async def main() -> None:
        queue = Unresolving()
        async with EventBus(dead_letter_queue=queue) as bus:

            @bus.on(Lived, retry=None)
            async def handler(event: Lived) -> None:
                seen.append(event.number)
                if seen == [1]:
                    raise KeyError

            await bus.publish(Lived("a", 1))
            await bus.settled()
            assert await bus.republish((await queue.list())[0])
            await until(lambda: queue.calls)
            if fault == "hangs":
                loop.leap_s = 10
            await bus.publish(Lived("a", 2))
            await bus.settled()
            assert bus.statistics().handled == 2
            assert await queue.count() == 1

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(main(), 60))

    assert seen == [1, 1, 2]
    assert "was redriven, but stays in its queue" in caplog.text


# A bus that fails


async def test_a_bus_whose_worker_is_cancelled_by_somebody_else_says_so_and_keeps_what_is_left() -> None:
    bus = a_bus()

    @bus.on(Lived, name="worker")
    async def handler(event: Lived) -> None:
        await asyncio.Event().wait()

    await bus.start()
    await bus.publish_many([Lived("a", 1), Lived("a", 2)])
    await until(lambda: bus.statistics().in_flight)
    for task in asyncio.all_tasks():
        if "worker" in task.get_name():
            task.cancel()
    await some_turns()

    for call in (bus.publish(Lived("a")), bus.publish_many([Lived("a")]), bus.settled()):
        with pytest.raises(EngineFailedError, match="did the loop end before the bus"):
            await call
    async with asyncio.timeout(5):
        await bus.close()
    assert {number: letter.reason for number, letter in (await letters_of(bus)).items()} == {1: "stopped", 2: "stopped"}


# Loops


async def use(call: Callable[[], object]) -> None:
    result = call()
    if isinstance(result, Awaitable):
        await result


CALLS: Final[dict[str, Callable[[EventBus], object]]] = {
    "publish": lambda bus: bus.publish(Lived("a")),
    "publish_many": lambda bus: bus.publish_many([Lived("a")]),
    "publish_nowait": lambda bus: bus.publish_nowait(Lived("a")),
    "subscribe": lambda bus: bus.subscribe(Lived),
    "start": lambda bus: bus.start(),
    "close": lambda bus: bus.close(),
    "settled": lambda bus: bus.settled(),
    "republish": lambda bus: bus.republish("letter"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bus_belongs_to_the_loop_that_first_used_it(name: str) -> None:
    bus = a_bus()

    async def first() -> None:
        await bus.subscribe(Lived)
        await bus.publish(Lived("a"))
        await bus.publish(Lived("a"))

    asyncio.run(first())
    with pytest.raises(WrongLoopError, match="one for each loop"):
        asyncio.run(use(lambda: CALLS[name](bus)))

    assert bus.statistics().published == 2


@pytest.mark.parametrize("read", ["recv", "recv_many", "recv_envelope", "deliveries"])
def test_nobody_waits_for_events_on_another_loop(read: str) -> None:
    bus = a_bus()
    subscriber = asyncio.run(bus.subscribe(Lived))

    async def wait() -> None:
        async with asyncio.timeout(5):
            await (anext(subscriber.deliveries()) if read == "deliveries" else getattr(subscriber, read)())

    with pytest.raises(WrongLoopError):
        asyncio.run(wait())


def test_a_loop_that_ends_with_an_open_bus_leaves_nothing_running() -> None:
    bus = a_bus()
    threads_before = threading.active_count()

    async def main() -> None:
        @bus.on(Lived)
        async def hangs(event: Lived) -> None:
            await asyncio.Event().wait()

        @bus.on(LivedOn)
        async def idle(event: LivedOn) -> None:
            pass

        await bus.start()
        subscriber = await bus.subscribe(LivedOn, capacity=1)
        await bus.publish_many([Lived("a", 1), Lived("a", 2)])
        await until(lambda: bus.statistics().in_flight)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish_many([LivedOn(1), LivedOn(2)])
        assert subscriber.statistics().queued == 1

    asyncio.run(main())

    assert threading.active_count() == threads_before
    with pytest.raises(AvxEventsError):
        asyncio.run(use(lambda: bus.publish(LivedOn())))
    with pytest.raises(ClosedError):
        bus.publish_threadsafe(LivedOn())


@pytest.mark.parametrize("queued", [1, 3])
def test_a_loop_ends_though_a_handler_swallows_its_cancellation(queued: int) -> None:
    async def main() -> None:
        bus = a_bus()

        @bus.on(Lived)
        async def swallows(event: Lived) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        await bus.start()
        await bus.publish_many([Lived("a", number) for number in range(queued)])
        await until(lambda: bus.statistics().in_flight)

    asyncio.run(main())


def test_a_loop_that_ends_while_letters_are_buried_leaves_them_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()

    class Hanging(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            asked.set()
            await asyncio.Event().wait()

    async def main() -> None:
        bus = EventBus(dead_letter_queue=Hanging(), drain_timeout_s=0.01)

        @bus.on(Lived)
        async def hangs(event: Lived) -> None:
            await asyncio.Event().wait()

        await bus.start()
        await bus.publish_many([Lived("a", number) for number in (1, 2, 3)])
        TaskScope().spawn(bus.close(), name="close")
        await asked.wait()

    asyncio.run(main())

    for number in (1, 2, 3):
        assert f"number={number}" in caplog.text


def test_the_threads_of_a_bus_that_was_left_open_end_with_it() -> None:
    async def main() -> None:
        bus = a_bus()

        @bus.on(Lived)
        def in_a_thread(event: Lived) -> None:
            pass

        await bus.start()
        await bus.publish(Lived("a"))
        await bus.settled()

    before = set(threading.enumerate())
    asyncio.run(main())
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)

    assert set(threading.enumerate()) == before


# Memory


class Token:
    """Something that a handler holds, and with it everybody who holds the handler."""


@pytest.mark.parametrize("life", ["unused", "registered", "read", "started and closed"])
def test_a_bus_that_nobody_has_any_more_is_gone(life: str) -> None:
    async def main() -> "weakref.ref[Token]":
        token = Token()
        buses: list[Any] = [a_bus(), TopicBus(), RequestReplyBus()]
        for bus, wanted in zip(buses, (Lived, "*", LifeQuestion), strict=True):
            if life == "read":
                await (bus.listen(wanted) if wanted is LifeQuestion else bus.subscribe(wanted))
            elif life != "unused":
                register = bus.respond if wanted is LifeQuestion else bus.on
                register(wanted)(a_handler_that_holds(token))
            if life == "started and closed":
                async with bus:
                    pass
        return weakref.ref(token)

    token = asyncio.run(main())
    gc.collect()

    assert token() is None


def a_handler_that_holds(token: Token) -> Callable[[Any], Coroutine[Any, Any, Token]]:
    async def handler(message: Any) -> Token:
        return token

    return handler
