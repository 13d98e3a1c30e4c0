"""What an event looks like as an entry of a stream, ours or another's, in both modes.

CloudEvents has no binding for Redis; binary mode is written as the one for Kafka has it, with fields for headers.
"""

from typing import Final

from avx_events.bus.remote.ports import Incoming, Lane, Outgoing
from avx_events.core import cloudevents
from avx_events.distributed.redis.names import ATTRIBUTE_PREFIX, DATA_FIELD, EVENT_FIELD, TOPIC_FIELD, TYPE_FIELD
from avx_events.distributed.redis.wire import Argument

_PLAIN: Final = [TYPE_FIELD, EVENT_FIELD]
_WITH_TOPIC: Final = [*_PLAIN, TOPIC_FIELD]
_PREFIX: Final = ATTRIBUTE_PREFIX.encode()
_VERSION_FIELD: Final = b"ce_specversion"
_ATTRIBUTE_TYPE: Final = b"ce_type"
_ATTRIBUTE_TOPIC: Final = b"ce_topic"


def fields_of(outgoing: Outgoing) -> list[Argument]:
    """Return names and values of an event's fields, in turn."""
    if outgoing.attributes is not None:
        fields: list[Argument] = [DATA_FIELD, outgoing.document]
        for name, text in outgoing.attributes.items():
            fields += (ATTRIBUTE_PREFIX + name, text)
        return fields
    before, after = fields_around(outgoing.event_type, outgoing.topic)
    return [*before, outgoing.document, *after]


def fields_around(event_type: str, topic: str) -> tuple[list[Argument], list[Argument]]:
    """Return what stands before a document and what stands behind it, names and values in turn."""
    return [TYPE_FIELD, event_type, EVENT_FIELD], [] if topic == event_type else [TOPIC_FIELD, topic]


def incoming_of(lane: Lane | None, receipt: object, fields: list[bytes]) -> Incoming:
    """Return an entry of a stream as an event that came in."""
    names = fields[::2]
    if names == _PLAIN:  # these two are what we write, and quicker than to look names up
        event_type = fields[1].decode(errors="replace")
        return Incoming(lane, receipt, fields[3], event_type, event_type)
    if names == _WITH_TOPIC:
        return Incoming(
            lane, receipt, fields[3], fields[1].decode(errors="replace"), fields[5].decode(errors="replace")
        )
    return _foreign(lane, receipt, dict(zip(names, fields[1::2], strict=False)), fields)


def _foreign(lane: Lane | None, receipt: object, found: dict[bytes, bytes], fields: list[bytes]) -> Incoming:
    document = found.get(EVENT_FIELD)
    if document is not None:
        event_type, topic = _text(found.get(TYPE_FIELD)), _text(found.get(TOPIC_FIELD))
    elif _VERSION_FIELD in found:
        event_type, topic = _text(found.get(_ATTRIBUTE_TYPE)), _text(found.get(_ATTRIBUTE_TOPIC))
        document = _structured(fields)
    else:  # a stranger's entry: its dead letter shows all of it
        document = b"\n".join(name + b"=" + value for name, value in found.items())
        event_type = topic = None
    return Incoming(lane, receipt, document, event_type, topic or event_type)


def _structured(fields: list[bytes]) -> bytes:
    named = zip(fields[::2], fields[1::2], strict=False)
    attributes = ((name.removeprefix(_PREFIX), value) for name, value in named if name.startswith(_PREFIX))
    data = next((value for name, value in zip(fields[::2], fields[1::2], strict=False) if name == DATA_FIELD), b"")
    return cloudevents.structured(((name.decode(errors="replace"), value) for name, value in attributes), data)


def _text(field: bytes | None) -> str | None:
    return None if field is None else field.decode(errors="replace")
