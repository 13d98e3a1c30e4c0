"""What a transport promises of the two modes of CloudEvents: an event arrives as it was sent, in either."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

from typing import Any, Final

import pytest

from avx_events.core.errors import EventTooLargeError, InvalidArgumentError
from avx_events.core.metadata import EventEnvelope, context
from avx_events.testing.bus_contract import BusContract, Collected, Other, Sent, new_namespace
from avx_events.testing.own_loop import on_its_own_loop
from avx_events.testing.renamed import NEW_TYPE, guest_arrived, guest_came
from avx_events.testing.transport_contract import PAYLOADS

_HEADERS: Final = {"trace": "1", "Case-Kept": " a b ", "percent": "100%25", "unicode": "日本語 🎉", "quotes": '"\\"'}
_LIMIT: Final = 1000
_MODES: Final = ("structured", "binary")


class ContentModeContract(BusContract):
    """Publishers of both modes share a log; ``connect`` is given ``content_mode``, as ``EventBus.connect`` has it."""

    @pytest.mark.parametrize("payload", PAYLOADS)
    @on_its_own_loop
    async def test_every_payload_arrives_in_binary_mode_as_it_was_sent(self, payload: str) -> None:
        async with await self.bus(content_mode="binary") as bus:
            subscriber = await bus.subscribe(type(PAYLOADS[payload]))

            metadata = await bus.publish(PAYLOADS[payload])

            assert await subscriber.recv_envelope() == EventEnvelope(PAYLOADS[payload], metadata, metadata.event_type)

    @on_its_own_loop
    async def test_headers_and_context_arrive_in_binary_mode_as_they_were_sent(self) -> None:
        async with await self.bus(content_mode="binary") as bus:
            subscriber = await bus.subscribe(Sent)

            with context(correlation_id="chain é", user_id="jane\r\nX: 1", causation_id='"cause"'):
                metadata = await bus.publish(Sent(" key\n☃%41 "), headers=_HEADERS)
            envelope = await subscriber.recv_envelope()

            assert envelope is not None
            assert envelope.metadata == metadata
            assert dict(envelope.metadata.headers) == _HEADERS
            assert envelope.metadata.aggregate_id == " key\n☃%41 "

    @on_its_own_loop
    async def test_events_of_both_modes_come_in_order_to_those_who_want_them(self) -> None:
        namespace = new_namespace()
        received: Collected[int] = Collected()
        async with (
            await self.connect(namespace, content_mode="structured") as structured,
            await self.connect(namespace, content_mode="binary") as binary,
        ):
            subscriber = await structured.subscribe(Sent)
            for number in range(0, 100, 2):
                await binary.publish_many([Other(number), Sent("a", number)])
                await structured.publish_many([Other(number), Sent("a", number + 1)])
            async for event in subscriber:
                received.add(event.number)
                if len(received) == 100:
                    break

        assert received.values == list(range(100))

    @pytest.mark.parametrize("mode", _MODES)
    @on_its_own_loop
    async def test_an_event_of_an_old_name_and_revision_is_one_of_its_class_today(self, mode: str) -> None:
        namespace = new_namespace()
        old, new = guest_came(), guest_arrived()
        async with await self.connect(namespace, content_mode=mode) as bus:
            subscriber = await bus.subscribe(new)
            await bus.publish_many([Other(1), old("7", "Ada Lovelace"), new("8", "Alan", "Turing")])
            envelopes = [await subscriber.recv_envelope() for _ in range(2)]

        assert [envelope and envelope.event for envelope in envelopes] == [
            new("7", "Ada", "Lovelace"),
            new("8", "Alan", "Turing"),
        ]
        assert [envelope and envelope.metadata.event_type for envelope in envelopes] == [NEW_TYPE, NEW_TYPE]
        assert [envelope and envelope.topic for envelope in envelopes] == [NEW_TYPE, NEW_TYPE]

    @pytest.mark.parametrize("mode", _MODES)
    @on_its_own_loop
    async def test_the_largest_event_arrives_in_either_mode_and_a_larger_one_is_refused(self, mode: str) -> None:
        async with await self.bus(content_mode=mode, max_event_bytes=_LIMIT) as bus:
            subscriber = await bus.subscribe(Sent)
            with pytest.raises(EventTooLargeError) as refused:
                await bus.publish(Sent("k" * _LIMIT))
            without_key = refused.value.size_bytes - 3 * _LIMIT  # it stands in the data, subject and partition key
            longest = (_LIMIT - without_key) // 3

            largest = Sent("k" * longest)
            await bus.publish(largest)

            assert await subscriber.recv() == largest
            with pytest.raises(EventTooLargeError):
                await bus.publish(Sent("k" * (longest + 1)))

    @pytest.mark.parametrize("mode", ["Binary", "batch", "", None, 1])
    @on_its_own_loop
    async def test_another_mode_is_refused(self, mode: Any) -> None:
        with pytest.raises(InvalidArgumentError, match="content_mode"):
            await self.bus(content_mode=mode)
