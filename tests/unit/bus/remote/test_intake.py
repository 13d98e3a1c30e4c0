"""What a group's member does with the events that a broker gives it, and what it tells the broker of them."""

import asyncio
import logging
from typing import Any

import pytest

from avx_events import Discard, Event, EventBus, Reject, Retry, TopicBus
from avx_events.bus.remote.link import LinkOptions
from avx_events.bus.remote.ports import Incoming
from avx_events.bus.subscription import AnyEnvelope
from avx_events.core.errors import DecodeError, StoreUnavailableError
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.testing import ManualClock
from tests.unit.bus.remote.broker import AWAY, FakeBroker, FakeSource, bus_on
from tests.waiting import until

AT_ONCE = Retry(attempts=3, initial_s=0.001, max_s=0.001)


class Happened(Event, event_type="intake.happened", aggregate_id="key"):
    key: str
    number: int = 0


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


class Handler:
    """A handler that a test lets go on."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.ended: list[int] = []
        self.may_end = asyncio.Event()
        self.fails = False

    async def __call__(self, event: Happened) -> None:
        self.began.append(event.number)
        await self.may_end.wait()
        if self.fails:
            raise RuntimeError
        self.ended.append(event.number)


def source_of(broker: FakeBroker) -> FakeSource:
    return broker.sources["handler"]


def document_of(broker: FakeBroker, number: int = 0) -> bytes:
    return broker.submitted[number][0].document


# Former names


class Renamed(Event, event_type="intake.renamed", formerly=("intake.named",), revision=2):
    title: str


@Renamed.upcast(from_revision=1)
def name_to_title(data: dict[str, Any]) -> dict[str, Any]:
    return {"title": data["name"]}


OLD_DOCUMENT = b'{"specversion":"1.0","id":"1","source":"/shop","type":"intake.named","revision":1,"data":{"name":"n"}}'


@pytest.mark.parametrize("beside", [{}, {"event_type": "intake.named", "topic": "intake.named"}, {"topic": "other"}])
async def test_an_event_under_a_former_name_comes_to_those_of_its_class(
    broker: FakeBroker, beside: dict[str, str]
) -> None:
    bus = bus_on(broker, group=None)
    subscriber = await bus.subscribe(Renamed, name="handler")
    source_of(broker).put(OLD_DOCUMENT, **beside)

    envelope = await subscriber.recv_envelope()

    assert envelope is not None
    assert (envelope.event, envelope.metadata.event_type) == (Renamed("n"), "intake.renamed")
    await bus.close()


@pytest.mark.parametrize("beside", [{}, {"event_type": "intake.named"}, {"event_type": "intake.named", "topic": ""}])
@pytest.mark.parametrize("pattern", ["intake.renamed", "*.renamed"])
async def test_an_event_under_a_former_name_comes_to_the_topic_that_its_class_has_today(
    broker: FakeBroker, beside: dict[str, str], pattern: str
) -> None:
    bus = TopicBus(remote=(broker, LinkOptions(group=None)))
    subscriber, others = await bus.subscribe(pattern, name="handler"), await bus.subscribe("intake.named")
    for source in broker.sources.values():
        source.put(OLD_DOCUMENT, **beside | ({"topic": "intake.named"} if "topic" in beside else {}))

    envelope = await subscriber.recv_envelope()

    assert envelope is not None
    assert (envelope.event, envelope.topic) == (Renamed("n"), "intake.renamed")
    assert others.statistics().queued == 0
    await bus.close()


# Reading


async def test_a_source_is_told_which_classes_its_consumer_wants(broker: FakeBroker) -> None:
    bus = bus_on(broker)
    bus.on(Happened, name="handler")(Handler())

    async with bus:
        assert source_of(broker).consumer.event_classes == (Happened,)


async def test_a_transport_may_have_its_own_way_to_read_what_is_wanted(broker: FakeBroker) -> None:
    read: list[Incoming] = []
    seen: list[object] = []

    def decode(incoming: Incoming) -> AnyEnvelope:
        read.append(incoming)
        if incoming.document == b"bad":
            incoming.document = b"as it was"
            raise DecodeError("intake.happened", "it is bad")
        return EventEnvelope(Happened("a", 7), EventMetadata("1", "intake.happened", "a", 0, "1"), "intake.happened")

    bus = EventBus(remote=(broker, LinkOptions(group="billing", decode=decode)))

    @bus.on(Happened, name="handler")
    async def handler(event: Happened) -> None:
        seen.append(event)

    async with bus:
        source_of(broker).put(b"unread", event_type="of.others")
        source_of(broker).put(b"bad", event_type="intake.happened")
        source_of(broker).put(b"good", event_type="intake.happened")
        await until(lambda: len(source_of(broker).acknowledged) == 3)
        (letter,) = await bus.dead_letter_queue.list()

    assert [incoming.document for incoming in read] == [b"as it was", b"good"]
    assert seen == [Happened("a", 7)]
    assert (letter.reason, letter.raw) == ("undecodable", b"as it was")


async def test_order_is_kept_by_the_key_that_a_transport_says(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler", concurrency=8)(handler)

    async with bus:
        await bus.publish(Happened("", 1))
        document = document_of(broker)
        await until(lambda: handler.began == [1])
        for _ in range(3):
            source_of(broker).put(document, key="stream-1")
        await until(lambda: len(handler.began) == 2)
        await asyncio.sleep(0)

        assert len(handler.began) == 2
        handler.may_end.set()
        await until(lambda: len(handler.ended) == 4)


# Acknowledging


async def test_an_event_is_acknowledged_when_its_handler_is_done_and_not_before(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        await bus.publish(Happened("a", 1))
        await until(lambda: handler.began)
        assert source_of(broker).acknowledged == []
        handler.may_end.set()

        await until(lambda: source_of(broker).acknowledged == [0])


@pytest.mark.parametrize("end", [Discard("of no use"), Reject("never"), RuntimeError("again and again")])
async def test_whatever_ends_an_event_it_is_acknowledged_once(broker: FakeBroker, end: Exception) -> None:
    bus = bus_on(broker)

    @bus.on(Happened, name="handler", retry=AT_ONCE)
    async def handler(event: Happened) -> None:
        raise end

    async with bus:
        await bus.publish(Happened("a"))
        await until(lambda: source_of(broker).acknowledged == [0])
        await bus.settled()

    assert source_of(broker).acknowledged == [0]


async def test_a_dead_letter_is_in_its_queue_before_the_event_is_acknowledged(broker: FakeBroker) -> None:
    bus = bus_on(broker)
    order: list[list[int]] = []

    async def look() -> None:
        await asyncio.sleep(0)
        order.append(list(source_of(broker).acknowledged))

    broker.letters.before_put = look

    @bus.on(Happened, name="handler", retry=None)
    async def handler(event: Happened) -> None:
        raise RuntimeError

    async with bus:
        await bus.publish(Happened("a"))
        await until(lambda: source_of(broker).acknowledged == [0])

    assert order == [[]]


async def test_an_event_stays_unacknowledged_as_long_as_its_dead_letter_is_not_kept(broker: FakeBroker) -> None:
    clock = ManualClock()
    bus = bus_on(broker, clock=clock)

    async def be_away() -> None:
        raise StoreUnavailableError("letters", "away")

    broker.letters.before_put = be_away

    @bus.on(Happened, name="handler", retry=None)
    async def handler(event: Happened) -> None:
        raise RuntimeError

    async with bus:
        await bus.publish(Happened("a"))
        await until(lambda: bus.statistics().queued == 1)
        assert source_of(broker).acknowledged == []
        broker.letters.before_put = None
        clock.advance(1)

        await until(lambda: source_of(broker).acknowledged == [0])
        assert await broker.letters.count() == 1


async def test_an_acknowledgement_that_the_broker_does_not_take_is_repeated(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avx_events.bus.remote.intake._PAUSE_S", 0.001)
    bus, handler = bus_on(broker), Handler()
    handler.may_end.set()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        source_of(broker).problem = AWAY
        await bus.publish_many(Happened("a", number) for number in range(5))
        await until(lambda: len(handler.ended) == 5)
        assert source_of(broker).acknowledged == []
        source_of(broker).problem = None

        await until(lambda: source_of(broker).acknowledged == [0, 1, 2, 3, 4])


async def test_what_others_want_is_acknowledged_unread(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        source_of(broker).put(b"not even looked at", event_type="of.others")

        await until(lambda: source_of(broker).acknowledged == [0])
    assert handler.began == []


async def test_no_more_is_received_than_may_be_in_flight(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker, capacity=4), Handler()
    bus.on(Happened, name="handler", concurrency=2)(handler)
    async with bus:
        await bus.publish_many(Happened(f"key-{number}", number) for number in range(20))
        await until(lambda: len(handler.began) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(source_of(broker).given) <= 4
        handler.may_end.set()

        await until(lambda: len(source_of(broker).acknowledged) == 20)


# Hostile bytes


async def test_bytes_that_are_no_event_become_a_dead_letter_with_all_that_is_known(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        source_of(broker).put(b"{nonsense", event_type="intake.happened", topic="intake.happened")
        await until(lambda: source_of(broker).acknowledged == [0])
        (letter,) = await bus.dead_letter_queue.list()

    assert (letter.reason, letter.raw, letter.error_type) == ("undecodable", b"{nonsense", "DecodeError")
    assert handler.began == []


async def test_what_an_entry_says_of_its_document_is_no_more_than_a_hint(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    handler.may_end.set()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        await bus.publish(Happened("a", 1))
        await until(lambda: handler.ended == [1])
        other = document_of(broker).replace(b'"intake.happened"', b'"of.others"')
        source_of(broker).put(other, event_type="intake.happened", topic="intake.happened")
        source_of(broker).put(document_of(broker))

        await until(lambda: source_of(broker).acknowledged == [0, 1, 2])
    assert handler.ended == [1, 1]


# Lanes that move


async def test_a_lane_that_is_lost_takes_what_waits_with_it_and_what_runs_is_still_acknowledged(
    broker: FakeBroker,
) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler", concurrency=4)(handler)
    async with bus:
        await bus.publish_many(Happened("a", number) for number in range(5))
        await until(lambda: handler.began == [0])
        source = source_of(broker)

        source.withdrawal.lose(source.lane)
        handler.may_end.set()

        await until(lambda: source.acknowledged == [0])
        await bus.settled()
    assert handler.began == [0]
    assert sorted(source.given_back) == [(number, False) for number in range(1, 5)]


async def test_an_event_that_waits_for_its_next_attempt_goes_with_its_lane(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    handler.fails = True
    handler.may_end.set()
    bus.on(Happened, name="handler", retry=Retry(initial_s=1000, max_s=1000))(handler)
    async with bus:
        await bus.publish_many(Happened("a", number) for number in range(3))
        source = source_of(broker)
        await until(lambda: source.counted == [(0, 1)])

        source.withdrawal.lose(source.lane)

        await bus.settled()
        assert bus.statistics().queued == 0
    assert sorted(source.given_back) == [(0, True), (1, False), (2, False)]
    assert source.acknowledged == []


async def test_a_lane_is_given_up_when_what_runs_of_it_is_done_and_the_broker_knows(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus, asyncio.TaskGroup() as tasks:
        await bus.publish_many(Happened("a", number) for number in range(3))
        await until(lambda: handler.began == [0])
        source = source_of(broker)

        async def give_up() -> list[int]:
            await source.withdrawal.give_up(source.lane)
            return list(source.acknowledged)

        giving_up = tasks.create_task(give_up())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not giving_up.done()
        handler.may_end.set()

        assert await giving_up == [0]
    assert handler.began == [0]


async def test_nothing_begins_whose_lane_is_past_its_time(broker: FakeBroker) -> None:
    clock = ManualClock()
    bus, handler = bus_on(broker, clock=clock), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        source = source_of(broker)
        source.lane.held_until = clock.monotonic() + 5
        await bus.publish_many(Happened("a", number) for number in range(3))
        await until(lambda: handler.began == [0])
        clock.advance(5)
        handler.may_end.set()

        await until(lambda: source.acknowledged == [0])
        await until(lambda: len(source.given_back) == 2)
    assert handler.began == [0]


# Attempts across processes


async def test_attempts_that_others_made_count(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    handler.fails = True
    handler.may_end.set()
    bus.on(Happened, name="handler", retry=AT_ONCE)(handler)
    async with bus:
        await bus.publish(Happened("a", 7))
        await until(lambda: len(handler.began) == 3)
        handler.began.clear()
        source_of(broker).put(document_of(broker), attempts=2)
        await until(lambda: len(source_of(broker).acknowledged) == 2)
        letters = await bus.dead_letter_queue.list()

    assert handler.began == [7]
    assert [letter.attempts for letter in letters] == [3, 3]


async def test_an_event_that_ended_its_process_as_often_as_it_may_is_a_dead_letter_unhandled(
    broker: FakeBroker,
) -> None:
    bus, handler = bus_on(broker), Handler()
    handler.may_end.set()
    bus.on(Happened, name="handler", retry=AT_ONCE)(handler)
    async with bus:
        await bus.publish(Happened("a", 7))
        await until(lambda: handler.ended == [7])
        source_of(broker).put(document_of(broker), attempts=3)
        await until(lambda: len(source_of(broker).acknowledged) == 2)
        (letter,) = await bus.dead_letter_queue.list()

    assert handler.ended == [7]
    assert (letter.error_type, letter.attempts, letter.reason) == ("HandlerKilledError", 3, "failed")


async def test_what_comes_again_is_counted_before_it_begins(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        await bus.publish(Happened("a", 7))
        await until(lambda: handler.began == [7])
        handler.may_end.set()
        source = source_of(broker)
        await until(lambda: source.acknowledged == [0])
        handler.may_end.clear()
        source.put(document_of(broker), is_redelivered=True)
        await until(lambda: handler.began == [7, 7])

        assert source.counted == [(1, 1)]
        handler.may_end.set()


async def test_events_that_were_begun_when_a_process_ended_run_one_at_a_time(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler", concurrency=4)(handler)
    async with bus:
        await bus.publish(Happened("a", 7))
        await until(lambda: handler.began == [7])
        source = source_of(broker)
        for key in (b'"b"', b'"c"'):
            source.put(document_of(broker).replace(b'"a"', key), attempts=1)
        await until(lambda: len(handler.began) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(handler.began) == 2
        assert source.counted == [(1, 3)]  # the first one, which nobody counted, is counted now
        handler.may_end.set()

        await until(lambda: sorted(source.acknowledged) == [0, 1, 2])
    assert source.counted == [(1, 3), (2, 3)]


async def test_the_next_of_them_begins_when_the_broker_knows_that_the_one_before_is_done(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler", concurrency=4)(handler)
    handler.may_end.set()
    async with bus:
        await bus.publish(Happened("a", 7))
        source = source_of(broker)
        await until(lambda: source.acknowledged == [0])
        source.may_acknowledge.clear()
        for key in (b'"b"', b'"c"'):
            source.put(document_of(broker).replace(b'"a"', key), attempts=1)
        await until(lambda: len(handler.ended) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        began, counted = len(handler.began), list(source.counted)
        source.may_acknowledge.set()

        await until(lambda: sorted(source.acknowledged) == [0, 1, 2])
    assert (began, counted) == (2, [(1, 3)])  # a process that ended then would not have had both to its account
    assert source.counted == [(1, 3), (2, 3)]


async def test_an_event_that_cannot_be_counted_waits_until_it_can(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avx_events.bus.remote.intake._PAUSE_S", 0.001)
    bus, handler = bus_on(broker), Handler()
    handler.may_end.set()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        await bus.publish(Happened("a", 7))
        source = source_of(broker)
        await until(lambda: source.acknowledged == [0])
        source.problem = AWAY
        source.put(document_of(broker), is_redelivered=True)
        for _ in range(20):
            await asyncio.sleep(0.001)  # it tries, and goes on trying
        assert handler.began == [7]
        source.problem = None

        await until(lambda: handler.ended == [7, 7])


# The end


async def test_a_stop_finishes_what_runs_and_gives_back_what_has_not_begun(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    bus.on(Happened, name="handler")(handler)
    async with asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish_many(Happened("a", number) for number in range(4))
        await until(lambda: handler.began == [0])
        closing = tasks.create_task(bus.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        handler.may_end.set()

    source = source_of(broker)
    assert (handler.ended, source.acknowledged, source.is_closed, broker.is_closed) == ([0], [0], True, True)
    assert sorted(source.given_back) == [(1, False), (2, False), (3, False)]
    assert await broker.letters.count() == 0


async def test_a_handler_that_does_not_finish_in_time_is_cut_off_and_its_event_left_to_others(
    broker: FakeBroker,
) -> None:
    bus, handler = bus_on(broker, drain_timeout_s=0.01), Handler()
    bus.on(Happened, name="handler")(handler)
    async with bus:
        await bus.publish(Happened("a"))
        await until(lambda: handler.began == [0])

    source = source_of(broker)
    assert (source.acknowledged, source.given_back) == ([], [(0, True)])
    assert await broker.letters.count() == 0


async def test_a_failure_during_a_stop_is_counted_and_left_to_others(broker: FakeBroker) -> None:
    bus, handler = bus_on(broker), Handler()
    handler.fails = True
    bus.on(Happened, name="handler", retry=AT_ONCE)(handler)
    async with asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Happened("a"))
        await until(lambda: handler.began == [0])
        tasks.create_task(bus.close())
        await asyncio.sleep(0)
        handler.may_end.set()

    source = source_of(broker)
    assert (source.acknowledged, source.counted, source.given_back) == ([], [(0, 1)], [(0, True)])


# Publishing


async def test_what_is_published_without_waiting_and_refused_is_in_the_log(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.accepts = False
    async with bus_on(broker) as bus:
        bus.publish_nowait(Happened("a", 7))
        broker.submitted[0][1].set_exception(AWAY)
        await asyncio.sleep(0)

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Happened(key='a', number=7)" in caplog.text


async def test_a_publish_that_is_cancelled_takes_its_event_back_where_it_was_not_sent(broker: FakeBroker) -> None:
    broker.accepts = False
    async with bus_on(broker) as bus:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish(Happened("a"))

        assert broker.submitted[0][1].cancelled()
        assert bus.statistics().published == 0
