"""What an event looks like as a record of Kafka, ours or another's, in both modes.

Source:
    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from collections.abc import Iterable
from typing import Final

from avx_events.bus.remote.ports import Incoming, Lane, Outgoing
from avx_events.core import cloudevents
from avx_events.distributed.kafka.names import CLOUDEVENT, CONTENT_TYPE_HEADER, TOPIC_HEADER, TYPE_HEADER
from avx_events.distributed.kafka.requests import Headers, Record

_ATTRIBUTE_PREFIX: Final = "ce_"
_VERSION_HEADER: Final = "ce_specversion"
_STRUCTURED: Final = cloudevents.STRUCTURED_CONTENT.encode()


def headers_of(outgoing: Outgoing) -> Headers:
    """Return what stands beside an event: its attributes, or enough to pass by one that nobody wants unread."""
    if outgoing.attributes is not None:
        content_type = outgoing.attributes[cloudevents.DATA_CONTENT_TYPE].encode()
        others = (one for one in outgoing.attributes.items() if one[0] != cloudevents.DATA_CONTENT_TYPE)
        attributes = [(_ATTRIBUTE_PREFIX + name, text.encode()) for name, text in others]
        return [(CONTENT_TYPE_HEADER, content_type), *attributes]
    headers = [(CONTENT_TYPE_HEADER, CLOUDEVENT), (TYPE_HEADER, outgoing.event_type.encode())]
    if outgoing.topic != outgoing.event_type:
        headers.append((TOPIC_HEADER, outgoing.topic.encode()))
    return headers


def incoming_of(lane: Lane | None, receipt: object, record: Record) -> Incoming:
    """Return a record as an event that came in."""
    headers = dict(record.headers)
    document = record.value or b""
    if _VERSION_HEADER in headers and not (headers.get(CONTENT_TYPE_HEADER) or b"").lower().startswith(_STRUCTURED):
        event_type, topic = _text(headers.get("ce_type")), _text(headers.get("ce_topic"))
        document = cloudevents.structured(_attributes(record.headers), document)
    else:
        event_type, topic = _text(headers.get(TYPE_HEADER)), _text(headers.get(TOPIC_HEADER))
    return Incoming(lane, receipt, document, event_type, topic or event_type)


def _attributes(headers: Iterable[tuple[str, bytes | None]]) -> Iterable[tuple[str, bytes]]:
    for name, value in headers:
        if name.startswith(_ATTRIBUTE_PREFIX):
            yield name.removeprefix(_ATTRIBUTE_PREFIX), value or b""
        elif name == CONTENT_TYPE_HEADER:
            yield cloudevents.DATA_CONTENT_TYPE, value or b""


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode(errors="replace")
