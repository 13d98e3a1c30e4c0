"""Which key and lane a record has, whoever asks, and what is kept of one that cannot be read."""

from typing import Any

import msgspec
import pytest

from avx_events import Event, EventEnvelope, EventStore
from avx_events.core import cloudevents
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import context, stamp
from avx_events.patterns.log_bus.records import document_of, key_of, lane_of
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import RecordTuple


class Keyed(Event, event_type="records.keyed", aggregate_id="key"):
    key: str


class Keyless(Event, event_type="records.keyless"):
    pass


async def record_of(message: object) -> RecordTuple:
    """Return what a store keeps of a message that is appended to stream ``s``."""
    engine = MemoryEngine(clock=SYSTEM_CLOCK)
    async with EventStore(engine) as store:
        await store.append("s", [message])
        return (await engine.read_all()).records[0]


@pytest.mark.parametrize("key", ["a", "order-42", "日本語 🎉", '"\\\x01', "x" * 500])
async def test_the_key_is_the_aggregate_id(key: str) -> None:
    plain = await record_of(Keyed(key))
    with context(correlation_id="c", user_id="u", causation_id="b"):
        rich = await record_of(stamp(Keyed(key), clock=SYSTEM_CLOCK, headers={"h": "1"}, topic="another"))

    assert key_of(plain) == key_of(rich) == key


async def test_the_key_is_the_stream_where_there_is_no_aggregate_id() -> None:
    assert key_of(await record_of(Keyless())) == "s"


@pytest.mark.parametrize("metadata", [b"", b"\xff", b"null", b"{}", b"[]", b"[0]", b'[0,7,"x"]'])
def test_the_key_of_what_is_damaged_is_its_stream(metadata: bytes) -> None:
    assert key_of((1, "s", 1, 0, "id", "records.keyed", metadata, b"{}")) == "s"


def test_the_lane_of_a_key_never_changes() -> None:
    # Positions are kept by lane: another function would skip some events and repeat others.
    assert [lane_of(key, 16) for key in ("a", "b", "order-42", "日本語")] == [3, 9, 14, 5]


async def test_what_cannot_be_read_is_kept_as_a_document_that_can_be_read_later() -> None:
    envelope = stamp(Keyed("a"), clock=SYSTEM_CLOCK, headers={"tenant": "é"})
    record = await record_of(envelope)
    of_another_class = (*record[:5], "records.later", *record[6:])

    document = document_of(of_another_class)

    class Later(Event, event_type="records.later", aggregate_id="key"):
        key: str

    found: EventEnvelope[Any] = cloudevents.decode(document, max_bytes=len(document))
    assert (found.event, found.topic) == (Later("a"), "records.later")
    assert found.metadata == msgspec.structs.replace(envelope.metadata, event_type="records.later")


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"null", b"[]"])
def test_of_what_is_no_object_the_data_is_kept(data: bytes) -> None:
    assert document_of((1, "s", 1, 0, "id", "records.keyed", b'[0,"a"]', data)) == data
