"""What is appended to a store is published: at least once, in order for each key, by one of those that could."""

import asyncio
import logging
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import (
    ClosedError,
    EventTooLargeError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NotRunningError,
    PublishUnknownError,
    RelayFailedError,
    RelayLagError,
    StoreUnavailableError,
    TransactionError,
    TransportRefusedError,
    TransportUnavailableError,
)
from avx_events.core.metadata import context
from avx_events.patterns.outbox import Relay, RelayLag
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import NewRecord
from avx_events.testing import ManualClock, MockEventBus
from tests.unit.patterns.outbox.buses import Keyless, Noted, Other, OwnedBus
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

AWAY = TransportUnavailableError("redis://there", "it is away")


def noted(key: str, *numbers: int) -> list[Noted]:
    return [Noted(key, number) for number in numbers]


def relay(store: EventStore, bus: Any, **options: Any) -> Relay:
    return Relay(store, bus, name="to-bus", **options)


async def kept_position(store: EventStore) -> int:
    rows = await store.fetch("SELECT position FROM avx_relays WHERE name = 'log: to-bus'")
    return int(rows[0][0])


# What is published


async def test_an_event_is_published_as_the_envelope_that_was_stored(store: EventStore) -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("**")
    with context(correlation_id="chain", user_id="ada"):
        await store.append("s", Noted("a", 1))
    (stored,) = await store.get_events("s")

    async with relay(store, bus) as running:
        await running.caught_up()

    envelope = await anext(subscriber.envelopes())
    assert envelope.metadata == stored.metadata
    assert (envelope.topic, envelope.event) == ("outbox.noted", Noted("a", 1))


async def test_what_is_there_is_published_and_then_what_comes(store: EventStore, bus: OwnedBus) -> None:
    await store.append("s", noted("a", 1, 2))

    async with relay(store, bus) as running:
        await running.caught_up()
        assert bus.numbers == [1, 2]

        await store.append("s", noted("a", 3))
        await running.caught_up()
        assert bus.numbers == [1, 2, 3]


async def test_it_goes_on_where_it_was_when_it_was_left(store: EventStore, bus: OwnedBus) -> None:
    await store.append("s", noted("a", 1, 2))
    async with relay(store, bus) as running:
        await running.caught_up()
    await store.append("s", noted("a", 3))
    async with relay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [1, 2, 3]
    assert await kept_position(store) == 3


async def test_relays_of_two_names_have_a_position_each(store: EventStore, bus: OwnedBus) -> None:
    other = OwnedBus()
    await store.append("s", noted("a", 1, 2))

    async with relay(store, bus) as running, Relay(store, other, name="to-other") as second:
        await running.caught_up()
        await second.caught_up()

    assert bus.numbers == other.numbers == [1, 2]


async def test_only_the_types_and_streams_that_are_wanted_are_published(store: EventStore, bus: OwnedBus) -> None:
    await store.append("order-1", [Noted("a", 1), Other("a")])
    await store.append("user-1", [Noted("a", 2)])
    await store.append("order-2", [Noted("b", 3)])

    async with relay(store, bus, types=[Noted], stream_prefix="order-") as running:
        await running.caught_up()

    assert bus.numbers == [1, 3]


async def test_what_is_not_wanted_moves_the_position_too(store: EventStore, bus: OwnedBus) -> None:
    async with relay(store, bus, types=Noted) as running:
        await store.append("s", [Noted("a", 1), *(Other("a") for _ in range(30))])
        await until(lambda: running.statistics().position == 31)

    assert await kept_position(store) == 31


async def test_a_relay_that_is_new_begins_where_it_is_told_to(store: EventStore, bus: OwnedBus) -> None:
    await store.append("s", noted("a", 1, 2, 3))

    async with relay(store, bus, after=2) as running:
        await running.caught_up()
    async with relay(store, bus, after=0) as running:  # it is not new any more
        await running.caught_up()

    assert bus.numbers == [3]


async def test_events_of_many_keys_are_on_their_way_at_once_and_those_of_one_key_are_not(
    store: EventStore, bus: OwnedBus
) -> None:
    bus.hold()
    await store.append("s", [*noted("a", 1, 2), *noted("b", 3, 4), Keyless(5), Keyless(6)])

    async with relay(store, bus) as running:
        await until(lambda: len(bus.begun) == 4)
        assert [envelope.event.number for envelope in bus.begun] == [1, 3, 5, 6]
        assert running.statistics().on_their_way == 4

        bus.release()
        await running.caught_up()

    assert bus.numbers_of("a") == [1, 2]
    assert bus.numbers_of("b") == [3, 4]


async def test_no_more_than_may_be_in_flight_is_read_ahead(store: EventStore, bus: OwnedBus) -> None:
    bus.hold()
    await store.append("s", [Noted(f"key-{number}", number) for number in range(50)])

    async with relay(store, bus, in_flight=8) as running:
        await until(lambda: len(bus.begun) == 8)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(bus.begun) == 8

        bus.release()
        await running.caught_up()

    assert sorted(bus.numbers) == list(range(50))


# A bus that refuses


async def test_no_event_overtakes_another_of_its_key_that_is_refused(store: EventStore, bus: OwnedBus) -> None:
    clock = ManualClock()
    bus.refuses = lambda event: AWAY if event.key == "a" else None
    await store.append("s", [*noted("a", 1, 2, 3), *noted("b", 4, 5)])

    async with relay(store, bus, clock=clock) as running:
        await until(lambda: bus.numbers == [4, 5])
        assert running.statistics().position == 0

        bus.refuses = lambda _: None
        clock.advance(1)
        await running.caught_up()

    assert bus.numbers == [4, 5, 1, 2, 3]


async def test_a_bus_that_is_away_is_waited_for_and_the_log_says_so_once(
    store: EventStore, bus: OwnedBus, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    bus.refuses = lambda _: AWAY
    await store.append("s", [Noted(f"key-{number}", number) for number in range(20)])

    with caplog.at_level(logging.INFO, "avx_events.outbox"):
        async with relay(store, bus, clock=clock, lease_s=1000) as running:
            for attempt in range(1, 8):
                await clock.planned(21)  # all of them, and the lease
                assert running.statistics().repeated == 20 * attempt
                clock.advance(10)
            bus.refuses = lambda _: None
            clock.advance(10)
            await running.caught_up()

    said = [record.getMessage() for record in caplog.records if "the bus" in record.getMessage()]
    assert said == [
        f"relay 'to-bus': the bus waits, and tries again: TransportUnavailableError: {AWAY}",
        "relay 'to-bus': the bus goes on",
    ]
    assert sorted(bus.numbers) == list(range(20))


@pytest.mark.parametrize(
    "error",
    [
        PublishUnknownError("redis://there", "outbox.noted", "no answer"),
        TransportRefusedError("redis://there", "NOPERM", remedy="give it the permission"),
        TimeoutError("of somebody's own transport"),
        asyncio.CancelledError("of somebody's own transport"),
    ],
)
async def test_what_may_have_been_accepted_is_published_again_with_its_id(
    store: EventStore, bus: OwnedBus, error: BaseException
) -> None:
    clock = ManualClock()
    errors = [error]
    bus.loses = lambda _: errors.pop() if errors else None
    await store.append("s", noted("a", 1, 2))

    async with relay(store, bus, clock=clock) as running:
        await until(lambda: running.statistics().repeated == 1)
        clock.advance(1)
        await running.caught_up()

    assert bus.numbers == [1, 1, 2]
    assert bus.accepted[0].metadata == bus.accepted[1].metadata


async def test_faults_of_a_real_bus_are_lived_through(store: EventStore) -> None:
    clock = ManualClock()
    mock = MockEventBus(clock=clock)
    mock.faults.refuse(AWAY, Noted, after=1, times=2)
    mock.faults.lose_confirmation(PublishUnknownError("mock", "outbox.noted", "lost"), Noted, after=2)
    await store.append("s", noted("a", 1, 2, 3, 4))

    async with relay(store, mock, clock=clock) as running:
        for repeated in range(1, 4):
            await clock.planned(2)  # the next attempt, and the lease
            assert running.statistics().repeated == repeated
            clock.advance(1)
        await running.caught_up()

    numbers = [event.number for event in mock.published_events(Noted)]
    assert [number for at, number in enumerate(numbers) if number not in numbers[:at]] == [1, 2, 3, 4]
    assert len(numbers) == 5


async def test_a_slow_reader_holds_the_relay_up_and_loses_nothing(store: EventStore) -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Noted, capacity=2)
    await store.append("s", [Noted(f"key-{number % 5}", number) for number in range(40)])
    read: list[Noted] = []

    async with bus, relay(store, bus) as running:
        while len(read) < 40:
            event = await subscriber.recv()
            assert event is not None
            read.append(event)
        await running.caught_up()

    for key in range(5):
        assert [event.number for event in read if event.key == f"key-{key}"] == list(range(key, 40, 5))


async def test_a_bus_that_is_closed_ends_the_relay_which_says_where(store: EventStore) -> None:
    bus = EventBus()
    await bus.close()
    await store.append("s", noted("a", 1))

    async with relay(store, bus) as running:
        with pytest.raises(RelayFailedError, match=r"relay 'to-bus' stopped at 'outbox.noted' .*position 1") as failure:
            await running.caught_up()
        assert (running.statistics().state, running.is_active) == ("failed", False)

    assert isinstance(failure.value.__cause__, ClosedError)
    assert await kept_position(store) == 0


# Events that can never be published


def too_large(event: Any) -> BaseException | None:
    return EventTooLargeError("outbox.noted", size_bytes=9, max_bytes=1) if event.number == 2 else None


async def test_an_event_that_can_never_be_published_is_a_dead_letter_and_its_key_goes_on(
    store: EventStore, bus: OwnedBus
) -> None:
    queue = DeadLetterQueue()
    bus.refuses = too_large
    await store.append("s", noted("a", 1, 2, 3))

    async with relay(store, bus, dead_letter_queue=queue) as running:
        await running.caught_up()
        statistics = running.statistics()

    (letter,) = await queue.list()
    assert bus.numbers == [1, 3]
    assert (letter.handler, letter.reason, letter.event) == ("relay 'to-bus'", "rejected", Noted("a", 2))
    assert letter.error_type == "EventTooLargeError"
    assert (statistics.published, statistics.dead_letters, statistics.position) == (2, 1, 3)


async def test_without_a_queue_the_relay_stops_there_and_the_next_one_begins_there(
    store: EventStore, bus: OwnedBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus.refuses = too_large
    await store.append("s", noted("a", 1, 2, 3))

    async with relay(store, bus) as running:
        with pytest.raises(RelayFailedError, match="position 2") as failure:
            await running.caught_up()
    assert isinstance(failure.value.__cause__, EventTooLargeError)
    assert "EventTooLargeError" in caplog.text

    bus.refuses = lambda _: None
    async with relay(store, bus) as running:
        await running.caught_up()
    assert bus.numbers == [1, 2, 3]


async def test_a_letter_that_is_written_twice_is_one(store: EventStore, bus: OwnedBus) -> None:
    queue = DeadLetterQueue()
    bus.refuses = too_large
    await store.append("s", noted("a", 2))
    for _ in range(2):
        async with relay(store, bus, dead_letter_queue=queue) as running:
            await running.caught_up()
        async with store.transaction() as connection:  # as a crash would leave it behind
            await connection.execute("UPDATE avx_relays SET position = 0")

    assert await queue.count() == 1


async def test_a_letter_that_cannot_be_written_is_tried_again_and_nothing_is_skipped(
    store: EventStore, bus: OwnedBus
) -> None:
    class Full(DeadLetterQueue):
        refusals = 2

        async def add(self, letter: Any) -> None:
            if self.refusals:
                self.refusals -= 1
                raise StoreUnavailableError("sqlite:///letters.db", "disk full")
            await super().add(letter)

    clock, queue = ManualClock(), Full()
    bus.refuses = too_large
    await store.append("s", noted("a", 1, 2, 3))

    async with relay(store, bus, dead_letter_queue=queue, clock=clock) as running:
        while queue.refusals:
            await clock.planned(2)  # the lease, and the next attempt
            assert bus.numbers == [1]
            clock.advance(1)
        await running.caught_up()

    assert bus.numbers == [1, 3]
    assert await queue.count() == 1


async def test_an_event_that_cannot_be_decoded_is_a_dead_letter_with_its_bytes(
    store: EventStore, bus: OwnedBus
) -> None:
    queue = DeadLetterQueue()
    await store.append("s", [Noted("a", 1), Other("a"), Noted("a", 2), Noted("a", 3)])
    async with store.transaction() as connection:
        broken = b'{"key":"a","number":"two"}'
        await execute(connection, "UPDATE avx_events SET data = ? WHERE position = 3", broken)

    async with relay(store, bus, types=[Noted], dead_letter_queue=queue) as running:
        await running.caught_up()

    (letter,) = await queue.list()
    assert bus.numbers == [1, 3]
    assert (letter.reason, letter.event_type, letter.error_type) == ("undecodable", "outbox.noted", "DecodeError")
    assert letter.raw is not None
    assert b'\\"two\\"' in letter.raw


async def test_an_event_that_cannot_be_decoded_stops_a_relay_without_a_queue(store: EventStore, bus: OwnedBus) -> None:
    await store.append("s", noted("a", 1, 2))
    async with store.transaction() as connection:
        await execute(connection, "UPDATE avx_events SET data = ? WHERE position = 2", b"{")

    async with relay(store, bus) as running:
        with pytest.raises(RelayFailedError, match="position 2"):
            await running.caught_up()

    assert bus.numbers == [1]


async def test_a_type_that_this_process_has_no_class_for_is_a_dead_letter_with_its_data(store: EventStore) -> None:
    queue, bus = DeadLetterQueue(), EventBus()
    await store._engine.append("s", [NewRecord("id-1", "outbox.gone", b'[1,"a"]', b'{"left":1}')])

    async with relay(store, bus, dead_letter_queue=queue) as running:
        await running.caught_up()

    (letter,) = await queue.list()
    assert (letter.event_type, letter.event.data) == ("outbox.gone", {"left": 1})


async def test_a_letter_is_redriven_by_the_relay_that_wrote_it(store: EventStore, bus: OwnedBus) -> None:
    queue = DeadLetterQueue()
    bus.refuses = too_large
    await store.append("s", noted("a", 1, 2))
    async with (
        relay(store, bus, dead_letter_queue=queue) as running,
        Relay(store, bus, name="to-other", after=2, dead_letter_queue=queue) as other,
    ):
        await running.caught_up()
        (letter,) = await queue.list()

        with pytest.raises(EventTooLargeError):
            await running.redrive(letter)
        with pytest.raises(NoHandlerError):
            await other.redrive(letter)
        bus.refuses = lambda _: None
        assert await running.redrive(letter.id)

    assert await queue.count() == 0
    assert bus.numbers == [1, 2]
    with pytest.raises(NoDeadLetterQueueError):
        await relay(store, bus).redrive(letter)


# Several processes


async def test_one_of_several_is_active_and_another_takes_over_at_once_when_it_is_left(
    sqlite_store: EventStore, bus: OwnedBus
) -> None:
    clock = ManualClock()
    async with relay(sqlite_store, bus, clock=clock) as second_to_be:
        await until(lambda: second_to_be.is_active)
    first, second = relay(sqlite_store, bus, clock=clock), relay(sqlite_store, bus, clock=clock)

    async with second:
        async with first:
            await until(lambda: second.is_active != first.is_active and clock.pauses_s)
            active, standby = (first, second) if first.is_active else (second, first)
            await sqlite_store.append("s", noted("a", 1, 2))
            await active.caught_up()
            await standby.caught_up()  # the other one did it
            assert standby.statistics().state == "standby"
        if active is first:
            clock.advance(4)
            await until(lambda: second.is_active)
        await sqlite_store.append("s", noted("a", 3))
        await second.caught_up()

    assert bus.numbers == [1, 2, 3]


async def test_a_lease_that_nobody_renews_is_taken_when_it_is_over(sqlite_store: EventStore, bus: OwnedBus) -> None:
    clock, stopped_clock = ManualClock(), ManualClock()
    stopped = relay(sqlite_store, bus, clock=stopped_clock)

    async with stopped:
        await until(lambda: stopped.is_active)
        async with relay(sqlite_store, bus, clock=clock) as standby:
            await clock.planned()
            clock.advance(9)
            await clock.planned()
            assert standby.statistics().state == "standby"
            clock.advance(4)
            await until(lambda: standby.is_active)
            await sqlite_store.append("s", noted("a", 1))
            await standby.caught_up()


async def test_a_relay_that_lost_its_lease_publishes_nothing_but_what_was_on_its_way(
    sqlite_store: EventStore, bus: OwnedBus
) -> None:
    clock, stopped_clock = ManualClock(), ManualClock()
    taken = OwnedBus()
    bus.hold()
    await sqlite_store.append("s", [*noted("a", 1, 2, 3), *noted("b", 4, 5)])

    async with relay(sqlite_store, bus, clock=stopped_clock) as stopped:
        await until(lambda: len(bus.begun) == 2)
        async with relay(sqlite_store, taken, clock=clock) as standby:
            await clock.planned()
            clock.advance(14)
            await until(lambda: standby.is_active)
            await standby.caught_up()

            stopped_clock.advance(14)  # it goes on after it stood still
            bus.release()
            await until(lambda: stopped.statistics().state == "standby")

            assert (taken.numbers_of("a"), taken.numbers_of("b")) == ([1, 2, 3], [4, 5])
            assert {envelope.event.number for envelope in bus.begun} == {1, 4}
            assert await kept_position(sqlite_store) == 5


async def test_a_relay_whose_lease_ran_out_and_was_not_taken_goes_on(store: EventStore, bus: OwnedBus) -> None:
    clock = ManualClock()
    async with relay(store, bus, clock=clock) as running:
        await until(lambda: running.is_active)
        clock.advance(100)
        await store.append("s", noted("a", 1))
        await running.caught_up()

    assert bus.numbers == [1]


async def test_the_lease_is_renewed_while_a_publish_takes_long(store: EventStore, bus: OwnedBus) -> None:
    clock = ManualClock()
    bus.hold()
    await store.append("s", noted("a", 1, 2))
    async with relay(store, bus, clock=clock) as running:
        await until(lambda: len(bus.begun) == 1)
        for _ in range(10):
            clock.advance(4)
            await clock.planned()
            assert running.is_active
        bus.release()
        await running.caught_up()

    assert bus.numbers == [1, 2]


# The end


async def test_what_is_on_its_way_is_waited_for_when_it_is_left(store: EventStore, bus: OwnedBus) -> None:
    bus.hold()
    await store.append("s", noted("a", 1, 2))
    running = relay(store, bus)
    async with asyncio.TaskGroup() as tasks, running:
        await until(lambda: len(bus.begun) == 1)
        tasks.create_task(_release_when_left(running, bus))

    assert bus.numbers == [1]
    assert await kept_position(store) == 1
    assert running.statistics().state == "stopped"


async def test_what_lies_before_something_that_was_published_is_published_before_it_is_left(
    store: EventStore, bus: OwnedBus
) -> None:
    bus.hold()
    await store.append("s", [*noted("a", 1, 2), *noted("b", 3), *noted("a", 4)])
    running = relay(store, bus)
    async with asyncio.TaskGroup() as tasks, running:
        await until(lambda: [envelope.event.number for envelope in bus.begun] == [1, 3])
        tasks.create_task(_release_when_left(running, bus))

    assert sorted(bus.numbers) == [1, 2, 3]
    assert await kept_position(store) == 3


async def test_a_relay_that_is_left_while_its_bus_refuses_does_not_wait_for_it(
    store: EventStore, bus: OwnedBus
) -> None:
    bus.refuses = lambda event: AWAY if event.key == "a" else None
    await store.append("s", [*noted("a", 1, 2), *noted("b", 3)])
    async with relay(store, bus, clock=ManualClock(), drain_timeout_s=100) as running:
        await until(lambda: bus.numbers == [3] and running.statistics().repeated)

    assert await kept_position(store) == 0


async def _release_when_left(running: Relay, bus: OwnedBus) -> None:
    await until(lambda: running._is_leaving)
    for _ in range(10):
        await asyncio.sleep(0)
    bus.release()


async def test_a_bus_that_never_answers_does_not_keep_a_relay_from_being_left(store: EventStore, bus: OwnedBus) -> None:
    bus.hold()
    await store.append("s", noted("a", 1))
    async with relay(store, bus, drain_timeout_s=0.01):
        await until(lambda: len(bus.begun) == 1)

    assert await kept_position(store) == 0


async def test_a_relay_ends_with_its_store(url: str, bus: OwnedBus) -> None:
    store = await EventStore.connect(url)
    running = relay(store, bus)
    async with running:
        await until(lambda: running.is_active)
        await store.close()
        await until(lambda: running.statistics().state == "stopped")
        with pytest.raises(NotRunningError):
            await running.caught_up()


async def test_waiting_for_a_relay_ends_in_time(store: EventStore, bus: OwnedBus) -> None:
    bus.hold()
    await store.append("s", noted("a", 1))
    async with relay(store, bus, drain_timeout_s=0.01) as running:
        with pytest.raises(RelayLagError):
            await running.caught_up(timeout_s=0.05)


async def test_a_relay_says_how_far_it_is_behind(url: str, bus: OwnedBus) -> None:
    clock = ManualClock()
    bus.hold()
    async with await EventStore.connect(url, clock=clock) as store:
        await store.append("s", noted("a", 1, 2))
        async with relay(store, bus, clock=clock, types=[Noted], drain_timeout_s=0.01) as running:
            await until(lambda: bus.begun)
            clock.advance(2)
            assert await running.lag() == RelayLag(events=2, seconds=2)

            bus.release()
            await running.caught_up()
            assert await running.lag() == RelayLag(events=0, seconds=0)


# What cannot be


async def test_a_store_in_memory_without_a_database_has_no_relay(bus: OwnedBus) -> None:
    async with EventStore() as store:
        with pytest.raises(TransactionError):
            await relay(store, bus).__aenter__()


async def test_a_relay_is_entered_once(store: EventStore, bus: OwnedBus) -> None:
    running = relay(store, bus)
    with pytest.raises(NotRunningError):
        await running.caught_up()
    async with running:
        with pytest.raises(NotRunningError):
            await running.__aenter__()
    with pytest.raises(NotRunningError):
        await running.lag()


@pytest.mark.parametrize(
    "options",
    [
        {"name": " "},
        {"store": "sqlite:///events.db"},
        {"bus": EventBus},
        {"bus": None},
        {"types": []},
        {"types": [int]},
        {"stream_prefix": 3},
        {"after": -1},
        {"in_flight": 0},
        {"lease_s": 0},
        {"drain_timeout_s": -1},
        {"dead_letter_queue": "sqlite:///letters.db"},
    ],
    ids=str,
)
async def test_what_is_not_acceptable_is_refused(bus: OwnedBus, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"store": EventStore(), "bus": bus, "name": "to-bus"} | options
    with pytest.raises(InvalidArgumentError):
        Relay(given.pop("store"), given.pop("bus"), **given)
