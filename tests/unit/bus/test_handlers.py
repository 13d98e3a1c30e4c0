"""Handlers: attempts, pauses, order by key, deadlines, dead letters and redrive."""

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from avx_events import Discard, Event, EventEnvelope, EventMetadata, Reject, Retry, RetryAfter, context
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import (
    ClosedError,
    DeadLetterNotFoundError,
    DuplicateHandlerError,
    HandlerDefinitionError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
)
from avx_events.testing.clock import ManualClock
from tests.waiting import until


class Handled(Event, aggregate_id="key"):
    key: str
    number: int = 0


class Followed(Event, aggregate_id="key"):
    key: str


def a_bus(clock: ManualClock | None = None, **options: Any) -> EventBus:
    return EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock or ManualClock(), **options)


async def test_every_handler_gets_every_event_in_order() -> None:
    bus = a_bus()
    first: list[int] = []
    second: list[int] = []

    @bus.on(Handled)
    async def one(event: Handled) -> None:
        first.append(event.number)

    @bus.on(Handled)
    async def two(event: Handled) -> None:
        await asyncio.sleep(0)
        second.append(event.number)

    async with bus:
        for number in range(50):
            await bus.publish(Handled("a", number))
        await bus.settled()

    assert first == second == list(range(50))
    assert bus.statistics().handled == 100


async def test_a_handler_may_be_plain_and_may_take_the_envelope() -> None:
    bus = a_bus()
    threads: list[int] = []
    envelopes: list[EventEnvelope[Handled]] = []

    @bus.on(Handled)
    def in_thread(event: Handled) -> None:
        threads.append(threading.get_ident())

    @bus.on(Handled)
    async def with_envelope(event: Handled, envelope: EventEnvelope[Handled]) -> None:
        assert envelope.event is event
        envelopes.append(envelope)

    @bus.on(Handled)
    def both(event: Handled, envelope: EventEnvelope[Handled]) -> None:
        envelopes.append(envelope)

    async with bus:
        metadata = await bus.publish(Handled("a"))
        await bus.settled()

    assert threads
    assert threading.get_ident() not in threads
    assert [envelope.metadata for envelope in envelopes] == [metadata, metadata]


async def test_a_failed_attempt_is_repeated_after_its_pause_and_then_succeeds() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    attempts: list[float] = []

    @bus.on(Handled, retry=Retry(attempts=3, initial_s=10, max_s=10))
    async def flaky(event: Handled) -> None:
        attempts.append(clock.monotonic())
        if len(attempts) < 3:
            raise RuntimeError("not yet")

    async with bus:
        await bus.publish(Handled("a"))
        for _ in range(2):
            await clock.planned()
            assert 0 <= clock.pauses_s[0] <= 10
            clock.advance(10)
        await bus.settled()
        statistics = bus.statistics()

    assert len(attempts) == 3
    assert (statistics.handled, statistics.retried, statistics.dead_lettered) == (1, 2, 0)
    assert await bus.dead_letter_queue.count() == 0


async def test_what_fails_for_good_becomes_a_dead_letter_with_everything_about_it() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    began = clock.now

    @bus.on(Handled, retry=Retry(attempts=2, initial_s=5, max_s=5), name="mail")
    async def broken(event: Handled) -> None:
        raise KeyError(event.key)

    async with bus:
        metadata = await bus.publish(Handled("a", 7))
        await clock.planned()
        clock.advance(5)
        await bus.settled()

    (letter,) = await bus.dead_letter_queue.list()
    assert letter.envelope is not None
    assert letter.envelope.event == Handled("a", 7)
    assert letter.envelope.metadata is metadata
    assert (letter.handler, letter.reason, letter.attempts, letter.redrives) == ("mail", "failed", 2, 0)
    assert (letter.error, letter.error_type) == ("KeyError: 'a'", "KeyError")
    assert "raise KeyError(event.key)" in letter.traceback
    assert (letter.first_failed_at, letter.dead_at) == (began, clock.now)


async def test_a_failing_handler_does_not_stop_its_siblings() -> None:
    bus = a_bus()
    seen: list[int] = []

    @bus.on(Handled, retry=None)
    async def broken(event: Handled) -> None:
        raise RuntimeError

    @bus.on(Handled)
    async def sibling(event: Handled) -> None:
        seen.append(event.number)

    async with bus:
        for number in range(3):
            await bus.publish(Handled("a", number))
        await bus.settled()

    assert seen == [0, 1, 2]
    assert await bus.dead_letter_queue.count() == 3


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_waiting_for_a_retry_blocks_only_its_key(concurrency: int) -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    seen: list[tuple[str, int]] = []
    failures = iter([True])

    @bus.on(Handled, concurrency=concurrency, retry=Retry(initial_s=60, max_s=60))
    async def handler(event: Handled) -> None:
        if event == Handled("a", 0) and next(failures, False):
            raise RuntimeError
        seen.append((event.key, event.number))

    async with bus:
        for number in range(2):
            for key in ("a", "b", ""):
                await bus.publish(Handled(key, number))
        await clock.planned()
        await until(lambda: len(seen) == 4)
        assert ("a", 1) not in seen
        assert bus.statistics().queued == 2
        clock.advance(60)
        await bus.settled()

    assert [entry for entry in seen if entry[0] == "a"] == [("a", 0), ("a", 1)]
    assert [entry for entry in seen if entry[0] == "b"] == [("b", 0), ("b", 1)]
    assert len(seen) == 6


async def test_with_concurrency_events_of_one_key_run_in_order_and_others_at_once() -> None:
    bus = a_bus()
    running: dict[str, int] = defaultdict(int)
    seen: dict[str, list[int]] = defaultdict(list)
    most = 0

    @bus.on(Handled, concurrency=8)
    async def handler(event: Handled) -> None:
        nonlocal most
        running[event.key] += 1
        assert running[event.key] == 1
        most = max(most, sum(running.values()))
        for _ in range(event.number % 4):
            await asyncio.sleep(0)
        seen[event.key].append(event.number)
        running[event.key] -= 1

    async with bus:
        for number in range(400):
            await bus.publish(Handled(f"key-{number % 16}", number))
        await bus.settled()

    assert len(seen) == 16
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 400
    assert 2 <= most <= 8
    assert await bus.dead_letter_queue.count() == 0


async def test_a_key_function_chooses_another_key() -> None:
    bus = a_bus()
    overlaps = 0
    running = 0

    @bus.on(Handled, concurrency=8, key=lambda event: event.number % 1)
    async def one_lane(event: Handled) -> None:
        nonlocal overlaps, running
        running += 1
        overlaps += running > 1
        await asyncio.sleep(0)
        running -= 1

    async with bus:
        for number in range(20):
            await bus.publish(Handled(f"key-{number}", number))
        await bus.settled()

    assert overlaps == 0
    assert bus.statistics().handled == 20


def unhashable(event: Handled) -> Any:
    return [event.key]


def raising(event: Handled) -> str:
    raise KeyError(event.key)


def cancelling(event: Handled) -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize("key", [unhashable, raising, cancelling])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_key_function_that_fails_is_a_failure_of_its_handler(
    key: Callable[[Any], Any], concurrency: int
) -> None:
    bus = a_bus()

    @bus.on(Handled, concurrency=concurrency, key=key, retry=None)
    async def handler(event: Handled) -> None:
        if concurrency == 1:
            raise RuntimeError

    async with bus:
        await bus.publish(Handled("a"))
        await bus.publish(Handled("a"))
        await bus.settled()

    assert await bus.dead_letter_queue.count() == 2


async def test_discard_reject_and_retry_after_say_what_to_do() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    orders: dict[str, Exception] = {"discard": Discard("old"), "reject": Reject("bad"), "later": RetryAfter(42)}
    attempts: list[str] = []

    @bus.on(Handled, retry=Retry(attempts=2))
    async def handler(event: Handled) -> None:
        attempts.append(event.key)
        raise orders[event.key]

    async with bus:
        for key in orders:
            await bus.publish(Handled(key))
        await clock.planned()
        assert clock.pauses_s == [42]
        clock.advance(42)
        await bus.settled()
        statistics = bus.statistics()

    letters = await bus.dead_letter_queue.list()
    assert attempts == ["discard", "reject", "later", "later"]
    assert [(letter.reason, letter.error) for letter in letters] == [
        ("rejected", "Reject: bad"),
        ("failed", "RetryAfter: retry after 42 s"),
    ]
    assert (statistics.discarded, statistics.dead_lettered, statistics.handled) == (1, 2, 0)


class Strange(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [Strange("odd"), SystemExit(3), asyncio.CancelledError("own")])
async def test_whatever_a_handler_raises_is_a_failed_attempt(error: BaseException) -> None:
    bus = a_bus()

    @bus.on(Handled, retry=None)
    async def handler(event: Handled) -> None:
        if event.number == 0:
            raise error

    async with bus:
        await bus.publish(Handled("a", 0))
        await bus.publish(Handled("a", 1))
        await bus.settled()

    (letter,) = await bus.dead_letter_queue.list()
    assert letter.error_type == type(error).__name__
    assert bus.statistics().handled == 1


class TooManyRequests(RetryAfter):
    def __init__(self, response: str) -> None:
        self.response = response


@pytest.mark.parametrize("retry", [None, Retry(attempts=2)])
async def test_a_retry_after_of_ones_own_that_says_no_time_fails_its_attempt_and_nothing_else(
    retry: Retry | None,
) -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Handled, retry=retry)
    async def handler(event: Handled) -> None:
        if event.key == "bad":
            raise TooManyRequests("429")

    async with bus:
        await bus.publish_many([Handled("bad"), Handled("good")])
        await until(lambda: bus.statistics().handled)
        clock.advance(0)
        await bus.settled()

    (letter,) = await bus.dead_letter_queue.list()
    assert (letter.error_type, letter.attempts) == ("TooManyRequests", 1 if retry is None else 2)


async def test_an_attempt_that_takes_too_long_is_cancelled_and_repeated() -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    attempts = 0

    @bus.on(Handled, timeout_s=10, retry=Retry(attempts=2, initial_s=0))
    async def slow_once(event: Handled) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()

    async with bus:
        await bus.publish(Handled("a"))
        await clock.planned()
        clock.advance(9.9)
        await asyncio.sleep(0)
        assert bus.statistics().in_flight == 1
        clock.advance(0.2)
        await until(lambda: bus.statistics().retried)
        clock.advance(0)
        await bus.settled()

    assert attempts == 2
    assert bus.statistics().handled == 1


async def test_too_late_is_a_timeout_error_in_the_dead_letter_whatever_the_handler_makes_of_it() -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Handled, timeout_s=1, retry=None)
    async def turns_it_into_another(event: Handled) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None

    async with bus:
        await bus.publish(Handled("a"))
        await clock.planned()
        clock.advance(1)
        await bus.settled()
        await bus.publish(Handled("b"))
        await clock.planned()
        clock.advance(1)
        await bus.settled()

    letters = await bus.dead_letter_queue.list()
    assert [letter.error_type for letter in letters] == ["HandlerTimeoutError"] * 2
    assert "ValueError: interrupted" in letters[0].traceback


async def test_an_attempt_that_was_cut_off_has_failed_though_its_handler_returns() -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Handled, timeout_s=1, retry=None)
    async def carries_on(event: Handled) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async with bus:
        await bus.publish(Handled("a"))
        await clock.planned()
        clock.advance(1)
        await bus.settled()

    assert bus.statistics().handled == 0
    assert [letter.error_type for letter in await bus.dead_letter_queue.list()] == ["HandlerTimeoutError"]


async def test_a_handler_that_swallows_its_cancellation_is_left_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    bus = a_bus(clock)
    release = asyncio.Event()
    seen: list[int] = []

    @bus.on(Handled, timeout_s=1, retry=None)
    async def stubborn(event: Handled) -> None:
        if event.number == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await release.wait()
        seen.append(event.number)

    with caplog.at_level(logging.ERROR, "avx_events"):
        async with bus:
            await bus.publish(Handled("a", 0))
            await bus.publish(Handled("b", 1))
            await clock.planned()
            clock.advance(1)
            await asyncio.sleep(0)
            clock.advance(1)
            await bus.settled()
            release.set()
            await asyncio.sleep(0)

    (letter,) = await bus.dead_letter_queue.list()
    assert letter.error_type == "HandlerTimeoutError"
    assert seen == [1, 0]
    assert bus.statistics().handled == 1
    assert "swallowed its cancellation" in caplog.text


async def test_a_redriven_letter_goes_to_the_handler_that_failed_and_leaves_the_queue() -> None:
    bus = a_bus()
    broken = True
    seen: list[str] = []

    @bus.on(Handled, retry=None, name="mended")
    async def handler(event: Handled) -> None:
        if broken:
            raise RuntimeError
        seen.append("mended")

    @bus.on(Handled, name="sibling")
    async def sibling(event: Handled) -> None:
        seen.append("sibling")

    async with bus:
        await bus.publish(Handled("a"))
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()
        broken = False
        assert await bus.republish(letter)
        await bus.settled()

    assert seen == ["sibling", "mended"]
    assert await bus.dead_letter_queue.count() == 0


async def test_a_redrive_that_fails_updates_the_same_letter() -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Handled, retry=None)
    async def broken(event: Handled) -> None:
        raise RuntimeError(f"at {clock.monotonic()}")

    async with bus:
        await bus.publish(Handled("a"))
        await bus.settled()
        (before,) = await bus.dead_letter_queue.list()
        clock.advance(60)
        await bus.republish(before)
        await bus.settled()
        (after,) = await bus.dead_letter_queue.list()

    assert (after.id, after.first_failed_at) == (before.id, before.first_failed_at)
    assert (after.attempts, after.redrives) == (2, 1)
    assert (after.dead_at - before.dead_at).total_seconds() == 60
    assert after.error != before.error


async def test_a_letter_that_is_being_redriven_is_not_redriven_twice() -> None:
    bus = a_bus()
    release = asyncio.Event()
    attempts = 0

    @bus.on(Handled, retry=None)
    async def handler(event: Handled) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError
        await release.wait()

    async with bus:
        await bus.publish(Handled("a"))
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()

        assert [await bus.republish(letter), await bus.republish(letter.id)] == [True, False]
        release.set()
        await bus.settled()

        with pytest.raises(DeadLetterNotFoundError):
            await bus.republish(letter)
    assert attempts == 2


async def test_a_letter_of_nobody_cannot_be_redriven() -> None:
    bus = a_bus()
    other = a_bus()

    @bus.on(Handled, retry=None, name="gone")
    async def handler(event: Handled) -> None:
        raise RuntimeError

    async with bus:
        await bus.publish(Handled("a"))
        await bus.settled()
    (letter,) = await bus.dead_letter_queue.list()
    await other.dead_letter_queue.add(letter)

    with pytest.raises(NoHandlerError, match="gone"):
        await other.republish(letter)
    with pytest.raises(NoDeadLetterQueueError, match="event bus has no dead letter queue"):
        await EventBus().republish(letter)
    assert await other.dead_letter_queue.count() == 1


async def test_a_dead_letter_queue_that_fails_gets_the_letter_later() -> None:
    clock = ManualClock()
    failures = iter([True, True])

    class Failing(DeadLetterQueue):
        async def add(self, letter: DeadLetter) -> None:
            if next(failures, False):
                raise OSError("disk full")
            await super().add(letter)

    bus = EventBus(dead_letter_queue=Failing(), clock=clock)
    attempts = 0

    @bus.on(Handled, retry=None)
    async def handler(event: Handled) -> None:
        nonlocal attempts
        attempts += 1
        raise RuntimeError("broken")

    async with bus:
        await bus.publish(Handled("a"))
        for _ in range(2):
            await clock.planned()
            assert await bus.dead_letter_queue.count() == 0
            clock.advance(1)
        await bus.settled()

    (letter,) = await bus.dead_letter_queue.list()
    assert letter.error == "RuntimeError: broken"
    assert attempts == 1


async def test_without_a_queue_what_fails_for_good_is_logged_with_everything(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus(clock=ManualClock())

    @bus.on(Handled, retry=None, name="mail")
    async def handler(event: Handled) -> None:
        raise RuntimeError("no server")

    with caplog.at_level(logging.ERROR, "avx_events"):
        async with bus:
            metadata = await bus.publish(Handled("a", 5))
            await bus.settled()

    for text in ("mail", "RuntimeError: no server", metadata.event_id, "number=5", "raise RuntimeError"):
        assert text in caplog.text
    with pytest.raises(NoDeadLetterQueueError, match="logs dead letters"):
        _ = bus.dead_letter_queue


async def test_what_is_published_while_an_event_is_handled_carries_its_context() -> None:
    bus = a_bus()
    followed = await bus.subscribe(Followed)

    @bus.on(Handled)
    async def follow(event: Handled) -> None:
        await bus.publish(Followed(event.key))

    @bus.on(Handled)
    def follow_in_thread(event: Handled) -> None:
        bus.publish_threadsafe(Followed(event.key))

    async with bus:
        with context(correlation_id="chain", user_id="jane"):
            cause = await bus.publish(Handled("a"))
        await bus.settled()
        after = await bus.publish(Followed("b"))

    for _ in range(2):
        envelope = await followed.recv_envelope()
        assert envelope is not None
        metadata: EventMetadata = envelope.metadata
        assert (metadata.correlation_id, metadata.user_id, metadata.causation_id) == ("chain", "jane", cause.event_id)
    assert (after.correlation_id, after.causation_id) == (after.event_id, None)


async def test_settled_waits_for_what_handlers_publish_because_of_an_event() -> None:
    bus = a_bus()
    seen: list[int] = []

    @bus.on(Handled)
    async def count_down(event: Handled) -> None:
        await asyncio.sleep(0)
        seen.append(event.number)
        if event.number:
            await bus.publish(Handled("a", event.number - 1))

    async with bus:
        await bus.publish(Handled("a", 20))
        await bus.settled()
        assert seen == list(range(20, -1, -1))
        await bus.settled()


async def test_a_name_belongs_to_one_consumer_of_a_bus() -> None:
    bus = a_bus()

    async def handler(event: Event) -> None:
        pass

    bus.on(Handled)(handler)

    with pytest.raises(DuplicateHandlerError, match="handler"):
        bus.on(Followed)(handler)
    await bus.subscribe(Handled, name="reader")
    with pytest.raises(DuplicateHandlerError, match="reader"):
        bus.on(Handled, name="reader")(handler)


def no_parameter() -> None: ...
def three(a: object, b: object, c: object) -> None: ...
def keyword_only(event: object, *, needed: object) -> None: ...


@pytest.mark.parametrize("function", [no_parameter, three, keyword_only])
def test_a_function_that_cannot_take_an_event_is_no_handler(function: Callable[..., None]) -> None:
    with pytest.raises(HandlerDefinitionError, match=function.__name__):
        a_bus().on(Handled)(function)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"capacity": -1},
        {"retry": 3},
        {"key": "user_id"},
        {"name": ""},
        {"name": " "},
        {"overflow": "explode"},
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    async def handler(event: Handled) -> None:
        pass

    bus = a_bus()
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        bus.on(Handled, **options)(handler)

    assert bus.statistics().subscriptions == {}


async def test_a_handler_may_be_added_while_the_bus_runs() -> None:
    bus = a_bus()
    seen: list[int] = []

    async with bus:
        await bus.publish(Handled("a", 1))

        @bus.on(Handled)
        async def handler(event: Handled) -> None:
            seen.append(event.number)

        await bus.publish(Handled("a", 2))
        await bus.settled()

    assert seen == [2]


async def test_what_a_thread_publishes_while_the_bus_stops_is_refused() -> None:
    bus = EventBus(drain_timeout_s=0.01)
    subscriber = await bus.subscribe(Followed)
    may_publish, may_end = threading.Event(), asyncio.Event()
    refusals: list[ClosedError] = []

    @bus.on(Handled)
    def in_thread(event: Handled) -> None:
        may_publish.wait(5)
        try:
            bus.publish_threadsafe(Followed(event.key)).result(5)
        except ClosedError as refused:
            refusals.append(refused)
        loop.call_soon_threadsafe(may_end.set)

    @bus.on(Handled)
    async def stops_when_that_has_published(event: Handled) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            may_publish.set()
            await may_end.wait()

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5), bus:
        await bus.publish(Handled("a"))

    assert len(refusals) == 1
    assert await subscriber.recv() is None


async def test_a_handler_that_moves_the_clock_past_its_own_deadline_is_done_when_it_returns() -> None:
    clock = ManualClock()
    bus = a_bus(clock)

    @bus.on(Handled, timeout_s=1, retry=None)
    async def handler(event: Handled) -> None:
        clock.advance(1.5)

    async with bus:
        for _ in range(2):
            await bus.publish(Handled("a"))
            await bus.settled()

    assert bus.statistics().handled == 2


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_an_attempt_that_swallows_the_stop_is_counted_in_its_letter(concurrency: int) -> None:
    bus = EventBus(dead_letter_queue=DeadLetterQueue(), drain_timeout_s=0.01)
    began, may_end = asyncio.Event(), asyncio.Event()

    @bus.on(Handled, retry=None, concurrency=concurrency)
    async def swallows(event: Handled) -> None:
        began.set()
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    async with bus:
        await bus.publish(Handled("a"))
        await began.wait()
    may_end.set()

    assert [letter.attempts for letter in await bus.dead_letter_queue.list()] == [1]


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.Event().wait()


async def cancel_and_return(task: asyncio.Task[Any]) -> None:
    task.cancel()


async def cancel_and_fail(task: asyncio.Task[Any]) -> None:
    task.cancel()
    raise RuntimeError


async def cancel_and_swallow(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("act", "outcomes"),
    [(cancel_and_wait, (1, 0)), (cancel_and_return, (0, 1)), (cancel_and_fail, (1, 0)), (cancel_and_swallow, (0, 1))],
)
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_cancels_its_own_task_touches_nothing_else(
    act: Callable[[asyncio.Task[Any]], Coroutine[Any, Any, None]], outcomes: tuple[int, int], concurrency: int
) -> None:
    bus = a_bus()
    seen: list[int] = []

    @bus.on(Handled, retry=None, concurrency=concurrency, name="cancels")
    async def cancels_itself(event: Handled) -> None:
        task = asyncio.current_task()
        if event.number == 0 and task is not None:
            await act(task)
        else:
            await asyncio.sleep(0)

    @bus.on(Handled)
    async def sibling(event: Handled) -> None:
        seen.append(event.number)

    async with asyncio.timeout(5), bus:
        await bus.publish_many([Handled("a", number) for number in range(3)])
        await bus.settled()
        await bus.publish(Handled("a", 3))

    figures = bus.statistics().subscriptions["cancels"]
    assert seen == [0, 1, 2, 3]
    assert (figures.dead_lettered, figures.handled) == (outcomes[0], 3 + outcomes[1])
