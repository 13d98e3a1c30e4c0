"""What is shown of events and dead letters: masked, and cut where it is too much to read."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from avx_events.apps.console.masking import MASK, Masked, Masking
from avx_events.bus.dead_letters import DeadLetter
from avx_events.core.codec import encode_data
from avx_events.core.errors import AvxEventsError
from avx_events.core.event import UnknownEvent, class_for
from avx_events.core.metadata import EventEnvelope, EventMetadata

SHOWN_BYTES: Final = 65_536
"""So much of an event is shown in a page; the rest can be downloaded."""

PREVIEW_CHARACTERS: Final = 240

_encode: Final = msgspec.json.Encoder().encode


class ShownEvent(msgspec.Struct, frozen=True):
    """An event without what is personal.

    Attributes:
        metadata: Its metadata; the aggregate id is hidden where it is personal, too.
        topic: Where it was published.
        data: Its fields as JSON.
        masked: The same, and what was hidden.
    """

    metadata: EventMetadata
    topic: str
    data: bytes
    masked: Masked


def shown_event(envelope: EventEnvelope[Any], masking: Masking) -> ShownEvent:
    """Return what may be shown of ``envelope``."""
    event: object = envelope.event
    masked = masking.masked(fields_of(event), type(event))
    metadata = envelope.metadata
    if metadata.aggregate_id in masked.hidden:
        metadata = msgspec.structs.replace(metadata, aggregate_id=MASK)
    return ShownEvent(metadata, envelope.topic, _encode(masked.value), masked)


def fields_of(event: Any) -> Any:
    """Return the fields of an event as JSON has them."""
    if isinstance(event, UnknownEvent):
        return event.data
    try:
        return msgspec.json.decode(encode_data(event))
    except AvxEventsError as exc:  # of a bus in memory, which encodes nothing
        return {"not shown": str(exc)}


def size_of(event: Any) -> int:
    """Return how many bytes the fields of an event are as JSON; 0 where they cannot be written so."""
    try:
        return len(_encode(event.data) if isinstance(event, UnknownEvent) else encode_data(event))
    except (AvxEventsError, TypeError, ValueError):
        return 0


def data_view(data: bytes, *, download: str) -> Mapping[str, Any]:
    """Return the data of an event for a page: whole, or its beginning, its size and where the rest is.

    As text: scripts of browsers round large numbers.

    Args:
        data: As JSON.
        download: The path, below the console's own, where all of it is.
    """
    if len(data) <= SHOWN_BYTES:
        return {"text": msgspec.json.format(data).decode(), "size_bytes": len(data), "is_cut": False}
    beginning = data[:SHOWN_BYTES].decode("utf-8", "ignore")
    return {"text": beginning, "size_bytes": len(data), "is_cut": True, "download": download}


def metadata_view(shown: ShownEvent) -> Mapping[str, Any]:
    """Return the metadata of an event by name."""
    metadata = shown.metadata
    return {
        "event_id": metadata.event_id,
        "event_type": metadata.event_type,
        "topic": shown.topic,
        "aggregate_id": metadata.aggregate_id,
        "time": metadata.time,
        "user_id": metadata.user_id,
        "correlation_id": metadata.correlation_id,
        "causation_id": metadata.causation_id,
        "headers": dict(metadata.headers),
    }


def preview(data: bytes) -> str:
    """Return the beginning of the data of an event, for one line of a list."""
    text = data[: PREVIEW_CHARACTERS * 4].decode("utf-8", "ignore")
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + "…"


def letter_view(letter: DeadLetter, masking: Masking) -> Mapping[str, Any]:
    """Return what is shown of a dead letter."""
    shown = None if letter.envelope is None else shown_event(letter.envelope, masking)
    scrubbed = str if shown is None else shown.masked.scrubbed
    view: dict[str, Any] = {
        "id": letter.id,
        "handler": letter.handler,
        "group": letter.group,
        "reason": letter.reason,
        "error": scrubbed(letter.error),
        "error_type": letter.error_type,
        "traceback": scrubbed(letter.traceback),
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "first_failed_at": letter.first_failed_at,
        "dead_at": letter.dead_at,
        "event_type": letter.event_type,
        "metadata": None if shown is None else metadata_view(shown),
        "raw_bytes": None if letter.raw is None else len(letter.raw),
        "is_known_type": letter.event_type is not None and class_for(letter.event_type) is not None,
    }
    if shown is not None:
        view |= data_view(shown.data, download=f"/api/letters/{letter.id}/data")
    return view
