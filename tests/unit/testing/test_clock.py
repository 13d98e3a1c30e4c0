"""The clock that tests own, and that everything which waits or tells the time goes by it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from avx_events import (
    Command,
    CommandBus,
    ConcurrencyError,
    Connection,
    DeadLetterQueue,
    Event,
    EventBus,
    EventEnvelope,
    EventStore,
    HandlerTimeoutError,
    Projection,
    Projector,
    Request,
    RequestReplyBus,
    RequestTimeoutError,
    Retry,
    RetryAfter,
    TopicBus,
    handles,
)
from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.cqrs import idempotency_key, retry_on_conflict, time_dispatch
from avx_events.testing import ManualClock, MockEventBus, MockEventStore

MINUTE = Retry(attempts=2, initial_s=60, max_s=60)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Ticked(Event, event_type="clock.ticked", aggregate_id="key"):
    key: str = "a"


class Wind(Command[int], event_type="clock.wind"):
    key: str = "a"


class AskTime(Request[str], event_type="clock.ask"):
    pass


# The clock itself


def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock()

    assert (clock.now, clock.time_ns(), clock.monotonic()) == (START, 1767225600 * 10**9, 1767225600.0)
    clock.advance(1.5)
    assert clock.now == START + timedelta(seconds=1.5)
    assert ManualClock(datetime(2030, 1, 1, tzinfo=UTC)).now.year == 2030


def test_callbacks_are_called_in_order_each_at_its_own_time() -> None:
    clock = ManualClock()
    calls: list[tuple[str, float]] = []

    def call(name: str) -> Callable[[], None]:
        return lambda: calls.append((name, (clock.now - START).total_seconds()))

    def plan_another() -> None:
        call("first")()
        clock.call_later(1, call("planned meanwhile"))

    clock.call_later(3, call("third"))
    clock.call_later(1, plan_another)
    clock.call_later(3, call("fourth")).cancel()
    clock.call_later(10, call("later"))
    assert clock.pauses_s == [1, 3, 10]
    clock.advance(5)

    assert calls == [("first", 1), ("planned meanwhile", 2), ("third", 3)]
    assert clock.pauses_s == [5]
    assert clock.now == START + timedelta(seconds=5)


async def test_a_test_can_wait_until_something_waits_for_the_clock() -> None:
    clock = ManualClock()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(clock.planned(2))
        clock.call_later(1, lambda: None)
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.call_later(1, lambda: None)

    with pytest.raises(TimeoutError, match=r"3 expected to wait for the clock within 0\.001 s, 2 do"):
        await clock.planned(3, timeout_s=0.001)


def test_a_clock_can_be_waited_for_on_one_loop_after_the_other() -> None:
    clock = ManualClock()

    for count in (1, 2):
        with asyncio.Runner() as runner:
            runner.get_loop().call_soon(clock.call_later, 1, lambda: None)
            runner.run(clock.planned(count))

    assert clock.pauses_s == [1, 1]


@pytest.mark.parametrize("wrong", [-1, -math.inf, math.inf, math.nan])
def test_time_goes_neither_back_nor_on_for_ever(wrong: float) -> None:
    clock = ManualClock()

    with pytest.raises(InvalidArgumentError, match="seconds"):
        clock.advance(wrong)
    assert clock.now == START


async def test_what_is_no_instant_no_number_and_no_time_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that it has none is the point
    with pytest.raises(InvalidArgumentError, match="count"):
        await ManualClock().planned(0)
    with pytest.raises(InvalidArgumentError, match="timeout_s"):
        await ManualClock().planned(timeout_s=0)


# Everybody's clock


BUSES = [EventBus, MockEventBus, TopicBus]


def what_is_heard(bus: EventBus | TopicBus) -> type[Event] | str:
    return "clock.ticked" if isinstance(bus, TopicBus) else Ticked


@pytest.mark.parametrize("bus_class", BUSES)
async def test_buses_stamp_retry_and_bury_by_the_clock(bus_class: type[EventBus | TopicBus]) -> None:
    clock = ManualClock()
    bus = bus_class(clock=clock, dead_letter_queue=DeadLetterQueue())

    @bus.on(what_is_heard(bus), retry=Retry(attempts=2))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # one of the two fits this bus
    async def fails(event: Ticked) -> None:
        raise RetryAfter(3600)

    async with bus:
        metadata = await bus.publish(Ticked())
        await clock.planned()
        assert clock.pauses_s == [3600]
        clock.advance(3600)
        await bus.settled()

    [letter] = await bus.dead_letter_queue.list()
    assert metadata.time == START
    assert (letter.first_failed_at, letter.dead_at) == (START, START + timedelta(hours=1))


@pytest.mark.parametrize("bus_class", BUSES)
async def test_an_attempt_is_late_by_the_clock(bus_class: type[EventBus | TopicBus]) -> None:
    clock = ManualClock()
    bus = bus_class(clock=clock, dead_letter_queue=DeadLetterQueue())

    @bus.on(what_is_heard(bus), timeout_s=3600, retry=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # one of the two fits this bus
    async def never_returns(event: Ticked) -> None:
        await asyncio.Event().wait()

    async with bus:
        await bus.publish(Ticked())
        await clock.planned()
        clock.advance(3600)
        await bus.settled()

    assert [letter.error_type for letter in await bus.dead_letter_queue.list()] == [HandlerTimeoutError.__name__]


@pytest.mark.parametrize("bus_class", BUSES)
async def test_a_failed_delivery_comes_again_by_the_clock(bus_class: type[EventBus | TopicBus]) -> None:
    clock = ManualClock()
    bus = bus_class(clock=clock)
    subscriber = await bus.subscribe(what_is_heard(bus), retry=MINUTE)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportUnknownMemberType]  # one of the two fits this bus
    await bus.publish(Ticked())
    attempts = 0

    async with asyncio.timeout(5):
        async for delivery in subscriber.deliveries():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # as above
            async with delivery:
                attempts += 1
                if attempts == 1:
                    asyncio.get_running_loop().call_later(0, clock.advance, 60)
                    raise ValueError
            if attempts > 1:
                break

    assert clock.now == START + timedelta(seconds=60)


async def test_a_request_is_late_by_the_clock() -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)
    asked_at: list[datetime] = []
    is_over = asyncio.Event()

    @bus.respond(AskTime)
    async def answers_too_late(request: AskTime, envelope: EventEnvelope[AskTime]) -> str:
        asked_at.append(envelope.metadata.time)
        await is_over.wait()
        return "late"

    async with asyncio.timeout(5), bus, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(failure_of(bus.request(AskTime(), timeout_s=3600)))
        await clock.planned()
        clock.advance(3599)
        await asyncio.sleep(0)
        assert not asking.done()
        clock.advance(1 + 3600 / 500)
        assert isinstance(await asking, RequestTimeoutError)
        is_over.set()

    assert asked_at == [START]


@pytest.mark.parametrize("store_class", [EventStore, MockEventStore])
@pytest.mark.parametrize("url", [None, "sqlite://"])
async def test_stores_stamp_and_record_by_the_clock(store_class: type[EventStore], url: str | None) -> None:
    clock = ManualClock()
    store = store_class(clock=clock) if url is None else await store_class.connect(url, clock=clock)
    async with store:
        await store.append("s", Ticked())
        clock.advance(60)
        await store.append("s", Ticked())

        stored = await store.get_events("s")

    assert [event.recorded_at for event in stored] == [START, START + timedelta(seconds=60)]
    assert [event.metadata.time for event in stored] == [START, START + timedelta(seconds=60)]


class Ticks(Projection, name="clock-ticks"):
    def __init__(self) -> None:
        self.attempts = 0

    @handles(Ticked)
    async def count(self, event: Ticked, connection: Connection) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise OSError


async def test_a_projection_is_tried_again_by_the_clock() -> None:
    clock, ticks = ManualClock(), Ticks()
    store = await EventStore.connect("sqlite://", clock=clock)

    async with (
        store,
        Projector(store, ticks, retry=Retry(attempts=2, initial_s=3600, max_s=3600), clock=clock) as projector,
    ):
        await store.append("s", Ticked())
        await clock.planned()
        clock.advance(3600)
        await projector.caught_up()

    assert ticks.attempts == 2


async def test_a_command_is_stamped_repeated_and_timed_by_the_clock() -> None:
    clock = ManualClock()
    times: list[float] = []
    timed = time_dispatch(lambda _, elapsed_s, __: times.append(elapsed_s), clock=clock)
    repeated = retry_on_conflict(Retry(attempts=3, initial_s=3600, max_s=3600), clock=clock)
    bus = CommandBus(middleware=[timed, repeated], clock=clock)
    stamps: list[datetime] = []

    @bus.handler
    async def wind(command: Wind, envelope: EventEnvelope[Wind]) -> int:
        stamps.append(envelope.metadata.time)
        if len(stamps) == 1:
            raise ConcurrencyError("s", expected=0, actual=1)
        return len(stamps)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        dispatched = tasks.create_task(bus.dispatch(Wind()))
        await clock.planned()
        clock.advance(3600)

    assert (dispatched.result(), stamps, times) == (2, [START, START], [3600])


async def test_a_result_is_kept_for_its_key_by_the_clock() -> None:
    clock = ManualClock()
    once = idempotency_key(key=lambda envelope: "k", expires_s=3600, clock=clock)
    bus = CommandBus(middleware=[once])
    count = 0

    @bus.handler
    async def wind(command: Wind) -> int:
        nonlocal count
        count += 1
        return count

    results = [await bus.dispatch(Wind()), await bus.dispatch(Wind())]
    clock.advance(3601)
    results.append(await bus.dispatch(Wind()))

    assert results == [1, 1, 2]


async def failure_of(call: Awaitable[object]) -> Exception | None:
    """Return what ``call`` raised."""
    try:
        await call
    except Exception as exc:  # noqa: BLE001 - the test looks at it
        return exc
    return None
