"""A bus on the log of a store: where its handlers begin, where they go on, and what it refuses."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from avx_events import (
    DeadLetterQueue,
    Event,
    EventStore,
    InvalidArgumentError,
    LanesMismatchError,
    LogBus,
    Retry,
    StoredEvent,
    TransactionError,
    UsageError,
)
from avx_events.core.errors import ClosedError, StoreSchemaError
from tests.waiting import until


class Counted(Event, event_type="log.counted", aggregate_id="key"):
    key: str
    number: int = 0


class CountedOn(Counted, event_type="log.counted.on"):
    pass


class Keyless(Event, event_type="log.keyless"):
    number: int = 0


class Named(Event, event_type="log.named", aggregate_id="key"):
    key: str
    name: str


class Unwanted(Event, event_type="log.unwanted"):
    pass


class Seen:
    """What a handler was given."""

    def __init__(self, bus: LogBus, event_class: type[Event] = Counted, **options: Any) -> None:
        self.events: list[Any] = []
        self.stored: list[StoredEvent[Any]] = []

        async def handler(event: Event, stored: StoredEvent[Event]) -> None:
            await asyncio.sleep(0)
            self.events.append(event)
            self.stored.append(stored)

        bus.on(event_class, name="handler", **options)(handler)

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.events]

    async def have(self, count: int) -> list[int]:
        await until(lambda: len(self.events) >= count)
        return self.numbers


@pytest.fixture
async def shared_store(shared_url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(shared_url) as opened:
        yield opened


async def append(store: EventStore, numbers: range, key: str = "a") -> None:
    await store.append(key, [Counted(key, number) for number in numbers])


# What a handler is given


async def test_a_handler_is_given_the_events_of_its_classes_with_their_places(store: EventStore) -> None:
    async with await LogBus.connect(store, group="billing", start="earliest") as bus:
        seen = Seen(bus)
        await store.append("s", [Unwanted(), Counted("a", 1), CountedOn("b", 2)])
        await seen.have(2)

    assert seen.events == [Counted("a", 1), CountedOn("b", 2)]
    assert [(stored.stream, stored.version, stored.position) for stored in seen.stored] == [("s", 2, 2), ("s", 3, 3)]


async def test_a_class_that_is_made_while_a_handler_runs_belongs_to_its_family(store: EventStore) -> None:
    bus = await LogBus.connect(store, group="billing")
    seen = Seen(bus)
    async with bus:
        await append(store, range(1))
        await seen.have(1)

        class CountedLate(Counted, event_type="log.counted.late"):
            pass

        await store.append("a", CountedLate("a", 7))

        assert await seen.have(2) == [0, 7]


async def test_a_pull_subscriber_goes_on_after_what_it_has_read(store: EventStore) -> None:
    await append(store, range(5))
    read: list[int] = []
    for _ in range(2):
        async with await LogBus.connect(store, group="billing", start="earliest") as bus:
            subscriber = await bus.subscribe(Counted, name="reader")
            for _ in range(2):
                event = await subscriber.recv()
                assert event is not None
                read.append(event.number)

    assert read == [0, 1, 2, 3]


async def test_events_without_an_aggregate_id_are_in_order_within_their_stream(store: EventStore) -> None:
    for number in range(20):
        await store.append(f"stream-{number % 3}", Keyless(number))
    async with await LogBus.connect(store, group="billing", start="earliest") as bus:
        seen = Seen(bus, Keyless, concurrency=8)
        await seen.have(20)

    for stream in range(3):
        assert [number for number in seen.numbers if number % 3 == stream] == list(range(stream, 20, 3))


async def test_a_record_that_fits_no_class_is_a_dead_letter_with_its_document(store: EventStore) -> None:
    await append(store, range(1))
    async with store.transaction() as connection:
        await connection.execute("UPDATE avx_events SET event_type = 'log.named'")
    async with await LogBus.connect(store, group="billing", start="earliest") as bus:
        seen = Seen(bus, Named)
        await append(store, range(1, 2))
        await store.append("b", Named("b", "good"))
        await until(lambda: seen.events)
        await until(lambda: bus.statistics().dead_lettered == 1)
        (letter,) = await bus.dead_letter_queue.list()

    assert seen.events == [Named("b", "good")]
    assert (letter.reason, letter.event_type) == ("undecodable", "log.named")
    assert letter.raw is not None
    document = msgspec.json.decode(letter.raw)
    assert (document["subject"], document["data"]) == ("a", {"key": "a", "number": 0})


# Where it begins, and goes on


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 10), (0, 0), (4, 4), (10, 10), (99, 10)])
async def test_a_handler_begins_where_it_is_told_to(store: EventStore, start: Any, first: int) -> None:
    await append(store, range(10))
    bus = await LogBus.connect(store, group="billing", start=start)
    seen = Seen(bus)
    async with bus:
        await append(store, range(10, 12))

        assert await seen.have(12 - first) == list(range(first, 12))


@pytest.mark.parametrize("start", ["earliest", "latest", 3])
async def test_a_handler_goes_on_where_it_was_wherever_it_is_told_to_begin(store: EventStore, start: Any) -> None:
    numbers: list[int] = []
    for first in (0, 10, 20):
        bus = await LogBus.connect(store, group="billing", start="earliest" if not first else start)
        seen = Seen(bus)
        async with bus:
            await append(store, range(first, first + 5))
            numbers += await seen.have(5 if not first else 10)
        await append(store, range(first + 5, first + 10))

    assert numbers == list(range(25))


async def test_a_key_that_waits_for_its_retry_holds_no_other_back_and_alone_comes_again(store: EventStore) -> None:
    await store.append("s", [Counted("stuck", 0), *[Counted(f"key-{number}", number) for number in range(1, 50)]])
    bus = await LogBus.connect(store, group="billing", start="earliest", lanes=1, drain_timeout_s=1)
    handled: list[int] = []

    @bus.on(Counted, name="handler", retry=Retry(attempts=3, initial_s=60, max_s=60))
    async def handler(event: Counted) -> None:
        if event.key == "stuck":
            raise RuntimeError
        handled.append(event.number)

    async with bus:
        await until(lambda: len(handled) == 49)
    following = await LogBus.connect(store, group="billing", lanes=1)
    seen = Seen(following)
    async with following:
        assert await seen.have(1) == [0]
        await append(store, range(99, 100))
        assert await seen.have(2) == [0, 99]


async def test_50_appenders_while_a_handler_catches_up_and_goes_live_are_each_handled_once(store: EventStore) -> None:
    await store.append("s", [Counted(f"key-{number % 7}", number) for number in range(2_000)])
    async with await LogBus.connect(store, group="billing", start="earliest", capacity=256) as bus:
        seen = Seen(bus, concurrency=16)

        async def keep_appending(appender: int) -> None:
            for number in range(40):
                await store.append(f"appender-{appender}", Counted(f"appender-{appender}", number))

        async with asyncio.TaskGroup() as tasks:
            for appender in range(50):
                tasks.create_task(keep_appending(appender))
        await seen.have(4_000)
        await bus.settled()

    positions = [stored.position for stored in seen.stored]
    assert sorted(positions) == list(range(1, 4_001))
    for appender in range(50):
        of_it = [event.number for event in seen.events if event.key == f"appender-{appender}"]
        assert of_it == list(range(40))


# Several processes


async def test_two_stores_on_one_database_share_a_handler(shared_store: EventStore, other_store: EventStore) -> None:
    one = await LogBus.connect(shared_store, group="billing")
    other = await LogBus.connect(other_store, group="billing")
    by_one, by_other = Seen(one), Seen(other)
    async with one, other:
        count = 0
        async with asyncio.timeout(10):
            while not (by_one.events and by_other.events):
                await shared_store.append(f"key-{count}", Counted(f"key-{count}", count))
                count += 1
        await until(lambda: len(by_one.events) + len(by_other.events) >= count)

    assert sorted(by_one.numbers + by_other.numbers) == list(range(count))


async def test_another_number_of_lanes_is_refused(store: EventStore) -> None:
    bus = await LogBus.connect(store, group="billing", lanes=4)
    Seen(bus)
    async with bus:
        pass
    bus = await LogBus.connect(store, group="billing", lanes=8)
    Seen(bus)

    with pytest.raises(LanesMismatchError, match="handler 'handler' of group 'billing' has 4 lanes, not 8"):
        await bus.start()
    await bus.close()


# What it refuses


async def test_it_publishes_nothing_and_says_what_to_do(store: EventStore) -> None:
    async with await LogBus.connect(store, group="billing") as bus:
        for publishing in (bus.publish(Counted("a")), bus.publish_many([Counted("a"), Counted("b")])):
            with pytest.raises(UsageError, match=r"append it to the store: await store\.append"):
                await publishing
        with pytest.raises(UsageError, match="append it to the store"):
            bus.publish_nowait(Counted("a"))
        with pytest.raises(UsageError, match="append it to the store"):
            await asyncio.wrap_future(bus.publish_threadsafe(Counted("a")))

    assert await store.last_position() == 0


async def test_a_store_in_memory_has_no_place_for_it() -> None:
    async with EventStore() as store:
        with pytest.raises(TransactionError):
            await LogBus.connect(store, group="billing")


@pytest.mark.parametrize(
    "wrong",
    [
        {"group": ""},
        {"start": "middle"},
        {"start": -1},
        {"start": True},
        {"lanes": 0},
        {"lanes": 1025},
        {"lease_s": 0},
        {"lease_s": float("inf")},
        {"capacity": 0},
        {"dead_letter_queue": "here"},
    ],
    ids=str,
)
async def test_what_makes_no_sense_is_refused(store: EventStore, wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"group": "billing", **wrong}
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        await LogBus.connect(store, **options)


async def test_what_is_no_store_is_refused() -> None:
    url: Any = "sqlite://"
    with pytest.raises(InvalidArgumentError, match="store must be an EventStore"):
        await LogBus.connect(url, group="billing")


async def test_tables_of_a_newer_version_are_refused(store: EventStore) -> None:
    await (await LogBus.connect(store, group="billing")).close()
    async with store.transaction() as connection:
        await connection.execute("UPDATE avx_schema SET version = 99 WHERE component = 'log bus'")

    with pytest.raises(StoreSchemaError, match="version 99"):
        await LogBus.connect(store, group="billing")


async def test_a_closed_store_is_refused_and_one_that_closes_ends_the_handlers_work(store: EventStore) -> None:
    bus = await LogBus.connect(store, group="billing")
    seen = Seen(bus)
    async with bus:
        await append(store, range(1))
        await seen.have(1)
        await store.close()

    with pytest.raises(ClosedError):
        await LogBus.connect(store, group="billing")


async def test_its_letters_are_where_the_queue_of_the_stores_database_has_them(shared_url: str) -> None:
    async with (
        await EventStore.connect(shared_url) as store,
        await LogBus.connect(store, group="billing", start="earliest") as bus,
        await DeadLetterQueue.connect(shared_url) as queue,
    ):

        @bus.on(Counted, name="fails", retry=None)
        async def fails(event: Counted) -> None:
            raise LookupError(event.key)

        await store.append("s", Counted("a", 1))
        await until(lambda: bus.statistics().dead_lettered == 1)
        (letter,) = await queue.list()

        assert (letter.handler, letter.group, letter.error) == ("fails", "billing", "LookupError: a")
        assert await bus.dead_letter_queue.get(letter.id) == letter


async def test_without_a_url_of_the_store_it_wants_a_queue() -> None:
    opened = await EventStore.connect("sqlite://")
    engine = opened._engine
    async with EventStore(engine) as store:
        with pytest.raises(
            InvalidArgumentError, match=r"dead_letter_queue must be given where the store was not opened"
        ):
            await LogBus.connect(store, group="billing")
        async with await LogBus.connect(store, group="billing", dead_letter_queue=DeadLetterQueue()) as bus:
            assert await bus.dead_letter_queue.count() == 0


async def test_a_queue_that_it_is_given_gets_its_dead_letters(store: EventStore) -> None:
    queue = DeadLetterQueue()
    bus = await LogBus.connect(store, group="billing", dead_letter_queue=queue)

    @bus.on(Counted, retry=None)
    async def handler(event: Counted) -> None:
        raise RuntimeError

    async with bus:
        await append(store, range(1))
        await until(lambda: bus.statistics().dead_lettered == 1)

    assert await queue.count() == 1
