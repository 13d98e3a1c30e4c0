"""Failures on purpose, of publishes, appends and handlers: in everything else the doubles are the real ones."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from avx_events import AggregateRoot, Command, Event, EventMetadata, EventStore, Retry, event
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.errors import (
    ClosedError,
    ConcurrencyError,
    InvalidArgumentError,
    NotAnEventError,
    NotStartedError,
    StoreUnavailableError,
)
from avx_events.core.metadata import EventEnvelope, stamp
from avx_events.storage.sqlite.engine import connect
from avx_events.testing import Faults, ManualClock, MockEventBus, MockEventStore
from tests.waiting import until

AWAY = StoreUnavailableError("test://", "it is away")
AT_ONCE = Retry(attempts=3, initial_s=0, max_s=0)


class Placed(Event, aggregate_id="key", event_type="faults.placed"):
    key: str
    number: int = 0


class Rushed(Placed, event_type="faults.rushed"):
    pass


class Paid(Event, event_type="faults.paid"):
    key: str = ""


class Ship(Command[None], event_type="faults.ship"):
    key: str


@event("faults.plain")
@dataclass(frozen=True)
class Plain:
    key: str


class Order(AggregateRoot):
    placed: int = 0

    def apply(self, event: object) -> None:
        self.placed += 1


async def outcomes(call: Any, *events: object) -> list[str]:
    """Make the calls one after the other; the name of what each raised, or ``done``."""
    ends: list[str] = []
    for given in events:
        try:
            await call(given)
        except Exception as exc:  # noqa: BLE001 - whatever was planned
            ends.append(type(exc).__name__)
        else:
            ends.append("done")
    return ends


def from_a_thread(bus: MockEventBus) -> Callable[[object], Awaitable[EventMetadata]]:
    """Return what publishes with ``publish_threadsafe`` and waits for its future."""
    return lambda given: asyncio.wrap_future(bus.publish_threadsafe(given))


# The plan


async def test_the_calls_that_were_planned_fail_and_no_others() -> None:
    bus = MockEventBus()
    bus.faults.refuse(TimeoutError("broker"), Placed, after=1, times=2)

    ends = await outcomes(bus.publish, Placed("a"), Paid(), Placed("b"), Rushed("c"), Paid(), Placed("d"))

    assert ends == ["done", "done", "TimeoutError", "TimeoutError", "done", "done"]
    assert bus.published_events() == [Placed("a"), Paid(), Paid(), Placed("d")]
    assert len(bus.faults) == 0


async def test_the_next_call_fails_where_nothing_else_is_said() -> None:
    bus = MockEventBus()
    bus.faults.refuse(AWAY)

    assert await outcomes(bus.publish, Plain("a"), Plain("b")) == ["StoreUnavailableError", "done"]


async def test_one_without_an_end_fails_until_the_plan_is_cleared() -> None:
    bus = MockEventBus()
    bus.faults.refuse(AWAY, Event, times=None)

    assert await outcomes(bus.publish, *[Paid()] * 5, Plain("x")) == ["StoreUnavailableError"] * 5 + ["done"]
    assert len(bus.faults) == 1
    bus.faults.clear()
    assert await outcomes(bus.publish, Paid()) == ["done"]


async def test_of_several_faults_the_first_that_strikes_is_raised() -> None:
    faults = Faults()
    bus, store = MockEventBus(faults=faults), MockEventStore(faults=faults)
    faults.refuse(TimeoutError(), Paid)
    faults.refuse(AWAY)

    ends = [*await outcomes(bus.publish, Placed("a")), *await outcomes(partial(store.append, "s"), Paid(), Paid())]

    assert ends == ["StoreUnavailableError", "TimeoutError", "done"]


def test_a_plan_that_cannot_be_is_refused() -> None:
    faults = Faults()

    with pytest.raises(InvalidArgumentError, match="error must be an exception"):
        faults.refuse(TimeoutError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake
    with pytest.raises(InvalidArgumentError, match="after"):
        faults.refuse(AWAY, after=-1)
    with pytest.raises(InvalidArgumentError, match="times"):
        faults.lose_confirmation(AWAY, times=0)
    for wrong in (int, "placed", Placed("a")):
        with pytest.raises(NotAnEventError):
            faults.refuse(AWAY, wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake
    assert len(faults) == 0


# The bus


async def test_a_publish_that_is_refused_reaches_nobody() -> None:
    bus = MockEventBus()
    subscriber = await bus.subscribe(Placed)
    bus.faults.refuse(AWAY, Placed)

    with pytest.raises(StoreUnavailableError):
        await bus.publish(Placed("a", 1))
    await bus.publish(Placed("a", 2))

    assert await subscriber.recv() == Placed("a", 2)
    assert bus.statistics().published == 1


async def test_a_publish_whose_confirmation_is_lost_reached_everybody() -> None:
    bus = MockEventBus()
    subscriber = await bus.subscribe(Placed)
    bus.faults.lose_confirmation(AWAY, Placed)

    with pytest.raises(StoreUnavailableError):
        await bus.publish(Placed("a"), headers={"trace": "x"})

    assert await subscriber.recv() == Placed("a")
    assert bus.published_envelopes(Placed)[0].metadata.headers == {"trace": "x"}


async def test_each_event_of_many_is_a_call_and_those_before_the_one_that_fails_stay_published() -> None:
    bus = MockEventBus()
    bus.faults.refuse(AWAY, Placed, after=1)

    with pytest.raises(StoreUnavailableError):
        await bus.publish_many([Paid(), Placed("a"), Placed("b"), Placed("c")], headers={"trace": "x"})

    assert bus.published_events() == [Paid(), Placed("a")]
    assert {envelope.metadata.headers["trace"] for envelope in bus.published_envelopes()} == {"x"}
    assert [metadata.aggregate_id for metadata in await bus.publish_many([Placed("d"), Placed("e")])] == ["d", "e"]


async def test_of_many_events_the_one_whose_confirmation_is_lost_is_the_last_that_was_published() -> None:
    bus = MockEventBus()
    bus.faults.lose_confirmation(TimeoutError(), Paid)

    with pytest.raises(TimeoutError):
        await bus.publish_many(iter([Placed("a"), Paid(), Placed("b")]))

    assert bus.published_events() == [Placed("a"), Paid()]
    assert len({envelope.metadata.timestamp for envelope in bus.published_envelopes()}) == 1


async def test_publishing_without_waiting_fails_as_planned() -> None:
    bus = MockEventBus()
    bus.faults.refuse(AWAY, Placed)
    bus.faults.lose_confirmation(TimeoutError(), Paid)

    with pytest.raises(StoreUnavailableError):
        bus.publish_nowait(Placed("a"))
    with pytest.raises(TimeoutError):
        bus.publish_nowait(Paid())

    assert bus.published_events() == [Paid()]


async def test_the_future_of_a_publish_from_a_thread_fails_as_planned() -> None:
    bus = MockEventBus()
    await bus.subscribe(Paid)
    bus.faults.refuse(AWAY, Placed)
    bus.faults.lose_confirmation(TimeoutError(), Paid)

    other = await asyncio.to_thread(bus.publish_threadsafe, Plain("x"))
    refused = await asyncio.to_thread(bus.publish_threadsafe, Placed("a"))
    lost = await asyncio.to_thread(bus.publish_threadsafe, Paid())

    with pytest.raises(StoreUnavailableError):
        await asyncio.wrap_future(refused)
    with pytest.raises(TimeoutError):
        await asyncio.wrap_future(lost)
    assert (await asyncio.wrap_future(other)).event_type == "faults.plain"
    assert bus.published_events() == [Plain("x"), Paid()]


async def test_a_wrong_publish_is_refused_for_what_is_wrong_and_uses_no_fault_up() -> None:
    bus = MockEventBus()
    bus.faults.refuse(AWAY)

    @bus.on(Placed)
    async def handler(event: Placed) -> None:
        pass

    for publish in (bus.publish, from_a_thread(bus)):
        with pytest.raises(NotStartedError):
            await publish(Placed("a"))
    async with bus:
        for wrong in ("text", Placed, Ship("a")):
            with pytest.raises(NotAnEventError):
                await bus.publish(wrong)
            with pytest.raises(NotAnEventError):
                await bus.publish_many([Placed("a"), wrong])
            with pytest.raises(NotAnEventError):
                bus.publish_nowait(wrong)
            with pytest.raises(NotAnEventError):
                bus.publish_threadsafe(wrong)
    for publish in (bus.publish, from_a_thread(bus)):
        with pytest.raises(ClosedError):
            await publish(Placed("a"))
    assert len(bus.faults) == 1


@pytest.mark.parametrize("is_confirmation_lost", [False, True])
async def test_a_publish_from_a_thread_can_be_cancelled_as_long_as_on_any_bus(*, is_confirmation_lost: bool) -> None:
    bus = MockEventBus()
    full = await bus.subscribe(Placed, capacity=1)
    await bus.publish(Placed("a", 1))
    plan = bus.faults.lose_confirmation if is_confirmation_lost else bus.faults.refuse
    plan(AWAY, Placed, after=0 if is_confirmation_lost else 1)

    early, waiting = bus.publish_threadsafe(Placed("a", 2)), bus.publish_threadsafe(Placed("a", 3))
    assert early.cancel()
    await until(waiting.running)
    assert not waiting.cancel()

    assert [await full.recv() for _ in range(2)] == [Placed("a", 1), Placed("a", 3)]
    assert early.cancelled()
    assert await outcomes(asyncio.wrap_future, waiting) == (
        ["StoreUnavailableError"] if is_confirmation_lost else ["done"]
    )
    assert len(bus.faults) == (0 if is_confirmation_lost else 1)


# The store


async def test_an_append_that_is_refused_was_not_made_and_can_be_repeated() -> None:
    store = MockEventStore()
    store.faults.refuse(AWAY, Rushed)

    await store.append("s", Placed("a"))
    with pytest.raises(StoreUnavailableError):
        await store.append("s", [Placed("a"), Rushed("b")])

    assert await store.version_of("s") == 1
    assert (await store.append("s", [Placed("a"), Rushed("b")], expected_version=1)).version == 3


async def test_an_append_whose_confirmation_is_lost_was_made_and_its_repetition_changes_nothing() -> None:
    store = MockEventStore()
    store.faults.lose_confirmation(ConnectionResetError(), Placed)
    order = Order("o")
    order.record(Placed("o"))

    with pytest.raises(ConnectionResetError):
        await store.save(order)

    assert await store.version_of("o") == 1
    assert (await store.save(order)).version == 1
    assert (await store.load(Order, "o")).placed == 1
    with pytest.raises(ConcurrencyError):
        await store.append("o", Placed("o"), expected_version=0)


async def test_a_wrong_append_is_refused_for_what_is_wrong_and_uses_no_fault_up() -> None:
    store = MockEventStore()
    store.faults.refuse(AWAY)

    with pytest.raises(NotAnEventError):
        await store.append("s", ["text"])
    with pytest.raises(InvalidArgumentError):
        await store.append("", Placed("a"))
    assert len(store.faults) == 1
    await store.close()
    with pytest.raises(ClosedError):
        await store.append("s", Placed("a"))


async def test_the_store_that_fails_is_the_real_one_on_any_engine() -> None:
    clock = ManualClock()
    store = await MockEventStore.connect("sqlite://", clock=clock)
    other = MockEventStore(await connect("sqlite://", clock=clock))
    async with store, other:
        store.faults.refuse(AWAY)
        assert isinstance(store, EventStore)
        assert await outcomes(partial(store.append, "s"), Placed("a"), Placed("b")) == ["StoreUnavailableError", "done"]
        async with store.transaction() as connection:
            assert await connection.fetch("SELECT 1") == [(1,)]
        assert (await store.get_events("s"))[0].recorded_at == clock.now
        assert store.statistics()["engine"] == "sqlite"
        assert (await other.append("s", Placed("a"))).version == 1


# Handlers


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_handler_fails_as_planned_and_is_retried_under_its_own_name(*, is_plain: bool) -> None:
    seen: list[tuple[str, str]] = []
    faults = Faults()
    faults.refuse(TimeoutError("mail server"), Rushed, times=2)

    async def email_receipt(event: Placed, envelope: EventEnvelope[Placed]) -> None:
        seen.append((event.key, envelope.topic))

    def print_receipt(event: Placed, envelope: EventEnvelope[Placed]) -> None:
        seen.append((event.key, envelope.topic))

    bus = MockEventBus()
    handler = print_receipt if is_plain else email_receipt
    bus.on(Placed, retry=AT_ONCE)(faults.around(handler))

    async with bus:
        await bus.publish_many([Placed("a"), Rushed("b")])
        await bus.settled()

    counts = bus.statistics().subscriptions[handler.__qualname__]
    assert sorted(seen) == [("a", "faults.placed"), ("b", "faults.rushed")]
    assert (counts.handled, counts.retried) == (2, 2)


async def test_a_handler_that_fails_too_often_leaves_a_dead_letter() -> None:
    faults = Faults()
    faults.refuse(TimeoutError("mail server"), times=None)
    bus = MockEventBus(dead_letter_queue=DeadLetterQueue())

    @bus.on(Placed, name="receipts", retry=AT_ONCE)
    @faults.around
    async def email_receipt(event: Placed) -> None:
        raise AssertionError

    async with bus:
        await bus.publish(Placed("a"))
        await bus.settled()

    [letter] = await bus.dead_letter_queue.list()
    assert (letter.handler, letter.attempts, letter.error) == ("receipts", 3, "TimeoutError: mail server")


async def test_a_handler_whose_confirmation_is_lost_did_its_work_and_is_called_again() -> None:
    seen: list[Placed] = []
    faults = Faults()
    faults.lose_confirmation(ConnectionResetError(), Placed)
    bus = MockEventBus()

    @bus.on(Placed, retry=AT_ONCE)
    @faults.around
    async def count(event: Placed) -> None:
        seen.append(event)

    async with bus:
        await bus.publish(Placed("a"))
        await bus.settled()

    assert seen == [Placed("a")] * 2


@pytest.mark.parametrize(("is_confirmation_lost", "times_worked"), [(False, 1), (True, 2)])
async def test_a_plain_function_that_makes_a_coroutine_is_awaited_and_fails_as_planned(
    *, is_confirmation_lost: bool, times_worked: int
) -> None:
    seen: list[Placed] = []
    faults = Faults()
    plan = faults.lose_confirmation if is_confirmation_lost else faults.refuse
    plan(ConnectionResetError(), Placed)
    bus = MockEventBus()

    async def count(event: Placed) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    @bus.on(Placed, retry=AT_ONCE)
    @faults.around
    def decorated(event: Placed) -> Coroutine[Any, Any, None]:
        return count(event)

    async with bus:
        await bus.publish(Placed("a"))
        await bus.settled()

    assert seen == [Placed("a")] * times_worked
    assert bus.statistics().retried == 1


async def test_a_handler_that_itself_raises_is_not_covered_up() -> None:
    faults = Faults()
    faults.lose_confirmation(ConnectionResetError())

    @faults.around
    async def fails(event: Placed) -> None:
        raise KeyError(event.key)

    with pytest.raises(KeyError):
        await fails(Placed("a"))


async def test_an_envelope_that_is_published_again_after_a_lost_confirmation_keeps_its_id() -> None:
    bus = MockEventBus()
    bus.faults.lose_confirmation(TimeoutError())
    envelope = stamp(Placed("a"), clock=ManualClock())

    await outcomes(bus.publish, envelope, envelope)

    assert bus.published_envelopes() == [envelope, envelope]
