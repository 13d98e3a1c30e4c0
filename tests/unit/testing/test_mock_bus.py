"""MockEventBus: the real bus, which remembers, and waits instead of sleeping."""

import asyncio
from dataclasses import dataclass

import pytest

from avx_events import Discard, Event, EventBus, EventMetadata, Retry, event
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.errors import ClosedError, InvalidArgumentError, NotAnEventError, NotStartedError
from avx_events.testing import ManualClock, MockEventBus


class Remembered(Event, aggregate_id="key"):
    key: str
    number: int = 0


class RememberedMore(Remembered):
    more: str = ""


class Elsewhere(Event):
    text: str = ""


@event("mock.plain")
@dataclass(frozen=True)
class Plain:
    text: str


async def test_it_is_an_event_bus_that_needs_no_start_to_publish() -> None:
    bus = MockEventBus()
    subscriber = await bus.subscribe(Remembered)

    metadata = await bus.publish(Remembered("a"))

    assert isinstance(bus, EventBus)
    assert isinstance(metadata, EventMetadata)
    assert await subscriber.recv() == Remembered("a")


async def test_it_remembers_every_way_of_publishing_in_order() -> None:
    bus = MockEventBus()

    await bus.publish(Remembered("a", 1))
    await bus.publish(Remembered("a", 2), headers={"trace": "x"})
    await bus.publish_many([Elsewhere("b"), Plain("c"), Remembered("a", 3)])
    bus.publish_nowait(Remembered("a", 4))
    sent = await asyncio.to_thread(bus.publish_threadsafe, Remembered("a", 5))
    await asyncio.wrap_future(sent)

    assert [published.number for published in bus.published_events(Remembered)] == [1, 2, 3, 4, 5]
    assert bus.published_events(Elsewhere, Plain) == [Elsewhere("b"), Plain("c")]
    assert len(bus.published_events()) == 7
    assert [envelope.metadata.headers for envelope in bus.published_envelopes(Remembered)][1] == {"trace": "x"}
    assert [envelope.topic for envelope in bus.published_envelopes(Plain)] == ["mock.plain"]


async def test_a_base_class_gives_its_family_and_event_all_that_derive_from_it() -> None:
    bus = MockEventBus()

    await bus.publish_many([RememberedMore("a"), Elsewhere(), Plain("x")])

    assert bus.published_events(Remembered) == [RememberedMore("a")]
    assert bus.published_events(Event) == [RememberedMore("a"), Elsewhere()]


async def test_what_was_refused_or_cancelled_is_not_remembered() -> None:
    bus = MockEventBus()
    await bus.subscribe(Remembered, capacity=1)
    await bus.publish(Remembered("a", 1))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await bus.publish(Remembered("a", 2))
    with pytest.raises(NotAnEventError):
        await bus.publish("text")

    assert bus.published_events() == [Remembered("a", 1)]


async def test_a_publisher_that_waits_for_room_holds_up_no_other_events() -> None:
    bus = MockEventBus()
    full = await bus.subscribe(Remembered, capacity=1)
    await bus.publish(Remembered("a", 1))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.publish(Remembered("a", 2)))
        await asyncio.sleep(0)
        await bus.publish(Elsewhere("free"))
        assert bus.published_events() == [Remembered("a", 1), Elsewhere("free")]
        assert await full.recv() == Remembered("a", 1)

    assert bus.published_events(Remembered) == [Remembered("a", 1), Remembered("a", 2)]


async def test_handlers_retries_and_dead_letters_are_those_of_the_real_bus() -> None:
    clock = ManualClock()
    bus = MockEventBus(dead_letter_queue=DeadLetterQueue(), clock=clock)

    @bus.on(Remembered, retry=Retry(attempts=2, initial_s=60, max_s=60))
    async def fails_on_odd_numbers(event: Remembered) -> None:
        if event.number % 2:
            raise RuntimeError
        if event.number:
            raise Discard
        await bus.publish(Elsewhere(event.key))

    async with bus:
        await bus.publish_many([Remembered("a", 0), Remembered("b", 1), Remembered("c", 2)])
        await clock.planned()
        clock.advance(60)
        await bus.settled()

    statistics = bus.statistics()
    assert (statistics.handled, statistics.retried, statistics.discarded) == (1, 1, 1)
    assert [letter.attempts for letter in await bus.dead_letter_queue.list()] == [2]
    assert bus.published_events(Elsewhere) == [Elsewhere("a")]


async def test_with_handlers_it_refuses_to_publish_until_it_is_started_as_in_production() -> None:
    bus = MockEventBus()

    @bus.on(Remembered)
    async def handler(event: Remembered) -> None:
        pass

    with pytest.raises(NotStartedError):
        await bus.publish(Remembered("a"))
    async with bus:
        await bus.publish(Remembered("a"))
    with pytest.raises(ClosedError):
        await bus.publish(Remembered("b"))

    assert bus.published_events() == [Remembered("a")]


async def test_the_record_does_not_count_in_the_statistics() -> None:
    bus = MockEventBus()

    await bus.publish(Remembered("a"))

    statistics = bus.statistics()
    assert (statistics.published, statistics.delivered, statistics.queued) == (1, 0, 0)
    assert statistics.subscriptions == {}


async def test_clear_forgets_what_was_published_and_leaves_what_is_under_way() -> None:
    bus = MockEventBus()
    subscriber = await bus.subscribe(Remembered)
    await bus.publish(Remembered("a"))

    bus.clear()
    await bus.publish(Remembered("b"))

    assert bus.published_events() == [Remembered("b")]
    assert await subscriber.recv_many() == [Remembered("a"), Remembered("b")]


async def test_wait_for_returns_what_was_published_before_and_meanwhile() -> None:
    bus = MockEventBus()
    await bus.publish(Remembered("a", 1))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(bus.wait_for(Remembered, count=2))
        second = tasks.create_task(bus.wait_for(Elsewhere))
        third = tasks.create_task(bus.wait_for(Remembered, where=lambda event: event.number == 3))
        await asyncio.sleep(0)
        await bus.publish_many([Remembered("a", 2), Remembered("a", 3), Elsewhere("x")])

    assert first.result() == [Remembered("a", 1), Remembered("a", 2)]
    assert second.result() == [Elsewhere("x")]
    assert third.result() == [Remembered("a", 3)]


async def test_wait_for_several_classes_gives_the_first_of_any_of_them() -> None:
    bus = MockEventBus()

    await bus.publish_many([Elsewhere("x"), Remembered("a")])

    assert await bus.wait_for(Elsewhere, Remembered, count=2) == [Elsewhere("x"), Remembered("a")]


async def test_wait_for_in_vain_says_what_was_published_instead() -> None:
    bus = MockEventBus()
    await bus.publish_many([Remembered("a", 1), Elsewhere("x" * 1000)])

    with pytest.raises(AssertionError) as raised:
        await bus.wait_for(RememberedMore, count=2, timeout_s=0.001)
    with pytest.raises(AssertionError, match=r"1 Remembered with where= expected within 0\.001 s, 0 published"):
        await bus.wait_for(Remembered, where=lambda event: event.number == 2, timeout_s=0.001)

    lines = str(raised.value).splitlines()
    assert lines[0] == "2 RememberedMore expected within 0.001 s, 0 published; all that was published:"
    assert lines[1] == "  1. Remembered(key='a', number=1)"
    assert lines[2].startswith("  2. Elsewhere(text='xxx")
    assert len(lines[2]) < 200


async def test_wait_for_in_vain_lists_the_last_events_only_or_says_that_there_were_none() -> None:
    bus = MockEventBus()

    with pytest.raises(AssertionError, match="nothing was published"):
        await bus.wait_for(Remembered, timeout_s=0.001)
    await bus.publish_many([Elsewhere(str(number)) for number in range(25)])
    with pytest.raises(AssertionError, match=r"the last 10 of 25 events:\n  16\. Elsewhere\(text='15'\)"):
        await bus.wait_for(Remembered, timeout_s=0.001)


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    bus = MockEventBus()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await bus.wait_for(Remembered)
    await bus.publish(Remembered("a"))

    assert await bus.wait_for(Remembered) == [Remembered("a")]


@pytest.mark.parametrize("wrong", [int, "remembered", 3, None, Remembered("a")])
async def test_what_is_no_event_class_is_refused(wrong: type[Event]) -> None:
    bus = MockEventBus()

    with pytest.raises(NotAnEventError):
        bus.published_events(wrong)
    with pytest.raises(NotAnEventError):
        bus.published_envelopes(wrong)
    with pytest.raises(NotAnEventError):
        await bus.wait_for(wrong)


async def test_numbers_outside_their_range_are_refused() -> None:
    bus = MockEventBus()

    with pytest.raises(InvalidArgumentError, match="count"):
        await bus.wait_for(Remembered, count=0)
    with pytest.raises(InvalidArgumentError, match="timeout_s"):
        await bus.wait_for(Remembered, timeout_s=0)
