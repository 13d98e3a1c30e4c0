"""Events and what is around them as documents that can be printed."""

from datetime import datetime
from typing import Any

import msgspec

from avx_events.apps.cli.output import Document
from avx_events.core.codec import encode_data
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.event import UnknownEvent
from avx_events.core.metadata import EventEnvelope
from avx_events.store.audited_event import plain
from avx_events.store.stored_event import StoredEvent


def document_of(envelope: EventEnvelope[Any]) -> Document:
    """Return everything that is known of an event; of a stored one, its place too."""
    metadata = envelope.metadata
    place: Document = {}
    if isinstance(envelope, StoredEvent):
        place = {
            "stream": envelope.stream,
            "version": envelope.version,
            "position": envelope.position,
            "recorded_at": envelope.recorded_at,
        }
    return place | {
        "event_type": metadata.event_type,
        "topic": envelope.topic,
        "event_id": metadata.event_id,
        "aggregate_id": metadata.aggregate_id,
        "time": metadata.time,
        "user_id": metadata.user_id,
        "correlation_id": metadata.correlation_id,
        "causation_id": metadata.causation_id,
        "headers": dict(metadata.headers),
        "data": data_of(envelope),
    }


def data_of(envelope: EventEnvelope[Any]) -> msgspec.Raw:
    """Return the fields of an event as JSON, also those that others wrote and we would not, as great integers."""
    event: object = envelope.event
    if isinstance(event, UnknownEvent):
        return msgspec.Raw(msgspec.json.encode(event.data))
    return msgspec.Raw(encode_data(event))


def line_of(envelope: EventEnvelope[Any]) -> str:
    """Return an event in one line: when, what, about what, its data."""
    metadata = envelope.metadata
    at = envelope.recorded_at if isinstance(envelope, StoredEvent) else metadata.time
    place = f"{envelope.position:<8}" if isinstance(envelope, StoredEvent) else ""
    topic = "" if envelope.topic == metadata.event_type else f" to {plain(envelope.topic)}"
    data = plain(bytes(data_of(envelope)).decode())
    return f"{at:%H:%M:%S.%f}"[:-3] + f"  {place}{plain(metadata.event_type)}{topic}  {data}"


def instant(name: str, text: str | None) -> datetime | None:
    """Return an instant that was given in ISO 8601, with a time zone; None for None.

    Raises:
        InvalidArgumentError: It is none.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidArgumentError(name, text, expected="an instant, as '2026-01-31T12:00:00Z'") from exc
    if found.tzinfo is None:
        raise InvalidArgumentError(name, text, expected="an instant with a time zone, as '2026-01-31T12:00:00Z'")
    return found
