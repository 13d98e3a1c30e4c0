"""Envelopes as CloudEvents 1.0, in structured JSON form or in binary form, written so that they read back as they were.

| attribute | what it carries |
|---|---|
| ``id`` · ``type`` · ``time`` | event id · event type · timestamp, RFC 3339 in UTC with six digits of a second |
| ``source`` | who publishes, as given to ``encode``; an envelope does not keep it |
| ``subject``, ``partitionkey`` | aggregate id; both left out where it is empty |
| ``correlationid`` · ``causationid`` | always there · left out for the first of a chain |
| ``authid`` with ``authtype`` ``app_user`` | user id, left out where there is none |
| ``revision`` | revision of the data, left out where it is 1 |
| ``topic`` | left out where it is the event type |
| any other | one header each, ``traceparent`` and ``tracestate`` among them |
| ``avxheaders`` | the headers that cannot be an attribute, as the text of a JSON object |

A header is an attribute of its own where its name is 1 to 20 of ``a-z0-9`` and none of the above, and its text is
neither empty nor has control characters.

Documents of others are read too. Where ``time`` is missing it is the time of reading, where ``correlationid`` is
missing the event is the first of its chain, where ``subject`` is missing ``partitionkey`` is the aggregate id, and no
data is an empty object. An attribute that is null is a missing one. Times are rounded to the microsecond. What has no
place in an envelope becomes a header: unknown attributes (true, false and integers as text), ``dataschema``, a
``partitionkey`` that is not the subject, an ``authtype`` that is not ours.

An attribute that is there twice is refused, since a broker may have routed by the other one. Inside the data, names are
the business of its class: the last of two equal ones counts.

In binary form the same attributes travel beside the data, each as text; how, the binding of a protocol says.

Source:
    CloudEvents 1.0.2, specification and JSON event format; its extensions authcontext, correlation and partitioning.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.codec import decode_data, encode_data, encode_fields, reason_of
from avx_events.core.errors import (
    DecodeError,
    EncodeError,
    EventTooLargeError,
    InvalidArgumentError,
    NotAnEventError,
)
from avx_events.core.event import EventSchema, UnknownEvent, class_for, current_type, schema_of
from avx_events.core.metadata import EPOCH, NO_HEADERS, EventEnvelope, EventMetadata, Headers
from avx_events.core.topic import check_topic

ValueT = TypeVar("ValueT")

_Described: TypeAlias = EventSchema | UnknownEvent
"""What tells type and revision of an event."""

CONTENT_TYPE: Final = "application/cloudevents+json"
STRUCTURED_CONTENT: Final = "application/cloudevents"
"""What the content type of a structured document begins with, in any format."""

DATA_CONTENT_TYPE: Final = "datacontenttype"
MAX_EVENT_BYTES: Final = 1_048_576
HEADERS_ATTRIBUTE: Final = "avxheaders"

# What msgspec, the time arithmetic and the checks here raise; InvalidTopicError is a ValueError.
_MISFITS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

_AUTH_TYPE: Final = "app_user"
_GREATEST_REVISION: Final = 2**31 - 1  # an Integer of CloudEvents has 32 bits
_UNREAD: Final = "CloudEvents document"

_ATTRIBUTE_NAME: Final = re.compile(r"[a-z0-9]+")
_HEADER_AS_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,20}")
_PORTABLE_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_CONTROL_THAT_JSON_ALLOWS: Final = re.compile(r"[\x7f-\x9f]")
_JSON_CONTENT: Final = re.compile(r"(?:application|text)/(?:[^\s;/]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)

_MICROSECOND: Final = timedelta(microseconds=1)
_EARLIEST: Final = -62_135_596_800_000_000  # the first microsecond of year 1
_LATEST: Final = 253_402_300_799_999_999  # the last one of year 9999


class _Written(msgspec.Struct, gc=False, omit_defaults=True):
    """What we write, without headers and data."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    correlationid: str
    causationid: str | None = None
    subject: str = ""
    partitionkey: str = ""
    authid: str | None = None
    authtype: str | None = None
    revision: int = 1
    topic: str | None = None


class _Read(msgspec.Struct, gc=False, omit_defaults=True):
    """What we understand of a document; the rest are headers.

    Written again it takes no more bytes than it took in the document, field by field; see ``_has_more``.
    """

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    time: str | None = None
    datacontenttype: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    subject: str | None = None
    partitionkey: str | None = None
    authid: str | None = None
    authtype: str | None = None
    revision: Annotated[int, msgspec.Meta(ge=1, le=_GREATEST_REVISION)] | None = None
    topic: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    avxheaders: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: bytes | None = None


class _Name:
    """An attribute's name that equals no other, so that a name given twice is seen twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_UNDERSTOOD: Final = frozenset(_Read.__struct_fields__)
_TRACE: Final = ("traceparent", "tracestate")
_NO_HEADER_NAMES: Final = (_UNDERSTOOD | {"dataschema"}) - {*_TRACE}
_NO_ATTRIBUTES: Final = {"data", "data_base64"}
_DATA_NAME: Final = b'"data":'

# What stands around the values of a document that we write.
_BEGIN: Final = b'{"specversion":"1.0","id":'
_AFTER_TIME: Final = b'","datacontenttype":"application/json","correlationid":'
_BEFORE_CAUSATION: Final = b',"causationid":'
_BEFORE_SUBJECT: Final = b',"subject":'
_BEFORE_KEY: Final = b',"partitionkey":'
_BEFORE_USER: Final = b',"authid":'
_BEFORE_AUTH_TYPE: Final = b',"authtype":'
_BEFORE_REVISION: Final = b',"revision":'
_BEFORE_TOPIC: Final = b',"topic":'
_BEFORE_DATA: Final = b"," + _DATA_NAME
_END: Final = b"}"

_write = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_read_understood = msgspec.json.Decoder(_Read).decode
_read_attributes = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=lambda _, text: _Name(text)).decode
_read_time: Callable[[bytes], datetime] = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)]).decode
# Wider than the 32 bits of the specification, and never longer than Python is willing to print.
_Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_read_extension = msgspec.json.Decoder(str | bool | _Integer | None).decode
_read_header_object = msgspec.json.Decoder(dict[Annotated[str, msgspec.Meta(min_length=1)], str]).decode


def encode(envelope: EventEnvelope[Any], *, source: str, max_bytes: int = MAX_EVENT_BYTES) -> bytes:
    """Return ``envelope`` as a document that ``decode`` reads back as an equal one.

    Args:
        envelope: What to write; one that holds an ``UnknownEvent`` too.
        source: Who publishes: a URI reference, not empty, as ``"/billing"``.
        max_bytes: The largest document allowed.

    Raises:
        NotAnEventError: What it holds is no event.
        InvalidArgumentError: The source is empty or not text.
        EncodeError: A value does not fit, or JSON or CloudEvents cannot carry it: an empty event id, a time outside
            of the years 1 to 9999, a lone surrogate, and what ``encode_data`` refuses.
        EventTooLargeError: The document is larger than ``max_bytes``.
    """
    _check_source(source)
    described, data = _described_with_data(envelope.event)
    return _document(envelope, described, data, source, max_bytes)


def encode_stamped(envelope: EventEnvelope[Any], schema: EventSchema, *, source: str, max_bytes: int) -> bytes:
    """Return what ``encode`` does, where ``schema``, that of the event's class, is known and the source was checked.

    Raises:
        EncodeError: As for ``encode``.
        EventTooLargeError: The document is larger than ``max_bytes``.
    """
    return _document(envelope, schema, encode_fields(envelope.event, schema), source, max_bytes)


def decode(
    data: bytes, *, keep_unknown: bool = False, max_bytes: int = MAX_EVENT_BYTES, clock: Clock = SYSTEM_CLOCK
) -> EventEnvelope[Any]:
    """Return the envelope of a document, ours or another's.

    Args:
        data: The document, as bytes of UTF-8. They may come from anywhere: they raise nothing but what is below.
        keep_unknown: Give an ``UnknownEvent`` for a type that no class has, instead of an error.
        max_bytes: The largest document to look into.
        clock: Gives the time to events that have none.

    Raises:
        EventTooLargeError: The document is larger than ``max_bytes``.
        UnknownEventTypeError: No class has the type.
        DecodeError: It is no CloudEvents 1.0 document (not JSON, a required attribute missing, one of the wrong type, a
            malformed or repeated name), its data is not JSON or does not fit the class.
    """
    if len(data) > max_bytes:
        raise EventTooLargeError(_UNREAD, size_bytes=len(data), max_bytes=max_bytes)
    try:
        read = _read_understood(data)
    except _MISFITS as exc:
        raise DecodeError(_UNREAD, reason_of(exc)) from exc
    event_type = current_type(read.type)
    try:
        topic = _checked_topic(read, event_type)
        timestamp = clock.time_ns() // 1000 if read.time is None else _timestamp(read.time)
        headers = _headers(read, data)
        payload = _payload(read)
    except _MISFITS as exc:
        raise DecodeError(read.type or _UNREAD, reason_of(exc)) from exc
    event = decode_data(read.type, payload, revision=read.revision or 1, keep_unknown=keep_unknown)
    metadata = EventMetadata(
        read.id,
        event_type,
        _aggregate_id(read),
        timestamp,
        read.id if read.correlationid is None else read.correlationid,
        read.causationid,
        read.authid,
        headers,
    )
    return EventEnvelope(event, metadata, topic)


def encode_binary(
    envelope: EventEnvelope[Any], *, source: str, max_bytes: int = MAX_EVENT_BYTES
) -> tuple[dict[str, str], bytes]:
    """Return ``envelope`` in binary form: its attributes by name, each as text, and its data.

    Args:
        envelope: What to write; one that holds an ``UnknownEvent`` too.
        source: Who publishes, as for ``encode``.
        max_bytes: The largest document allowed, were it one: what one mode takes, the other takes, too.

    Raises:
        NotAnEventError: What it holds is no event.
        InvalidArgumentError: The source is empty or not text.
        EncodeError: As for ``encode``.
        EventTooLargeError: The document would be larger than ``max_bytes``.
    """
    _check_source(source)
    described, data = _described_with_data(envelope.event)
    metadata = envelope.metadata
    try:
        written = msgspec.to_builtins(_written(envelope, described, source))
        attributes = {name: str(value) for name, value in written.items()}
        attributes |= _header_attributes(metadata.headers)
        size = len(_write(attributes)) + len(b"," + _DATA_NAME) + len(data)
    except _MISFITS as exc:
        raise EncodeError(metadata.event_type, reason_of(exc)) from exc
    if size > max_bytes:
        raise EventTooLargeError(metadata.event_type, size_bytes=size, max_bytes=max_bytes)
    return attributes, data


def structured(attributes: Iterable[tuple[str, bytes]], data: bytes) -> bytes:
    """Return an event in binary form as the document that it is in structured form.

    Whatever comes, this raises nothing: what is no event gives what ``decode`` refuses.

    Args:
        attributes: Name and text of each, in UTF-8.
        data: JSON, or other bytes; empty is no data.
    """
    fields: list[bytes] = []
    for name, text in attributes:
        field = _write(name.encode("ascii", "replace").decode()) + b":" + _attribute_value(name, text)
        fields += [field, field] if name in _NO_ATTRIBUTES else [field]  # twice is what it must not be
    if data:
        fields.append(_data_field(data))
    return b"{" + b",".join(fields) + b"}"


def _attribute_value(name: str, text: bytes) -> bytes:
    if name == "revision" and text.isdigit():
        return text
    try:
        return _write(text.decode())
    except UnicodeDecodeError:
        return b'"' + text + b'"'  # which is no JSON either


def _data_field(data: bytes) -> bytes:
    try:
        _check_json(data)  # it has to stand alone: what follows a value in it would be attributes
    except _MISFITS:
        return b'"data_base64":"' + b64encode(data) + b'"'
    return _DATA_NAME + data


def _described_with_data(event: object) -> tuple[_Described, bytes]:
    if isinstance(event, UnknownEvent):
        return event, encode_data(event)
    if isinstance(event, type):
        raise NotAnEventError(event)
    schema = schema_of(event)
    return schema, encode_fields(event, schema)


def _check_source(source: object) -> None:
    if not (isinstance(source, str) and source):
        raise InvalidArgumentError("source", source, expected="text that names who publishes, as '/billing'")


# The hot path of buses that are connected: bench/redis_publish.py. Written out it takes half of what _Written does.
def _document(  # noqa: C901 - the hot path: no calls
    envelope: EventEnvelope[Any], described: _Described, data: bytes, source: str, max_bytes: int
) -> bytes:
    """Return what msgspec makes of ``_written``, with headers and data behind it."""
    metadata, topic, revision = envelope.metadata, envelope.topic, described.revision
    event_type, key, user_id = metadata.event_type, metadata.aggregate_id, metadata.user_id
    try:
        if event_type != described.event_type or not metadata.event_id or revision != 1:
            _check_type(metadata, described)
        event_id = correlation_id = _write(metadata.event_id)
        if metadata.correlation_id != metadata.event_id:
            correlation_id = _write(metadata.correlation_id)
        time = _time_text(metadata.timestamp)
        parts = [_BEGIN, event_id, _between_id_and_time(source, event_type), time, _AFTER_TIME, correlation_id]
        if metadata.causation_id is not None:
            parts += (_BEFORE_CAUSATION, _write(metadata.causation_id))
        if key:
            written = _write(key)
            parts += (_BEFORE_SUBJECT, written, _BEFORE_KEY, written)
        if user_id is not None:
            parts += (_BEFORE_USER, _write(user_id), _BEFORE_AUTH_TYPE, _write(_AUTH_TYPE))
        if revision != 1:
            parts += (_BEFORE_REVISION, _write(revision))
        if topic != event_type:
            parts += (_BEFORE_TOPIC, _write(check_topic(topic)))
        if metadata.headers:
            parts += (b",", _write(_header_attributes(metadata.headers))[1:-1])
    except _MISFITS as exc:
        raise EncodeError(event_type, reason_of(exc)) from exc
    parts += (_BEFORE_DATA, data, _END)
    document = b"".join(parts)
    if len(document) > max_bytes:
        raise EventTooLargeError(event_type, size_bytes=len(document), max_bytes=max_bytes)
    return document


@lru_cache(maxsize=1024)
def _between_id_and_time(source: str, event_type: str) -> bytes:
    return b',"source":' + _write(source) + b',"type":' + _write(event_type) + b',"time":"'


def _written(envelope: EventEnvelope[Any], described: _Described, source: str) -> _Written:
    metadata, topic = envelope.metadata, envelope.topic
    event_type, user_id = metadata.event_type, metadata.user_id
    _check_type(metadata, described)
    return _Written(
        "1.0",
        metadata.event_id,
        source,
        event_type,
        _time_text(metadata.timestamp).decode(),
        "application/json",
        metadata.correlation_id,
        metadata.causation_id,
        metadata.aggregate_id,
        metadata.aggregate_id,
        user_id,
        None if user_id is None else _AUTH_TYPE,
        described.revision,
        None if topic == event_type else check_topic(topic),
    )


def _check_type(metadata: EventMetadata, described: _Described) -> None:
    if metadata.event_type != described.event_type:
        problem = f"its metadata says so, but the event is {described.event_type!r}"
        raise ValueError(problem)
    if not metadata.event_id:
        problem = "its event id is empty"
        raise ValueError(problem)
    if described.revision > _GREATEST_REVISION:
        problem = f"revision {described.revision} is past 32 bits"
        raise ValueError(problem)


def _time_text(timestamp: int) -> bytes:
    return b"%b%06dZ" % (_second_text(timestamp // 1_000_000), timestamp % 1_000_000)


# Events come in order, many in one second: four times faster than formatting each.
@lru_cache(maxsize=64)
def _second_text(second: int) -> bytes:
    return (EPOCH + timedelta(seconds=second)).isoformat()[:19].encode() + b"."


def _header_attributes(headers: Mapping[str, str]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, text in headers.items():
        fits = _HEADER_AS_ATTRIBUTE.fullmatch(name) and _PORTABLE_TEXT.fullmatch(text) and name not in _NO_HEADER_NAMES
        (attributes if fits else others)[name] = text
    if "" in others:
        problem = "a header's name is empty"
        raise ValueError(problem)
    if others:
        text = _write(others).decode()
        attributes[HEADERS_ATTRIBUTE] = _CONTROL_THAT_JSON_ALLOWS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return attributes


def _checked_topic(read: _Read, event_type: str) -> str:
    if not (read.id and read.source and read.type):
        problem = "id, source and type must not be empty"
        raise ValueError(problem)
    topic = event_type if read.topic in (None, read.type) else read.topic
    return topic if class_for(topic) is not None else check_topic(topic)  # the type of a class is one


def _timestamp(text: str) -> int:
    timestamp = (_value_of("time", _read_time, _write(text)) - EPOCH) // _MICROSECOND
    if not _EARLIEST <= timestamp <= _LATEST:  # a date that is inside only by its own offset
        problem = f"time {text!r} is outside of the years 1 to 9999 in UTC"
        raise ValueError(problem)
    return timestamp


def _aggregate_id(read: _Read) -> str:
    return (read.partitionkey or "") if read.subject is None else read.subject


def _headers(read: _Read, data: bytes) -> Headers:
    found: dict[str, str] = {}
    if _has_more(read, data):
        _keep_extensions(found, data)
    if read.traceparent is not None:
        found["traceparent"] = read.traceparent
    if read.tracestate is not None:
        found["tracestate"] = read.tracestate
    if read.partitionkey is not None and read.partitionkey != _aggregate_id(read):
        found["partitionkey"] = read.partitionkey
    if read.authtype is not None and (read.authtype != _AUTH_TYPE or read.authid is None):
        found["authtype"] = read.authtype
    if read.avxheaders is not None:
        found |= _value_of(HEADERS_ATTRIBUTE, _read_header_object, read.avxheaders.encode())
    return Headers(found) if found else NO_HEADERS


def _has_more(read: _Read, data: bytes) -> bool:
    """Return whether the document may hold more than ``read``: white space, an unknown attribute, a repeated one."""
    return len(_write(read)) != len(data)


def _keep_extensions(found: dict[str, str], data: bytes) -> None:
    seen: set[str] = set()
    for name, raw in _read_attributes(data).items():
        if name.text in seen:
            problem = f"attribute {name.text[:40]!r} is there twice"
            raise ValueError(problem)
        seen.add(name.text)
        if name.text not in _UNDERSTOOD:
            _keep_extension(found, name.text, raw)


def _keep_extension(found: dict[str, str], name: str, raw: msgspec.Raw) -> None:
    if not _ATTRIBUTE_NAME.fullmatch(name):
        problem = f"attribute name {name[:40]!r} is not made of a-z and 0-9"
        raise ValueError(problem)
    value = _value_of(name, _read_extension, raw)
    if isinstance(value, bool):
        found[name] = "true" if value else "false"
    elif isinstance(value, int):
        found[name] = str(value)
    elif value is not None:
        found[name] = value


def _value_of(name: str, read: Callable[[Any], ValueT], raw: object) -> ValueT:
    try:
        return read(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        problem = f"{name[:40]} does not fit: {reason_of(exc)}"
        raise ValueError(problem) from exc


def _payload(read: _Read) -> bytes:
    content_type = read.datacontenttype
    if content_type not in (None, "application/json") and not _JSON_CONTENT.fullmatch(content_type):
        problem = f"datacontenttype {content_type[:80]!r} is not JSON"
        raise ValueError(problem)
    data = bytes(read.data)
    if read.data_base64 is not None:
        if data != b"null":
            problem = "it has both data and data_base64"
            raise ValueError(problem)
        data = read.data_base64
    return b"{}" if data == b"null" else data
