"""The CloudEvents form case by case; the round trip and the fuzzing are in tests/property/test_codec.py."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from avx_events.core.clock import SystemClock
from avx_events.core.cloudevents import MAX_EVENT_BYTES, decode, encode, encode_binary, structured
from avx_events.core.errors import (
    DecodeError,
    EncodeError,
    EventTooLargeError,
    InvalidArgumentError,
    NotAnEventError,
    UnknownEventTypeError,
)
from avx_events.core.event import Event, UnknownEvent
from avx_events.core.metadata import NO_HEADERS, EventEnvelope, EventMetadata, Headers


class Placed(Event, event_type="ce.placed", aggregate_id="order_id"):
    """An event with a key."""

    order_id: str
    total: float = 0.0


class Ticked(Event, event_type="ce.ticked"):
    """An event without data."""


class Grown(Event, event_type="ce.grown", revision=2):
    """An event with an older revision."""

    name: str


@Grown.upcast(from_revision=1)
def _name(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": data["title"]}


class Renamed(Event, event_type="ce.renamed", formerly=("ce.named",), revision=2):
    """An event that had another name."""

    name: str


@Renamed.upcast(from_revision=1)
def _title(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": data["title"]}


class StoppedClock(SystemClock):
    """A clock that stands at 2026-11-24T00:00:00.000007Z."""

    time_ns = staticmethod(lambda: 1_795_478_400_000_007_999)


def envelope_of(event: Any = None, *, topic: str | None = None, **metadata: Any) -> EventEnvelope[Any]:
    event = Placed("o-1", 2.5) if event is None else event
    described: dict[str, Any] = {
        "event_id": "id-1",
        "event_type": event.event_type,
        "aggregate_id": "",
        "timestamp": 1_795_478_400_000_000,
        "correlation_id": "chain-1",
        **metadata,
    }
    return EventEnvelope(event, EventMetadata(**described), topic or event.event_type)


def written(envelope: EventEnvelope[Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = json.loads(encode(envelope, source="/shop"))
    return attributes


def document_of(**attributes: Any) -> bytes:
    required = {"specversion": "1.0", "id": "id-1", "source": "/shop", "type": "ce.ticked"}
    return json.dumps({**required, **attributes}).encode()


def test_every_attribute_is_where_the_specification_wants_it() -> None:
    envelope = envelope_of(
        aggregate_id="o-1",
        causation_id="cause-1",
        user_id="u-1",
        topic="orders.eu",
        headers=Headers({"traceparent": "00-a-b-01", "tracestate": "x=1", "tenant": "t"}),
    )

    assert written(envelope) == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "/shop",
        "type": "ce.placed",
        "time": "2026-11-24T00:00:00.000000Z",
        "datacontenttype": "application/json",
        "correlationid": "chain-1",
        "causationid": "cause-1",
        "subject": "o-1",
        "partitionkey": "o-1",
        "authid": "u-1",
        "authtype": "app_user",
        "topic": "orders.eu",
        "traceparent": "00-a-b-01",
        "tracestate": "x=1",
        "tenant": "t",
        "data": {"order_id": "o-1", "total": 2.5},
    }


def test_what_is_not_there_is_left_out() -> None:
    assert set(written(envelope_of(Ticked()))) == {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "datacontenttype",
        "correlationid",
        "data",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-Id", "1"),
        ("id", "1"),
        ("data", "1"),
        ("dataschema", "1"),
        ("avxheaders", "{}"),
        ("authtype", "user"),
        ("partitionkey", "p"),
        ("a" * 21, "1"),
        ("tenant", ""),
        ("tenant", "a\x00b\x7f"),
        ("ключ", "значение"),
    ],
)
def test_headers_that_cannot_be_an_attribute_travel_in_one_of_their_own(name: str, value: str) -> None:
    envelope = envelope_of(headers=Headers({name: value, "plain": "1"}))

    attributes = written(envelope)

    assert json.loads(attributes["avxheaders"]) == {name: value}
    assert attributes["plain"] == "1"
    assert "\x7f" not in attributes["avxheaders"]
    assert decode(encode(envelope, source="/shop")) == envelope


@pytest.mark.parametrize("timestamp", [0, 1, 999_999, -1, 253_402_300_799_999_999, -62_135_596_800_000_000])
def test_times_keep_their_microsecond_from_the_first_year_to_the_last(timestamp: int) -> None:
    envelope = envelope_of(timestamp=timestamp)

    assert decode(encode(envelope, source="/shop")) == envelope


def test_the_revision_travels_and_older_data_is_brought_up() -> None:
    assert written(envelope_of(Grown("n")))["revision"] == 2
    assert decode(document_of(type="ce.grown", revision=1, data={"title": "n"})).event == Grown("n")
    assert decode(document_of(type="ce.grown", data={"title": "n"})).event == Grown("n")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [({}, "ce.renamed"), ({"topic": "ce.named"}, "ce.renamed"), ({"topic": "orders.eu"}, "orders.eu")],
)
def test_a_former_type_is_read_as_the_current_one_and_so_is_the_topic_that_says_no_more(
    topic: dict[str, str], expected: str
) -> None:
    envelope = decode(document_of(type="ce.named", data={"title": "n"}, **topic))

    assert envelope.event == Renamed("n")
    assert (envelope.metadata.event_type, envelope.topic) == ("ce.renamed", expected)
    assert decode(encode(envelope, source="/shop")) == envelope


def test_a_former_type_is_read_from_binary_form_too() -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "ce.named", "revision": "1"}
    document = structured([(name, text.encode()) for name, text in attributes.items()], b'{"title":"n"}')

    envelope = decode(document)

    assert (envelope.event, envelope.metadata.event_type) == (Renamed("n"), "ce.renamed")


@pytest.mark.parametrize(
    ("envelope", "problem"),
    [
        (envelope_of(event_id=""), "event id is empty"),
        (envelope_of(timestamp=253_402_300_800_000_000), "date value out of range"),
        (envelope_of(timestamp=2**80), "OverflowError|range|large"),
        (envelope_of(timestamp="soon"), "unsupported operand"),
        (envelope_of(event_type="ce.other"), r"the event is 'ce\.placed'"),
        (envelope_of(topic="a b"), "white space"),
        (envelope_of(topic="a.*"), "wildcard"),
        (envelope_of(aggregate_id="\ud800"), "lone surrogate"),
        (envelope_of(correlation_id=object()), "object"),
        (envelope_of(headers={"": "1"}), "name is empty"),
        (envelope_of(headers={"a": "\ud800"}), "lone surrogate"),
        (envelope_of(headers={"a": 1}), "expected string"),
        (envelope_of(Placed("o-1", float("nan"))), "total is nan"),
        (envelope_of(UnknownEvent("ce.unknown", {"a": float("nan")})), "a is nan"),
        (envelope_of(UnknownEvent("ce.unknown", {}, 2**31)), "32 bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_not_read_back_is_refused(envelope: EventEnvelope[Any], problem: str) -> None:
    with pytest.raises(EncodeError, match=problem):
        encode(envelope, source="/shop")


@pytest.mark.parametrize("source", ["", None, b"/shop"])
def test_a_document_needs_a_source(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="source"):
        encode(envelope_of(), source=source)


def test_what_is_no_event_is_refused_as_such() -> None:
    with pytest.raises(NotAnEventError):
        encode(EventEnvelope(object(), envelope_of().metadata, "a"), source="/shop")


def test_a_document_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    envelope = envelope_of(Placed("x" * 1_000))
    document = encode(envelope, source="/shop")
    size = len(document)

    assert decode(encode(envelope, source="/shop", max_bytes=size), max_bytes=size) == envelope
    with pytest.raises(EventTooLargeError, match=r"ce\.placed") as caught:
        encode(envelope, source="/shop", max_bytes=size - 1)
    assert (caught.value.size_bytes, caught.value.max_bytes) == (size, size - 1)
    with pytest.raises(EventTooLargeError):
        decode(document, max_bytes=size - 1)


def test_ten_megabytes_are_refused_both_ways_by_default() -> None:
    with pytest.raises(EventTooLargeError, match=f"{MAX_EVENT_BYTES:,}"):
        encode(envelope_of(Placed("x" * 10_000_000)), source="/shop")
    with pytest.raises(EventTooLargeError, match=f"{MAX_EVENT_BYTES:,}"):
        decode(b"x" * 10_000_000)


def test_a_document_with_nothing_but_what_is_required_is_read() -> None:
    envelope = decode(document_of(), clock=StoppedClock())

    assert envelope == EventEnvelope(
        Ticked(), EventMetadata("id-1", "ce.ticked", "", 1_795_478_400_000_007, "id-1"), "ce.ticked"
    )
    assert envelope.metadata.headers is NO_HEADERS


def test_null_attributes_are_missing_ones() -> None:
    names = ["subject", "time", "datacontenttype", "dataschema", "data", "data_base64", "correlationid", "causationid"]
    names += ["authid", "authtype", "partitionkey", "revision", "topic", "avxheaders", "traceparent", "whatever"]

    nothing = decode(document_of(**dict.fromkeys(names)), clock=StoppedClock())

    assert nothing == decode(document_of(), clock=StoppedClock())


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        ("2026-11-24T10:00:00+05:30", datetime(2026, 11, 24, 4, 30, tzinfo=UTC)),
        ("2026-11-24T10:00:00.1-01:00", datetime(2026, 11, 24, 11, 0, 0, 100_000, tzinfo=UTC)),
        ("2026-11-24T10:00:00.123456789Z", datetime(2026, 11, 24, 10, 0, 0, 123_457, tzinfo=UTC)),
        ("1969-07-20T20:17:40Z", datetime(1969, 7, 20, 20, 17, 40, tzinfo=UTC)),
    ],
)
def test_times_of_others_are_read(time: str, expected: datetime) -> None:
    assert decode(document_of(time=time)).metadata.time == expected


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/vnd.shop.order+json", "Application/JSON; charset=utf-8", "text/json"],
)
def test_any_json_content_type_is_read(content_type: str) -> None:
    document = document_of(type="ce.placed", datacontenttype=content_type, data={"order_id": "1", "extra": None})

    assert decode(document).event == Placed("1")


def test_data_in_base64_is_read() -> None:
    data = base64.b64encode(b'{"order_id": "1"}').decode()

    assert decode(document_of(type="ce.placed", data_base64=data)).event == Placed("1")


def test_unknown_attributes_become_headers_as_text() -> None:
    document = document_of(
        tenant="t", sampled=True, dropped=False, sequence=-7, comexampleextensionlongerthan20="x", nothing=None
    )

    assert decode(document).metadata.headers == {
        "tenant": "t",
        "sampled": "true",
        "dropped": "false",
        "sequence": "-7",
        "comexampleextensionlongerthan20": "x",
    }


def test_what_an_envelope_has_no_place_for_survives_as_a_header() -> None:
    foreign = document_of(
        time="2026-11-24T00:00:00Z",
        subject="s",
        partitionkey="p",
        authid="a",
        authtype="service_account",
        dataschema="https://example.com/schema",
    )

    envelope = decode(foreign)

    assert envelope.metadata.aggregate_id == "s"
    assert envelope.metadata.user_id == "a"
    assert envelope.metadata.headers == {
        "partitionkey": "p",
        "authtype": "service_account",
        "dataschema": "https://example.com/schema",
    }
    assert decode(encode(envelope, source="/relay")) == envelope


def test_the_partition_key_is_the_aggregate_id_where_there_is_no_subject() -> None:
    assert decode(document_of(partitionkey="p")).metadata.aggregate_id == "p"


def test_an_unknown_type_is_an_error_that_names_it_or_is_kept_and_relayed() -> None:
    document = document_of(type="com.example.thing", time="2026-11-24T00:00:00Z", revision=4, data={"a": [1]})

    with pytest.raises(UnknownEventTypeError, match=r"com\.example\.thing"):
        decode(document)
    kept = decode(document, keep_unknown=True)

    assert kept.event == UnknownEvent("com.example.thing", {"a": [1]}, 4)
    assert decode(encode(kept, source="/relay"), keep_unknown=True) == kept


def replaced(old: bytes, new: bytes) -> bytes:
    document = document_of()
    assert old in document
    return document.replace(old, new)


REFUSED: list[tuple[bytes, str]] = [
    (b"", "truncated"),
    (b"not json", "malformed"),
    (b"\xff\xfe\x00", "malformed"),
    (b"null", "object"),
    (b"[]", "object"),
    (b"3", "object"),
    (b"{}", "required field `specversion`"),
    (document_of() + b"{}", "trailing"),
    (document_of(id=None), "id"),
    (document_of(id=""), "must not be empty"),
    (document_of(id=7), "id"),
    (document_of(source=""), "must not be empty"),
    (document_of(source=None), "source"),
    (document_of(type=""), "must not be empty"),
    (document_of(type=None), "type"),
    (document_of(type=["a"]), "type"),
    (document_of(type="a b"), "white space"),
    (document_of(type="a..b"), "empty segment"),
    (replaced(b'"id": "id-1", ', b""), "required field `id`"),
    (replaced(b'"source": "/shop", ', b""), "required field `source`"),
    (replaced(b', "type": "ce.ticked"', b""), "required field `type`"),
    (document_of(specversion="0.3"), "specversion"),
    (document_of(specversion="2.0"), "specversion"),
    (document_of(specversion=1.0), "specversion"),
    (document_of(specversion=None), "specversion"),
    (document_of(time="yesterday"), "time does not fit: Invalid RFC3339"),
    (document_of(time="2026-11-24T10:00:00"), "timezone"),
    (document_of(time="2026-13-24T10:00:00Z"), "RFC3339"),
    (document_of(time="0001-01-01T00:00:00+05:30"), "years 1 to 9999"),
    (document_of(time="9999-12-31T23:59:59-00:01"), "years 1 to 9999"),
    (document_of(time=1_795_478_400), "time"),
    (document_of(subject=7), "subject"),
    (document_of(revision=0), "revision"),
    (document_of(revision="2"), "revision"),
    (document_of(revision=2**31), "revision"),
    (document_of(revision=2), "newer"),
    (document_of(topic="a.*"), "wildcard"),
    (document_of(topic=""), "empty"),
    (document_of(ID="x"), "'ID'"),
    (document_of(traceParent="x"), "'traceParent'"),
    (document_of(**{"a-b": "x"}), "'a-b'"),
    (document_of(**{"": "x"}), "''"),
    (document_of(ratio=0.5), "float"),
    (document_of(nested={"a": 1}), "object"),
    (document_of(listed=[1]), "array"),
    (document_of(big=2**64), "big does not fit: expected `int` <="),
    (document_of(big=10**400), "big does not fit"),
    (replaced(b'"id": "id-1"', b'"id": "id-1", "big": ' + b"1" * 50_000), "range"),
    (document_of(traceparent=7), "traceparent"),
    (document_of(avxheaders="{"), "truncated"),
    (document_of(avxheaders="[]"), "avxheaders does not fit: Expected `object`"),
    (document_of(avxheaders='{"a": 1}'), "str"),
    (document_of(avxheaders='{"": "a"}'), "length"),
    (document_of(avxheaders={"a": "b"}), "avxheaders"),
    (document_of(datacontenttype="text/plain", data="x"), "text/plain"),
    (document_of(datacontenttype="application/jsonp", data={}), "jsonp"),
    (document_of(datacontenttype=7), "datacontenttype"),
    (document_of(data="text"), "object"),
    (document_of(data=[1]), "object"),
    (document_of(data_base64="!"), "base64"),
    (document_of(data_base64=base64.b64encode(b"\xff").decode()), "malformed"),
    (document_of(data={}, data_base64="e30="), "both"),
    (document_of(type="ce.placed"), "order_id"),
    (document_of(type="ce.placed", data={"order_id": 7}), "order_id"),
    (replaced(b'"id": "id-1"', b'"id": "id-1", "id": "id-2"'), "twice"),
    (replaced(b'"id": "id-1"', b'"id": "id-1", "\\u0069d": "id-1"'), "twice"),
    (replaced(b'"id": "id-1"', b'"id": "id-1", "x": "1", "x": "2"'), "twice"),
    (replaced(b'"id-1"', b'"\\ud800"'), "malformed|truncated"),
    (replaced(b'"id-1"', b'"\xed\xa0\x80"'), "utf-8"),
    (replaced(b'"id-1"', b'"a\x00b"'), "malformed"),
    (replaced(b'"id-1"', b"NaN"), "malformed"),
    (b'{"a": ' * 2_000, "nested too deeply"),
    (replaced(b'"id": "id-1"', b'"id": "id-1", "x": ' + b"[" * 50_000 + b"]" * 50_000), "nested too deeply"),
    (document_of() + b"\x00", "trailing"),
    (b"\xef\xbb\xbf" + document_of(), "malformed"),
]


@pytest.mark.parametrize(("document", "problem"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_hostile_documents_are_refused_with_what_is_wrong(document: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=f"(?i){problem}") as caught:
        decode(document)

    assert len(str(caught.value)) < 1_000


def test_hostile_names_and_values_are_not_repeated_at_length() -> None:
    for attributes in ({"X" * 100_000: "1"}, {"datacontenttype": "x" * 100_000}, {"topic": "*" * 100_000}):
        with pytest.raises(DecodeError) as caught:
            decode(document_of(**attributes))
        assert len(str(caught.value)) < 1_000


REQUIRED: list[tuple[str, bytes]] = [
    ("specversion", b"1.0"),
    ("id", b"id-1"),
    ("source", b"/shop"),
    ("type", b"ce.ticked"),
]


def test_binary_form_has_the_attributes_of_the_document_beside_its_data() -> None:
    envelope = envelope_of(
        Grown("Jane"), aggregate_id="g-1", topic="a.b", user_id="jane", headers=Headers({"trace": "1", "X": "y"})
    )

    attributes, data = encode_binary(envelope, source="/shop")

    document = written(envelope)
    assert json.loads(data) == document.pop("data")
    assert attributes == {name: str(value) for name, value in document.items()}


def test_the_binary_form_of_an_event_is_read_as_its_document_is() -> None:
    envelope = envelope_of(Grown("Jane"), aggregate_id="g-1", headers=Headers({"trace": "1", "X": "\x00"}))

    attributes, data = encode_binary(envelope, source="/shop")

    assert decode(structured([(name, text.encode()) for name, text in attributes.items()], data)) == envelope


def test_binary_form_needs_a_source() -> None:
    with pytest.raises(InvalidArgumentError, match="source"):
        encode_binary(envelope_of(), source="")


def test_what_would_not_read_back_from_binary_form_is_refused() -> None:
    with pytest.raises(EncodeError, match="surrogate"):
        encode_binary(envelope_of(headers=Headers({"a": "\ud800"})), source="/shop")


def test_binary_form_of_the_limit_can_be_read_and_one_byte_more_is_refused() -> None:
    attributes, data = encode_binary(envelope_of(), source="/shop")
    document = structured([(name, text.encode()) for name, text in attributes.items()], data)

    assert encode_binary(envelope_of(), source="/shop", max_bytes=len(document)) == (attributes, data)
    with pytest.raises(EventTooLargeError, match=f"{len(document):,} bytes"):
        encode_binary(envelope_of(), source="/shop", max_bytes=len(document) - 1)


def test_binary_form_may_have_no_data() -> None:
    assert decode(structured(REQUIRED, b"")).event == Ticked()


HOSTILE: list[tuple[list[tuple[str, bytes]], bytes, str]] = [
    ([], b"{}", "required field"),
    ([*REQUIRED, ("id", b"id-2")], b"{}", "twice"),
    ([*REQUIRED, ("data", b"{}")], b"{}", "twice"),
    ([*REQUIRED, ("data", b"{}")], b"", "twice"),
    ([*REQUIRED, ("data_base64", b"e30=")], b"", "twice"),
    ([*REQUIRED, ("", b"")], b"{}", "''"),
    ([*REQUIRED, ("A", b"")], b"{}", "'A'"),
    ([*REQUIRED, ("\u00e9", b"")], b"{}", "a-z"),
    ([*REQUIRED, ("\udc80", b"")], b"{}", "a-z"),
    ([*REQUIRED, ("subject", b"\xff")], b"{}", "utf-8"),
    ([*REQUIRED, ("subject", b'","id":"2\xff')], b"{}", "utf-8|twice|malformed"),
    ([*REQUIRED, ("revision", b"2")], b"{}", "newer"),
    ([*REQUIRED, ("revision", b"007")], b"{}", "malformed"),
    ([*REQUIRED, ("revision", b"-1")], b"{}", "revision"),
    ([*REQUIRED, ("revision", b"9" * 5_000)], b"{}", "range|revision|int"),
    ([*REQUIRED, ("datacontenttype", b"text/plain")], b"{}", "text/plain"),
    (REQUIRED, b'{},"id":"id-2"', "malformed"),
    (REQUIRED, b"{}}", "malformed"),
    (REQUIRED, b"\xff", "malformed"),
    (REQUIRED, b"[" * 50_000, "object"),
    (REQUIRED, b"[]", "object"),
]


@pytest.mark.parametrize(("attributes", "data", "problem"), HOSTILE)
def test_hostile_binary_form_is_refused_as_a_document_would_be(
    attributes: list[tuple[str, bytes]], data: bytes, problem: str
) -> None:
    with pytest.raises(DecodeError, match=f"(?i){problem}"):
        decode(structured(attributes, data))
