"""Events look like CloudEvents on Kafka, and those of others are understood in either mode."""

import json

import pytest

from avx_events.bus.remote.ports import Outgoing
from avx_events.core import cloudevents
from avx_events.distributed.kafka.messages import headers_of, incoming_of
from avx_events.distributed.kafka.requests import Record


def record(value: bytes | None, headers: dict[str, bytes | None] | None = None) -> Record:
    return Record(7, 0, b"key", value, list((headers or {}).items()))


BINARY: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"/others",
    "ce_type": b"other.happened",
    "ce_subject": b"order-42",
    "ce_revision": b"2",
    "content-type": b"application/json",
}


def test_an_event_says_beside_itself_what_it_is() -> None:
    headers = dict(headers_of(Outgoing("order.placed", "orders.eu", "42", b"{}", "1")))

    assert headers == {
        "content-type": b"application/cloudevents+json; charset=UTF-8",
        "avx_type": b"order.placed",
        "avx_topic": b"orders.eu",
    }


def test_a_topic_that_is_the_type_is_not_said_twice() -> None:
    assert "avx_topic" not in dict(headers_of(Outgoing("order.placed", "order.placed", "42", b"{}", "1")))


def test_what_stands_beside_an_event_comes_back() -> None:
    headers = dict(headers_of(Outgoing("order.placed", "orders.eu", "42", b"{}", "1")))

    incoming = incoming_of(None, None, record(b"{}", headers))

    assert (incoming.event_type, incoming.topic, incoming.document) == ("order.placed", "orders.eu", b"{}")


def test_an_event_in_binary_mode_is_one_in_structured_mode() -> None:
    incoming = incoming_of(None, None, record(b'{"total": 3}', BINARY))
    envelope = cloudevents.decode(incoming.document, keep_unknown=True)

    assert json.loads(incoming.document)["data"] == {"total": 3}
    assert (envelope.metadata.event_type, envelope.metadata.aggregate_id) == ("other.happened", "order-42")


def test_an_event_in_binary_mode_may_have_no_data() -> None:
    incoming = incoming_of(None, None, record(None, BINARY))

    assert cloudevents.decode(incoming.document, keep_unknown=True).metadata.event_id == "1"


@pytest.mark.parametrize("value", [b"\xff\x00", b"{", b"no json"])
def test_data_that_is_no_json_is_kept(value: bytes) -> None:
    document = json.loads(incoming_of(None, None, record(value, BINARY)).document)

    assert "data_base64" in document


@pytest.mark.parametrize("value", [None, b"", b"\xff"])
def test_anything_at_all_comes_in(value: bytes | None) -> None:
    incoming = incoming_of(None, None, record(value, {"avx_type": b"\xff", "none": None}))

    assert incoming.document == (value or b"")
