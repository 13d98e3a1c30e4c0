"""What is written reads back as it was, and no bytes from outside raise anything but three errors of ours."""

import base64
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avx_events.core import cloudevents
from avx_events.core.codec import decode_data, encode_data
from avx_events.core.errors import DecodeError, EncodeError, EventTooLargeError, UnknownEventTypeError
from avx_events.core.event import Event, UnknownEvent
from avx_events.core.metadata import EventEnvelope, EventMetadata, Headers

# Everything but lone surrogates, which UTF-8 cannot carry: control characters, astral planes, non-characters.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


class Colour(Enum):
    """A value among others."""

    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True):
    """A struct inside an event."""

    text: str
    number: int | None


class EverythingHappened(Event, aggregate_id="key"):
    """An event with a field of every kind."""

    key: str
    number: int
    share: float
    flag: bool
    colour: Colour
    ids: tuple[UUID, ...]
    price: Decimal
    at: datetime
    day: date
    pause: timedelta
    blob: bytes
    inner: list[Inner]
    anything: Any
    names: dict[str, int]
    maybe: str | None = None


everything = st.builds(
    EverythingHappened,
    key=text,
    number=integers,
    share=floats,
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    ids=st.lists(st.uuids(), max_size=2).map(tuple),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    pause=st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
    blob=st.binary(max_size=20),
    inner=st.lists(st.builds(Inner, text, st.none() | integers), max_size=2),
    anything=json_values,
    names=st.dictionaries(text, integers, max_size=3),
    maybe=st.none() | text,
)
segments = st.text(st.sampled_from("abc09-_é✓"), min_size=1, max_size=5)
topics = st.lists(segments, min_size=1, max_size=4).map(".".join)
unknown = st.builds(
    UnknownEvent,
    topics.map("unknown.".__add__),
    st.dictionaries(text, json_values, max_size=3),
    st.integers(1, 2**31 - 1),
)
attribute_names = (
    st.sampled_from(
        [
            "id",
            "source",
            "type",
            "specversion",
            "subject",
            "time",
            "datacontenttype",
            "dataschema",
            "data",
            "data_base64",
        ]
    )
    | st.sampled_from(
        ["correlationid", "causationid", "authid", "authtype", "partitionkey", "traceparent", "tracestate"]
    )
    | st.sampled_from(["revision", "topic", "avxheaders"])
)
header_names = attribute_names | st.from_regex(r"[a-z0-9]{1,25}", fullmatch=True) | text.filter(bool)
# 1970 to 9999, in Unix microseconds.
instants = st.integers(0, 253_402_300_799_999_999)


@st.composite
def envelopes(draw: st.DrawFn) -> EventEnvelope[Any]:
    event = draw(everything | unknown)
    metadata = EventMetadata(
        draw(text.filter(bool)),
        event.event_type,
        draw(text),
        draw(instants),
        draw(text),
        draw(st.none() | text),
        draw(st.none() | text),
        Headers(draw(st.dictionaries(header_names, text, max_size=4))),
    )
    return EventEnvelope(event, metadata, draw(st.just(event.event_type) | topics))


@given(everything)
def test_the_data_of_an_event_reads_back_as_it_was(event: EverythingHappened) -> None:
    assert decode_data(event.event_type, encode_data(event)) == event


@settings(max_examples=300)
@given(envelopes(), text.filter(bool))
def test_an_envelope_reads_back_from_cloudevents_as_it_was(envelope: EventEnvelope[Any], source: str) -> None:
    document = cloudevents.encode(envelope, source=source)

    assert cloudevents.decode(document, keep_unknown=True) == envelope


@settings(max_examples=300)
@given(envelopes(), text.filter(bool))
def test_an_envelope_reads_back_from_binary_form_as_it_was(envelope: EventEnvelope[Any], source: str) -> None:
    attributes, data = cloudevents.encode_binary(envelope, source=source)

    document = cloudevents.structured([(name, value.encode()) for name, value in attributes.items()], data)

    assert cloudevents.decode(document, keep_unknown=True) == envelope


@given(st.lists(st.tuples(attribute_names | text, st.binary(max_size=20)), max_size=8), st.binary(max_size=30))
def test_any_attributes_and_data_are_read_or_refused(attributes: list[tuple[str, bytes]], data: bytes) -> None:
    read_or_refuse(cloudevents.structured(attributes, data))


@given(envelopes())
def test_what_we_write_is_a_cloudevents_document_to_any_json_reader(envelope: EventEnvelope[Any]) -> None:
    attributes = json.loads(cloudevents.encode(envelope, source="/here"))

    assert attributes["specversion"] == "1.0"
    assert attributes["type"] == envelope.metadata.event_type
    assert datetime.fromisoformat(attributes["time"]) == envelope.metadata.time
    assert isinstance(attributes.pop("data"), dict)
    for name, value in attributes.items():
        assert 1 <= len(name) <= 20
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789")
        assert isinstance(value, str | int)
        assert value != "" or name in ("correlationid", "causationid", "authid")


@given(envelopes(), st.randoms(use_true_random=False))
def test_order_white_space_and_escapes_of_a_document_do_not_matter(envelope: EventEnvelope[Any], random: Any) -> None:
    attributes = list(json.loads(cloudevents.encode(envelope, source="/here")).items())
    random.shuffle(attributes)

    rewritten = json.dumps(dict(attributes), indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5)

    assert cloudevents.decode(rewritten.encode(), keep_unknown=True) == envelope


@given(envelopes())
def test_data_may_come_in_base64(envelope: EventEnvelope[Any]) -> None:
    attributes = json.loads(cloudevents.encode(envelope, source="/here"))
    attributes["data_base64"] = base64.b64encode(json.dumps(attributes.pop("data")).encode()).decode()

    assert cloudevents.decode(json.dumps(attributes).encode(), keep_unknown=True) == envelope


def read_or_refuse(document: bytes) -> None:
    """Read bytes from outside; what was accepted must be an envelope that we can write and read again."""
    try:
        envelope = cloudevents.decode(document, keep_unknown=True)
    except (DecodeError, UnknownEventTypeError, EventTooLargeError):
        return
    try:
        again = cloudevents.encode(envelope, source="/again")
    except EncodeError:  # kept data of an unknown type may have longer integers than we write
        return
    assert cloudevents.decode(again, keep_unknown=True) == envelope


@settings(max_examples=500)
@given(st.binary(max_size=200) | text.map(str.encode))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b"{}")
@example(b'"\\ud800"')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_read_or_refused(document: bytes) -> None:
    read_or_refuse(document)


@settings(max_examples=1_000)
@given(envelopes(), st.data())
def test_a_document_with_damaged_bytes_is_read_or_refused(envelope: EventEnvelope[Any], data: st.DataObject) -> None:
    document = bytearray(cloudevents.encode(envelope, source="/here"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(document)))
        until = data.draw(st.integers(at, min(at + 8, len(document))))
        document[at:until] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"\\u", b"null", b"NaN", b"{", b"1e9"])
        )

    read_or_refuse(bytes(document))


@settings(max_examples=1_000)
@given(envelopes(), st.data())
def test_a_document_with_other_attributes_is_read_or_refused(envelope: EventEnvelope[Any], data: st.DataObject) -> None:
    pairs = list(json.loads(cloudevents.encode(envelope, source="/here")).items())
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from([name for name, _ in pairs]) | header_names)
        value = data.draw(
            json_values | integers.map(lambda number: number * 2**64) | st.sampled_from(["1.0", "0.3", ""])
        )
        pairs.insert(data.draw(st.integers(0, len(pairs))), (name, value))
        if data.draw(st.booleans()):
            pairs = list(dict(pairs).items())
    document = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"

    read_or_refuse(document.encode())


@given(envelopes(), st.data())
def test_a_repeated_attribute_is_refused(envelope: EventEnvelope[Any], data: st.DataObject) -> None:
    pairs = list(json.loads(cloudevents.encode(envelope, source="/here")).items())
    pairs.insert(data.draw(st.integers(0, len(pairs))), data.draw(st.sampled_from(pairs)))
    document = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"

    with pytest.raises(DecodeError, match="twice"):
        cloudevents.decode(document.encode(), keep_unknown=True)


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=offsets),  # noqa: DTZ001 - bounds are naive
    st.sampled_from(["T", "t"]),
)
def test_times_of_any_offset_are_read_to_the_microsecond(at: datetime, separator: str) -> None:
    document = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "s", "type": "x.y", "time": at.isoformat().replace("T", separator)}
    )

    assert cloudevents.decode(document.encode(), keep_unknown=True).metadata.time == at
