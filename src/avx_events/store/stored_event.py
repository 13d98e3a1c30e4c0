"""Events on their way into an engine, and back as envelopes that know their place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeGuard, TypeVar

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.codec import decode_data, encode_data, encode_fields, reason_of
from avx_events.core.errors import (
    AvxEventsError,
    DecodeError,
    EncodeError,
    EventTooLargeError,
    InvalidArgumentError,
    NotAnEventError,
)
from avx_events.core.event import (
    ANSWERED_BY_ONE,
    Event,
    EventSchema,
    UnknownEvent,
    class_for,
    schema_of,
    text_of,
)
from avx_events.core.ids import IdBlock
from avx_events.core.metadata import (
    EPOCH,
    NO_HEADERS,
    EventEnvelope,
    EventMetadata,
    Headers,
    current_message,
    refuse_in_replay,
    stamp,
)
from avx_events.store.ports import NewRecordTuple, RecordTuple

EventT_co = TypeVar("EventT_co", covariant=True)
Unknown: TypeAlias = Literal["raise", "keep"]
"""What a read does with an event type that no class of this process has: an error, or an ``UnknownEvent``."""

LONGEST_STREAM_NAME: Final = 1024
"""Characters. Names are in an index; brokers' and databases' limits are of this order."""

_MICROSECOND: Final = timedelta(microseconds=1)

# The revision that a class reads as it is, how, and its event type today.
_Reader: TypeAlias = tuple[int, Callable[[bytes], Any], str]
_Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Metadata(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an engine keeps of the metadata beside the event's id and type, as a JSON array.

    What is at the end and has its default may be left out. New fields go to the end: what is stored already lacks
    them.

    Attributes:
        timestamp: When the event was made, in Unix microseconds.
        aggregate_id: Empty where it has none.
        revision: The revision of the data.
        correlation_id: None where it is the event's own id.
        causation_id: None for the first of a chain.
        user_id: On whose behalf, if known.
        headers: None where there are none.
        topic: None where it is the event type.
    """

    timestamp: _Integer
    aggregate_id: str
    revision: int = 1
    correlation_id: str | None = None
    causation_id: str | None = None
    user_id: str | None = None
    headers: dict[str, str] | None = None
    topic: str | None = None


_encode_metadata = msgspec.json.Encoder().encode
_decode_metadata = msgspec.json.Decoder(_Metadata).decode


class StoredEvent(EventEnvelope[EventT_co], frozen=True, gc=False):
    """An envelope that is in the store; it can be published as it is.

    What was recorded under a name that its class had formerly has the event type of today in its metadata, and as its
    topic where it was given no other: handlers, filters and topics then treat it as any other event of its class, and
    whoever publishes it again sends what those who have the class can read. The record itself keeps the old name.

    Attributes:
        stream: The stream it is in.
        version: Its place in the stream, from 1.
        position: Its place in the whole log, from 1. A failed append may leave a gap.
        recorded_us: When it was recorded, in Unix microseconds; the events of one append share it, those of a later
            one have a later one.
    """

    stream: str
    version: int
    position: int
    recorded_us: int

    @property
    def recorded_at(self) -> datetime:
        """``recorded_us`` as an aware UTC datetime."""
        return EPOCH + self.recorded_us * _MICROSECOND


def check_stream(stream: object, *, argument: str = "stream") -> str:
    """Return ``stream`` if it can name a stream.

    Args:
        stream: What was given.
        argument: As what it was given.

    Raises:
        InvalidArgumentError: It is not text, is empty, is longer than 1,024 characters, or has a NUL or a lone
            surrogate.
    """
    expected = "text of 1 to 1,024 characters, without NUL or lone surrogates"
    if not isinstance(stream, str) or not stream or len(stream) > LONGEST_STREAM_NAME or "\0" in stream:
        raise InvalidArgumentError(argument, stream, expected=expected)
    if not stream.isascii():
        try:
            stream.encode()
        except UnicodeEncodeError as exc:
            raise InvalidArgumentError(argument, stream, expected=expected) from exc
    return stream


def microseconds_of(instant: datetime) -> int:
    """Return an aware ``instant`` in Unix microseconds."""
    return (instant - EPOCH) // _MICROSECOND


class Recorder:
    """Makes records of what one store is to append, each event id new. For one thread."""

    __slots__ = ("_clock", "_ids", "_max_bytes", "_time_ns")

    def __init__(self, *, clock: Clock, max_bytes: int) -> None:
        """Take the time from ``clock``; refuse records whose data and metadata take more than ``max_bytes``."""
        self._clock = clock
        self._time_ns = clock.time_ns
        self._max_bytes = max_bytes
        self._ids = IdBlock()

    def record_of(self, message: object) -> NewRecordTuple:
        """Encode an event, stamped here, or an envelope, whose metadata stays.

        Raises:
            NotAnEventError: It is neither, or a request, command or query.
            EncodeError: A value does not fit its field's type, or JSON cannot carry it.
            EventTooLargeError: Its data and metadata take more than ``max_bytes``.
            ReplayedMessageError: A message of the past is being replayed.
        """
        if isinstance(message, Event):
            record = self._record_of_event(message)
        else:
            record = _record_of_envelope(self.envelope_of(message))
        size_bytes = len(record[2]) + len(record[3])
        if size_bytes > self._max_bytes:
            raise EventTooLargeError(record[1], size_bytes=size_bytes, max_bytes=self._max_bytes)
        return record

    def envelope_of(self, message: object) -> EventEnvelope[Any]:
        """Return an envelope as it is, and an event in a new one.

        Raises:
            NotAnEventError: It is neither, or a request, command or query.
            ReplayedMessageError: A message of the past is being replayed.
        """
        return _envelope_of(message, self._clock)

    def _record_of_event(self, message: Event) -> NewRecordTuple:
        # What stamp() and _record_of_envelope() would do, without the envelope in between and with few calls: a third
        # of what an append costs the loop (bench/store_append.py). That both give the same is tested.
        schema: EventSchema | None = type(message).__dict__.get("__avx_schema__")
        if schema is None:
            raise NotAnEventError(message)
        data = encode_fields(message, schema)
        event_type, key_of = schema.event_type, schema.key_of
        key: Any = "" if key_of is None else key_of(message)
        if type(key) is not str:
            key = text_of(key)
        ids, now_ns = self._ids, self._time_ns()
        event_id = (next(ids.unused, None) if now_ns < ids.until_ns else None) or ids.take(now_ns)
        outer = current_message.get()
        if outer is not None:
            fields = (now_ns // 1000, key, schema.revision, outer.correlation_id, outer.event_id, outer.user_id)
            return event_id, event_type, _packed(event_type, fields), data
        try:
            packed = _encode_metadata((now_ns // 1000, key, schema.revision))
        except UnicodeEncodeError as exc:  # of a method aggregate_id(); a field was looked at already
            raise EncodeError(event_type, f"metadata: {reason_of(exc)}") from exc
        return event_id, event_type, packed, data


def _record_of_envelope(envelope: EventEnvelope[Any]) -> NewRecordTuple:
    event, metadata = envelope.event, envelope.metadata
    data = encode_data(event)
    event_id, event_type = metadata.event_id, metadata.event_type
    described = event if isinstance(event, UnknownEvent) else schema_of(event)
    if described.event_type != event_type:
        problem = f"its metadata says so, but the event is {described.event_type!r}"
        raise EncodeError(event_type, problem)
    fields = (
        metadata.timestamp,
        metadata.aggregate_id,
        described.revision,
        None if metadata.correlation_id == event_id else metadata.correlation_id,
        metadata.causation_id,
        metadata.user_id,
        metadata.headers or None,
        None if envelope.topic == event_type else envelope.topic,
    )
    _check_text(event_type, event_id=event_id, event_type=event_type)
    return event_id, event_type, _packed(event_type, fields), data


def envelopes_of(records: Iterable[NewRecordTuple]) -> list[EventEnvelope[Any]]:
    """Return what was to be appended as ``records``, with the metadata it was given."""
    placed = [(0, "", 0, 0, *record) for record in records]
    return [
        EventEnvelope(stored.event, stored.metadata, stored.topic)
        for stored in stored_events(placed, keep_unknown=True)
    ]


def stored_events(records: Sequence[RecordTuple], *, keep_unknown: bool) -> Iterator[StoredEvent[Any]]:
    """Decode ``records`` one by one, so that those before a damaged one are given first.

    Args:
        records: One page of one engine.
        keep_unknown: Give an ``UnknownEvent`` for a type that no class has.

    Raises:
        UnknownEventTypeError: No class has the type of a record.
        DecodeError: A record does not fit its class.
    """
    readers: dict[str, _Reader] = {}
    for record in records:
        position, stream, version, recorded_us, event_id, recorded_type, packed, data = record
        reader = readers.get(recorded_type)
        try:
            kept = _decode_metadata(packed)
            if reader is None or reader[0] != kept.revision:
                event = decode_data(recorded_type, data, revision=kept.revision, keep_unknown=keep_unknown)
                event_type = _remember(readers, recorded_type)
            else:
                event = reader[1](data)
                event_type = reader[2]
        except MemoryError:
            raise
        except Exception as exc:  # what validators and upcasters raise cannot be listed
            raise _unreadable(record, exc) from exc
        headers = kept.headers
        metadata = EventMetadata(
            event_id,
            event_type,
            kept.aggregate_id,
            kept.timestamp,
            event_id if kept.correlation_id is None else kept.correlation_id,
            kept.causation_id,
            kept.user_id,
            NO_HEADERS if headers is None else Headers(headers),
        )
        topic = kept.topic
        if topic is None or topic == recorded_type:
            topic = event_type
        yield StoredEvent(event, metadata, topic, stream, version, position, recorded_us)


def has_correlation_id(correlation_id: str) -> Callable[[RecordTuple], bool]:
    """Return what tells whether a record is of ``correlation_id``, without a look at its data.

    It raises ``DecodeError`` where the metadata of a record that may be is damaged.

    Raises:
        InvalidArgumentError: It cannot be the id of anything.
    """
    try:
        written = _encode_metadata(correlation_id)
    except UnicodeEncodeError as exc:
        expected = "text without lone surrogates"
        raise InvalidArgumentError("correlation_id", correlation_id, expected=expected) from exc

    def is_of_it(record: RecordTuple) -> bool:
        is_its_own = record[4] == correlation_id
        if not is_its_own and written not in record[6]:  # which is said of most without decoding them
            return False
        try:
            kept = _decode_metadata(record[6]).correlation_id
        except msgspec.MsgspecError as exc:
            raise _unreadable(record, exc) from exc
        return kept == (None if is_its_own else correlation_id)

    return is_of_it


def revision_of(packed: bytes) -> int | None:
    """Return the revision that the metadata of a record says; None where it cannot be read."""
    try:
        return _decode_metadata(packed).revision
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _remember(readers: dict[str, _Reader], recorded_type: str) -> str:
    """Return the event type of today, and have the next record of this type read faster."""
    # decode_data looks the class up and checks the revision each time; within a page once is enough.
    message_class = class_for(recorded_type)
    if message_class is None:
        return recorded_type
    schema = schema_of(message_class)
    if schema.payload is not None:
        readers[recorded_type] = (schema.revision, schema.payload.decode, schema.event_type)
    return schema.event_type


def _unreadable(record: RecordTuple, exc: Exception) -> AvxEventsError:
    error = exc if isinstance(exc, AvxEventsError) else DecodeError(record[5], reason_of(exc))
    error.add_note(f"in stream {record[1]!r} at version {record[2]}, position {record[0]}")
    return error


def _envelope_of(message: object, clock: Clock) -> EventEnvelope[Any]:
    event = message
    if is_envelope(message):
        event = message.event
        if isinstance(event, UnknownEvent):  # an event may be moved by a process that has no class for it
            refuse_in_replay()
            return message
    if isinstance(event, ANSWERED_BY_ONE):
        raise NotAnEventError(event)
    return stamp(message, clock=clock)


def is_envelope(message: object) -> TypeGuard[EventEnvelope[Any]]:
    """Return whether ``message`` is an envelope, of whatever."""
    return isinstance(message, EventEnvelope)


def _packed(event_type: str, fields: tuple[object, ...]) -> bytes:
    try:
        packed = _encode_metadata(fields)
        _decode_metadata(packed)  # what others gave must read back, or the stream could not be read again
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise EncodeError(event_type, f"metadata: {reason_of(exc)}") from exc
    return packed


def _check_text(described_type: str, **texts: object) -> None:
    for name, value in texts.items():
        try:
            if isinstance(value, str) and value.encode() and "\0" not in value:
                continue
        except UnicodeEncodeError:
            pass
        said = name.replace("_", " ")
        raise EncodeError(described_type, f"the {said} must be text, not empty and without NUL, not {value!r}")
