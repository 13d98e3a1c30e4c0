"""Pull subscribers: what recv, recv_many and the loops give, in which order, and until when."""

import asyncio
from dataclasses import dataclass

import pytest

from avx_events import Command, Event, EventEnvelope, Request, event
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import ClosedError, InvalidArgumentError, NotAnEventError


class Pulled(Event, aggregate_id="key"):
    key: str
    number: int = 0


class PulledMore(Pulled):
    more: str = ""


class Unrelated(Event):
    text: str = ""


@event("pull.plain", aggregate_id="key")
@dataclass(frozen=True)
class Plain:
    key: str


class Ask(Request[int]):
    pass


class Do(Command[int]):
    pass


async def test_every_subscriber_receives_every_event_of_its_type_in_publish_order() -> None:
    bus = EventBus()
    first, second = await bus.subscribe(Pulled), await bus.subscribe(Pulled)

    for number in range(3):
        await bus.publish(Pulled("a", number))
        await bus.publish(Unrelated("x"))

    assert [(await first.recv()), (await first.recv()), (await first.recv())] == [Pulled("a", n) for n in range(3)]
    assert await second.recv_many() == [Pulled("a", n) for n in range(3)]


async def test_a_base_class_is_a_subscription_to_the_whole_family() -> None:
    bus = EventBus()
    family, everything = await bus.subscribe(Pulled), await bus.subscribe(Event)

    await bus.publish_many([PulledMore("a", 1, "m"), Unrelated("x"), Pulled("b", 2)])

    assert await family.recv_many() == [PulledMore("a", 1, "m"), Pulled("b", 2)]
    assert await everything.recv_many() == [PulledMore("a", 1, "m"), Unrelated("x"), Pulled("b", 2)]


async def test_several_types_come_in_publish_order_and_each_event_once() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Unrelated, PulledMore, Pulled)

    await bus.publish(PulledMore("a", 1))
    await bus.publish(Unrelated("x"))

    assert await subscriber.recv_many() == [PulledMore("a", 1), Unrelated("x")]


async def test_a_decorated_dataclass_is_published_by_its_class() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Plain)

    metadata = await bus.publish(Plain("k"))

    assert await subscriber.recv() == Plain("k")
    assert (metadata.event_type, metadata.aggregate_id) == ("pull.plain", "k")


async def test_recv_waits_for_an_event_and_gives_none_once_the_bus_is_closed_and_drained() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscriber.recv())
        await asyncio.sleep(0)
        await bus.publish(Pulled("a"))
    await bus.publish(Pulled("b"))
    await bus.close()

    assert waiting.result() == Pulled("a")
    assert await subscriber.recv() == Pulled("b")
    assert await subscriber.recv() is None
    assert await subscriber.recv_many() == []
    assert [event async for event in subscriber] == []


async def test_a_loop_ends_when_the_bus_closes_while_it_waits() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)
    seen: list[Pulled] = []

    async def read() -> None:
        seen.extend([received async for received in subscriber])

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await asyncio.sleep(0)
        await bus.publish(Pulled("a"))
        await bus.close()

    assert seen == [Pulled("a")]


async def test_envelopes_carry_the_metadata_that_publish_returned() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)

    metadata = await bus.publish(Pulled("a"), headers={"trace": "1"})
    await bus.close()
    envelopes = [envelope async for envelope in subscriber.envelopes()]

    assert envelopes == [EventEnvelope(Pulled("a"), metadata, "pulled")]
    assert metadata.headers == {"trace": "1"}
    assert metadata.correlation_id == metadata.event_id
    assert metadata.causation_id is None


async def test_publishing_an_envelope_keeps_its_metadata() -> None:
    source, target = EventBus(), EventBus()
    first, second = await source.subscribe(Pulled), await target.subscribe(Pulled)
    await source.publish(Pulled("a"))
    envelope = await first.recv_envelope()
    assert envelope is not None

    await target.publish(envelope)
    await target.publish_many([envelope, Pulled("b")])

    assert await second.recv_envelope() is envelope
    assert await second.recv_many() == [Pulled("a"), Pulled("b")]


async def test_publish_many_stamps_each_event_as_publish_does() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Event)

    stamped = await bus.publish_many([Pulled("a"), Pulled("b"), Unrelated()], headers={"h": "1"})

    assert [metadata.aggregate_id for metadata in stamped] == ["a", "b", ""]
    assert sorted({metadata.event_id for metadata in stamped}) == [metadata.event_id for metadata in stamped]
    assert all(metadata.headers == {"h": "1"} for metadata in stamped)
    assert all(metadata.correlation_id == metadata.event_id for metadata in stamped)
    assert len(await subscriber.recv_many()) == 3
    assert await bus.publish_many([]) == []


async def test_two_readers_share_the_events_of_one_subscriber() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)
    seen: list[int] = []

    async def read() -> None:
        async for received in subscriber:
            seen.append(received.number)
            await asyncio.sleep(0)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        tasks.create_task(read())
        for number in range(100):
            await bus.publish(Pulled("a", number))
        await bus.close()

    assert sorted(seen) == list(range(100))


async def test_a_cancelled_reader_takes_no_event_even_if_it_was_chosen() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)
    async with asyncio.timeout(5):
        first = asyncio.ensure_future(subscriber.recv())  # noqa: TID251 - a reader of the test's own, to be cancelled
        second = asyncio.ensure_future(subscriber.recv())  # noqa: TID251 - as above
        await asyncio.sleep(0)

        await bus.publish(Pulled("a"))
        first.cancel()

        assert await second == Pulled("a")
    assert first.cancelled()


async def test_a_closed_subscriber_gets_nothing_more_and_keeps_what_it_has() -> None:
    bus = EventBus()
    async with await bus.subscribe(Pulled) as subscriber:
        await bus.publish(Pulled("a"))
    await bus.publish(Pulled("b"))
    await subscriber.close()

    assert await subscriber.recv_many() == [Pulled("a")]
    assert await subscriber.recv() is None
    assert bus.statistics().subscriptions == {}
    assert bus.statistics().delivered == 1


@pytest.mark.parametrize("wrong", [Pulled, 3, "text", None, Ask(), Do(), Ask, object()])
async def test_what_is_no_event_cannot_be_published(wrong: object) -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Event)

    with pytest.raises(NotAnEventError):
        await bus.publish(wrong)
    with pytest.raises(NotAnEventError):
        bus.publish_nowait(wrong)
    with pytest.raises(NotAnEventError):
        await bus.publish_many([Pulled("a"), wrong])
    with pytest.raises(NotAnEventError):
        bus.publish_threadsafe(wrong)

    assert subscriber.statistics().queued == 0


@pytest.mark.parametrize("wrong", [int, 3, "user.created", Ask, Do, Pulled("a")])
async def test_what_is_no_event_class_cannot_be_subscribed_to(wrong: type) -> None:
    bus = EventBus()

    with pytest.raises(NotAnEventError):
        await bus.subscribe(wrong)
    with pytest.raises(NotAnEventError):
        bus.on(wrong)
    with pytest.raises(InvalidArgumentError, match="at least one"):
        await bus.subscribe()


@pytest.mark.parametrize("wrong", [3, Pulled("a"), None])
async def test_publish_many_wants_several_events(wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match="several events"):
        await EventBus().publish_many(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_limits_outside_their_range_are_refused() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Pulled)

    with pytest.raises(InvalidArgumentError, match="limit"):
        await subscriber.recv_many(0)
    with pytest.raises(InvalidArgumentError, match="capacity"):
        await bus.subscribe(Pulled, capacity=0)
    with pytest.raises(InvalidArgumentError, match="overflow"):
        await bus.subscribe(Pulled, overflow="block")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgumentError, match="retry"):
        await bus.subscribe(Pulled, retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgumentError, match="headers"):
        await bus.publish(Pulled("a"), headers={"": "x"})


async def test_a_closed_bus_refuses_everything_and_closes_twice() -> None:
    bus = EventBus()
    await bus.close()
    await bus.close()

    with pytest.raises(ClosedError):
        await bus.publish(Pulled("a"))
    with pytest.raises(ClosedError):
        await bus.publish_many([Pulled("a")])
    with pytest.raises(ClosedError):
        bus.publish_nowait(Pulled("a"))
    with pytest.raises(ClosedError):
        await bus.subscribe(Pulled)
    with pytest.raises(ClosedError):
        await bus.start()


async def test_a_subscriber_without_a_name_gets_one_that_is_free() -> None:
    bus = EventBus()
    await bus.subscribe(Pulled, name="subscriber-1")

    names = {(await bus.subscribe(Pulled)).name, (await bus.subscribe(Pulled)).name}

    assert len(names) == 2
    assert "subscriber-1" not in names


async def test_the_base_of_all_events_is_decorated_classes_too() -> None:
    bus = EventBus()
    subscriber = await bus.subscribe(Event)

    await bus.publish(Plain("k"))
    await bus.publish(Pulled("a"))

    assert await subscriber.recv_many() == [Plain("k"), Pulled("a")]
