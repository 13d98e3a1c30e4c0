"""Events stand in a stream in either mode, and anything that others write comes in."""

import json

import pytest

from avx_events.bus.remote.ports import Outgoing
from avx_events.core import cloudevents
from avx_events.core.errors import DecodeError
from avx_events.distributed.redis.entries import fields_of, incoming_of

BINARY = [
    b"ce_specversion",
    b"1.0",
    b"ce_id",
    b"1",
    b"ce_source",
    b"/others",
    b"ce_type",
    b"other.happened",
    b"ce_topic",
    b"others.eu",
]


def test_an_event_says_beside_itself_what_it_is() -> None:
    assert fields_of(Outgoing("a", "a", "", b"{}", "1")) == [b"type", "a", b"event", b"{}"]
    assert fields_of(Outgoing("a", "b.c", "", b"{}", "1"))[4:] == [b"topic", "b.c"]


def test_an_event_in_binary_mode_has_a_field_for_each_attribute() -> None:
    fields = fields_of(Outgoing("a", "a", "", b"{}", "1", {"id": "1", "type": "a"}))

    assert fields == [b"data", b"{}", "ce_id", "1", "ce_type", "a"]


def test_an_event_in_binary_mode_is_one_in_structured_mode() -> None:
    incoming = incoming_of(None, 7, [*BINARY, b"data", b'{"total": 3}', b"other", b"ignored"])

    assert (incoming.receipt, incoming.event_type, incoming.topic) == (7, "other.happened", "others.eu")
    assert json.loads(incoming.document)["data"] == {"total": 3}
    assert cloudevents.decode(incoming.document, keep_unknown=True).topic == "others.eu"


def test_an_event_in_binary_mode_may_have_no_data() -> None:
    assert "data" not in json.loads(incoming_of(None, None, BINARY).document)


@pytest.mark.parametrize("field", [[b"ce_id", b"2"], [b"ce_\xff", b"x"], [b"ce_subject", b"\xff"], [b"data", b"{"]])
def test_an_event_in_binary_mode_that_is_none_is_refused(field: list[bytes]) -> None:
    incoming = incoming_of(None, None, [*BINARY, *field])

    with pytest.raises(DecodeError):
        cloudevents.decode(incoming.document, keep_unknown=True)


def test_an_entry_of_a_stranger_shows_all_of_it() -> None:
    incoming = incoming_of(None, None, [b"a", b"\xff", b"type", b"b"])

    assert (incoming.document, incoming.event_type, incoming.topic) == (b"a=\xff\ntype=b", None, None)
