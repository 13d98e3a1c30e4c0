"""What every transport promises, as a pytest class that anybody can run on a transport of their own."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

import asyncio
import threading
from typing import Any, Final

import msgspec
import pytest

from avx_events.bus.event_bus import EventBus
from avx_events.bus.subscriber import Subscriber
from avx_events.core.errors import ClosedError, InvalidArgumentError, NotAnEventError, NotStartedError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, context
from avx_events.testing.bus_contract import (
    AT_ONCE,
    BusContract,
    Collected,
    Other,
    Plain,
    Sent,
    SentOn,
    numbers_by_key,
)
from avx_events.testing.own_loop import interrupted, on_its_own_loop


class Parcel(Event, event_type="avx.contract.parcel", aggregate_id="text"):
    """A field of each kind."""

    text: str = ""
    blob: bytes = b""
    whole: int = 0
    ratio: float = 0.0
    maybe: str | None = None
    numbers: tuple[int, ...] = ()
    names: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class Nothing(Event, event_type="avx.contract.nothing"):
    """No field at all."""


PAYLOADS: Final[dict[str, Event]] = {
    "no fields": Nothing(),
    "all defaults": Parcel(),
    "unicode": Parcel("naïve 日本語 🎉 e\u0301 \u202e \ufeff"),
    "control characters": Parcel("\x00\x01\x1f\x7f\x85\u2028 \r\n\t"),
    "quotes": Parcel("'\"\\/{}[]<>&"),
    "bytes": Parcel(blob=bytes(range(256))),
    "least integer": Parcel(whole=-(2**63)),
    "greatest integer": Parcel(whole=2**63 - 1),
    "past a double": Parcel(whole=2**53 + 1),
    "unsigned": Parcel(whole=2**64 - 1),
    "fraction": Parcel(ratio=0.1),
    "great and small": Parcel(ratio=1.7976931348623157e308, numbers=(-1, 0, 1), names={"": "5e-324"}),
    "containers": Parcel(maybe="", numbers=tuple(range(1000)), names={"ключ": "значение", "a.b": "c", " ": "\x00"}),
    "near the size limit": Parcel("big", maybe="x" * 1_000_000),
}


class TransportContract(BusContract):
    """What publishers, subscribers and handlers can rely on, on every transport; see ``BusContract`` for its use."""

    # What arrives

    @pytest.mark.parametrize("payload", PAYLOADS)
    @on_its_own_loop
    async def test_every_payload_arrives_as_it_was_sent(self, payload: str) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(type(PAYLOADS[payload]))

            metadata = await bus.publish(PAYLOADS[payload])

            assert await subscriber.recv_envelope() == EventEnvelope(PAYLOADS[payload], metadata, metadata.event_type)

    @on_its_own_loop
    async def test_headers_and_context_arrive_as_they_were_sent(self) -> None:
        headers = {"trace": "1", "Case-Kept": " a b ", "unicode": "日本語 🎉", "empty": "", "long": "x" * 2000}
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)

            with context(correlation_id="chain-1", user_id="jane", causation_id="cause-1"):
                metadata = await bus.publish(Sent("a"), headers=headers)
            envelope = await subscriber.recv_envelope()

            assert envelope is not None
            assert envelope.metadata == metadata
            assert dict(envelope.metadata.headers) == headers
            assert (metadata.correlation_id, metadata.user_id, metadata.causation_id) == ("chain-1", "jane", "cause-1")

    @on_its_own_loop
    async def test_an_envelope_that_is_published_again_keeps_its_metadata(self) -> None:
        # On another bus: a broker may drop what it has already.
        async with await self.bus() as first, await self.bus() as other:
            subscriber, other_subscriber = await first.subscribe(Sent), await other.subscribe(Sent)
            await first.publish(Sent("a", 1), headers={"trace": "1"})
            envelope = await subscriber.recv_envelope()
            assert envelope is not None

            assert await other.publish(envelope) == envelope.metadata

            assert await other_subscriber.recv_envelope() == envelope

    @on_its_own_loop
    async def test_a_subscriber_receives_the_events_of_its_classes_and_what_derives_from_them_in_order(self) -> None:
        async with await self.bus() as bus:
            family = await bus.subscribe(Sent)
            chosen = await bus.subscribe(SentOn, Plain)

            await bus.publish_many([Sent("a", 1), Other(2), SentOn("a", 3), Plain("a"), Sent("a", 4)])

            assert [await family.recv() for _ in range(3)] == [Sent("a", 1), SentOn("a", 3), Sent("a", 4)]
            assert [await chosen.recv() for _ in range(2)] == [SentOn("a", 3), Plain("a")]

    @on_its_own_loop
    async def test_5000_events_of_50_publishers_reach_every_subscriber_once_and_in_order(self) -> None:
        async with await self.bus() as bus, asyncio.TaskGroup() as tasks:
            subscribers = [await bus.subscribe(Sent) for _ in range(3)]
            readers = [tasks.create_task(_read(subscriber, 5000)) for subscriber in subscribers]

            for publisher in range(50):
                tasks.create_task(_publish(bus, f"publisher-{publisher}", 100))

            for reader in readers:
                by_publisher = numbers_by_key(await reader)
                assert len(by_publisher) == 50
                assert all(numbers == list(range(100)) for numbers in by_publisher.values())

    @on_its_own_loop
    async def test_readers_of_one_subscriber_share_its_events(self) -> None:
        async with await self.bus() as bus, asyncio.TaskGroup() as tasks:
            subscriber = await bus.subscribe(Sent)
            readers = [tasks.create_task(_read(subscriber, 50)) for _ in range(4)]

            await bus.publish_many(Sent("a", number) for number in range(200))

            assert sorted([event.number for reader in readers for event in await reader]) == list(range(200))

    @on_its_own_loop
    async def test_publishing_one_by_one_in_batches_and_from_a_thread_arrives_in_the_order_of_the_calls(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)

            def publish_three() -> None:
                for number in range(4, 7):
                    bus.publish_threadsafe(Sent("a", number)).result()

            await bus.publish(Sent("a", 1))
            await bus.publish_many([Sent("a", 2), Sent("a", 3)])
            await asyncio.to_thread(publish_three)
            await bus.publish(Sent("a", 7))

            assert [event.number for event in await _read(subscriber, 7)] == list(range(1, 8))

    @on_its_own_loop
    async def test_recv_many_gives_what_is_there_and_never_more_than_its_limit(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)

            await bus.publish_many(Sent("a", number) for number in range(10))

            seen: list[int] = []
            while len(seen) < 10:
                batch = await subscriber.recv_many(4)
                assert 1 <= len(batch) <= 4
                seen += [event.number for event in batch]
            assert seen == list(range(10))

    @on_its_own_loop
    async def test_a_closed_subscriber_receives_nothing_more_and_the_others_do(self) -> None:
        async with await self.bus() as bus:
            closed, other = await bus.subscribe(Sent), await bus.subscribe(Sent)
            await bus.publish(Sent("a", 1))
            assert await closed.recv() == Sent("a", 1)

            await closed.close()
            await closed.close()
            await bus.publish(Sent("a", 2))

            assert [event.number for event in await _read(other, 2)] == [1, 2]
            assert await closed.recv() is None

    @on_its_own_loop
    async def test_what_is_no_event_is_refused_and_nothing_is_sent(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)

            for wrong in (Sent, "text", None, 3, object()):
                with pytest.raises(NotAnEventError):
                    await bus.publish(wrong)
                with pytest.raises(NotAnEventError):
                    await bus.publish_many([Sent("a", 1), wrong])
            wrong_headers: Any = {"a": 1}
            with pytest.raises(InvalidArgumentError):
                await bus.publish(Sent("a", 1), headers=wrong_headers)
            await bus.publish(Sent("a", 2))

            assert await subscriber.recv() == Sent("a", 2)

    # Handlers

    @on_its_own_loop
    async def test_every_handler_is_given_every_event_whatever_its_siblings_do(self) -> None:
        bus = await self.bus()
        seen: Collected[str] = Collected()

        @bus.on(Sent)
        async def takes_the_event(event: Sent) -> None:
            seen.add(f"event {event.number}")

        @bus.on(Sent)
        def runs_in_a_thread(event: Sent, envelope: EventEnvelope[Sent]) -> None:
            assert threading.current_thread() is not threading.main_thread()
            assert envelope.event == event
            bus_loop.call_soon_threadsafe(seen.add, f"thread {event.number}")

        @bus.on(Sent, retry=None)
        async def fails(event: Sent) -> None:
            seen.add(f"failure {event.number}")
            raise RuntimeError

        bus_loop = asyncio.get_running_loop()
        async with bus:
            await bus.publish_many([Sent("a", 1), Sent("a", 2)])

            assert sorted(await seen.have(6)) == sorted(
                f"{what} {number}" for what in ("event", "thread", "failure") for number in (1, 2)
            )

    @on_its_own_loop
    async def test_a_handler_that_fails_is_tried_again_and_then_goes_on(self) -> None:
        bus = await self.bus()
        attempts: Collected[int] = Collected()

        @bus.on(Sent, retry=AT_ONCE)
        async def fails_twice(event: Sent) -> None:
            attempts.add(event.number)
            if event.number == 1 and attempts.values.count(1) < 3:
                raise RuntimeError

        async with bus:
            await bus.publish_many([Sent("a", 1), Sent("a", 2)])

            assert await attempts.have(4) == [1, 1, 1, 2]

    @on_its_own_loop
    async def test_as_many_events_are_handled_at_once_as_concurrency_says(self) -> None:
        bus = await self.bus()
        all_in = asyncio.Barrier(8)
        seen: Collected[int] = Collected()
        running = most = 0

        @bus.on(Sent, concurrency=8)
        async def meets_seven_others(event: Sent) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await all_in.wait()
            running -= 1
            seen.add(event.number)

        async with bus:
            await bus.publish_many(Sent(f"key-{number}", number) for number in range(16))

            assert sorted(await seen.have(16)) == list(range(16))
            assert most == 8

    @on_its_own_loop
    async def test_what_a_handler_publishes_belongs_to_the_chain_of_its_event(self) -> None:
        bus = await self.bus()

        @bus.on(Sent)
        async def follow_up(event: Sent) -> None:
            await bus.publish(Other(event.number))

        async with bus:
            subscriber = await bus.subscribe(Other)
            with context(user_id="jane"):
                first = await bus.publish(Sent("a", 7))
            envelope = await subscriber.recv_envelope()

            assert envelope is not None
            assert envelope.event == Other(7)
            metadata = envelope.metadata
            assert (metadata.causation_id, metadata.correlation_id) == (first.event_id, first.correlation_id)
            assert metadata.user_id == "jane"

    @on_its_own_loop
    async def test_a_bus_with_handlers_that_was_not_started_refuses_events(self) -> None:
        bus = await self.bus()

        @bus.on(Sent)
        async def handler(event: Sent) -> None:
            del event

        with pytest.raises(NotStartedError):
            await bus.publish(Sent("a"))
        await bus.close()

    # Deliveries

    @on_its_own_loop
    async def test_a_failed_delivery_comes_again_and_the_loop_goes_on(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, retry=AT_ONCE)
            await bus.publish_many([Sent("a", 1), Sent("a", 2)])
            blocks: list[tuple[int, int]] = []

            async for delivery in subscriber.deliveries():
                async with delivery as event:
                    blocks.append((event.number, delivery.attempt))
                    if blocks == [(1, 1)]:
                        raise RuntimeError
                if blocks[-1][0] == 2:
                    break

            assert blocks == [(1, 1), (1, 2), (2, 1)]

    @on_its_own_loop
    async def test_a_delivery_that_is_not_settled_holds_back_its_key_and_no_other(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)
            await bus.publish_many([Sent("a", 1), Sent("a", 2), Sent("b", 3), Sent("a", 4)])
            deliveries = subscriber.deliveries()

            unsettled = await anext(deliveries)  # of either key: between keys there is no order
            other = await anext(deliveries)
            async with other, unsettled:
                pass
            rest: list[int] = []
            while len(rest) < 2:
                async with await anext(deliveries) as event:
                    rest.append(event.number)

            assert sorted([unsettled.event.number, other.event.number]) == [1, 3]
            assert rest == [2, 4]

    @pytest.mark.parametrize("after_turns", range(6))
    @on_its_own_loop
    async def test_a_delivery_block_that_is_cancelled_gives_its_event_back(self, after_turns: int) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, retry=None)
            handled: list[int] = []

            async def handle() -> None:
                async for delivery in subscriber.deliveries():
                    async with delivery as event:
                        await asyncio.sleep(0)
                        handled.append(event.number)
                    if len(handled) == 10:
                        return

            await bus.publish_many(Sent("a", number) for number in range(10))
            for _ in range(3):
                await interrupted(handle(), after_turns=after_turns)
            if len(handled) < 10:
                await handle()

            # What was handled and not acknowledged, as the cancellation came between, may come a second time.
            assert list(dict.fromkeys(handled)) == list(range(10))
            assert len(handled) <= 13

    # Cancellation

    @pytest.mark.parametrize("after_turns", range(6))
    @on_its_own_loop
    async def test_a_read_that_is_cancelled_takes_no_event(self, after_turns: int) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent)
            seen: list[Sent] = []

            async def read_one() -> list[Sent]:
                event = await subscriber.recv()
                return [] if event is None else [event]

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_publish(bus, "a", 100))
                for _ in range(20):
                    seen += await interrupted(read_one(), after_turns=after_turns) or []
                    seen += await interrupted(subscriber.recv_many(3), after_turns=after_turns) or []
            seen += await _read(subscriber, 100 - len(seen))

            assert [event.number for event in seen] == list(range(100))

    @pytest.mark.parametrize("after_turns", range(6))
    @on_its_own_loop
    async def test_a_publish_that_is_cancelled_is_whole_or_absent_and_the_next_one_works(
        self, after_turns: int
    ) -> None:
        async with await self.bus() as bus:
            first, second = await bus.subscribe(Sent), await bus.subscribe(Sent)

            for number in range(10):
                await interrupted(bus.publish(Sent("a", number)), after_turns=after_turns)
            await bus.publish(Sent("a", 10))

            seen = await _read_until(first, 10)
            assert seen == await _read_until(second, 10)
            assert seen == sorted(set(seen))

    # The end

    @on_its_own_loop
    async def test_readers_get_the_end_when_the_bus_is_closed(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            bus = await self.bus()
            subscriber = await bus.subscribe(Sent)
            async with bus:
                await bus.publish(Sent("a", 1))
                assert await subscriber.recv() == Sent("a", 1)
                waiting = tasks.create_task(subscriber.recv())
                await asyncio.sleep(0)

            assert await waiting is None
            assert await subscriber.recv() is None
            assert await subscriber.recv_many() == []
            assert [event async for event in subscriber] == []
            assert [envelope async for envelope in subscriber.envelopes()] == []
            assert [delivery async for delivery in subscriber.deliveries()] == []

    @on_its_own_loop
    async def test_closing_twice_or_by_many_at_once_is_harmless(self) -> None:
        bus = await self.bus()
        await bus.start()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(bus.close())
        await bus.close()

        with pytest.raises(ClosedError):
            await bus.publish(Sent("a"))

    @on_its_own_loop
    async def test_a_closed_bus_refuses_everything(self) -> None:
        bus = await self.bus()
        async with bus:
            await bus.publish(Sent("a"))

        with pytest.raises(ClosedError):
            await bus.publish(Sent("a"))
        with pytest.raises(ClosedError):
            await bus.publish_many([Sent("a")])
        with pytest.raises(ClosedError):
            await bus.subscribe(Sent)
        with pytest.raises(ClosedError):
            await bus.start()

    @on_its_own_loop
    async def test_a_bus_that_was_never_used_or_never_started_can_be_closed(self) -> None:
        unused, not_started = await self.bus(), await self.bus()
        subscriber = await not_started.subscribe(Sent)

        await unused.close()
        await not_started.close()

        assert await subscriber.recv() is None

    @on_its_own_loop
    async def test_every_publish_that_a_close_meets_is_accepted_or_refused(self) -> None:
        bus = await self.bus()
        accepted: Collected[Sent] = Collected()
        refused: list[Sent] = []

        async def publish_until_refused(publisher: str) -> None:
            for number in range(1_000_000):
                event = Sent(publisher, number)
                try:
                    await bus.publish(event)
                except ClosedError:
                    refused.append(event)
                    return
                accepted.add(event)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            subscriber = await bus.subscribe(Sent)
            await bus.start()
            reader = tasks.create_task(_read_all(subscriber))
            for number in range(10):
                tasks.create_task(publish_until_refused(f"publisher-{number}"))
            await accepted.have(200)
            await bus.close()

        assert len(refused) == 10
        seen = await reader
        assert set(seen) <= set(accepted.values) | set(refused)
        assert all(numbers == list(range(len(numbers))) for numbers in numbers_by_key(seen).values())


async def _publish(bus: EventBus, key: str, count: int) -> None:
    for number in range(count):
        await bus.publish(Sent(key, number))
        if number % 10 == 0:
            await asyncio.sleep(0)


async def _read(subscriber: Subscriber[Sent], count: int) -> list[Sent]:
    seen: list[Sent] = []
    while len(seen) < count:
        event = await subscriber.recv()
        assert event is not None, f"the end came after {len(seen)} events of {count}"
        seen.append(event)
    return seen


async def _read_until(subscriber: Subscriber[Sent], number: int) -> list[int]:
    seen: list[int] = []
    async for event in subscriber:
        seen.append(event.number)
        if event.number == number:
            break
    return seen


async def _read_all(subscriber: Subscriber[Sent]) -> list[Sent]:
    return [event async for event in subscriber]
