"""What an event looks like as a record of Kafka, ours or another's."""

import base64
from typing import Any, Final

import msgspec

from avx_events.bus.remote.ports import Incoming, Lane, Outgoing
from avx_events.distributed.kafka.names import CLOUDEVENT, CONTENT_TYPE_HEADER, TOPIC_HEADER, TYPE_HEADER
from avx_events.distributed.kafka.requests import Headers, Record

_ATTRIBUTE_PREFIX: Final = "ce_"
_VERSION_HEADER: Final = "ce_specversion"
_STRUCTURED: Final = b"application/cloudevents"

_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def headers_of(outgoing: Outgoing) -> Headers:
    """Return what stands beside an event: enough to pass by one that nobody wants without reading it."""
    headers = [(CONTENT_TYPE_HEADER, CLOUDEVENT), (TYPE_HEADER, outgoing.event_type.encode())]
    if outgoing.topic != outgoing.event_type:
        headers.append((TOPIC_HEADER, outgoing.topic.encode()))
    return headers


def incoming_of(lane: Lane | None, receipt: object, record: Record) -> Incoming:
    """Return a record as an event that came in."""
    headers = dict(record.headers)
    document = record.value or b""
    if _VERSION_HEADER in headers and not (headers.get(CONTENT_TYPE_HEADER) or b"").startswith(_STRUCTURED):
        return Incoming(lane, receipt, _structured(headers, document))
    event_type, topic = _text(headers.get(TYPE_HEADER)), _text(headers.get(TOPIC_HEADER))
    return Incoming(lane, receipt, document, event_type, topic or event_type)


def _structured(headers: dict[str, bytes | None], data: bytes) -> bytes:
    """Return an event in binary mode, whose attributes are headers, as a structured document.

    Source:
        https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
    """
    attributes: dict[str, Any] = {
        name.removeprefix(_ATTRIBUTE_PREFIX): (value or b"").decode(errors="replace")
        for name, value in headers.items()
        if name.startswith(_ATTRIBUTE_PREFIX)
    }
    content_type = headers.get(CONTENT_TYPE_HEADER)
    if content_type is not None:
        attributes["datacontenttype"] = content_type.decode(errors="replace")
    revision = attributes.get("revision")
    if isinstance(revision, str) and revision.isdecimal():
        attributes["revision"] = int(revision)
    if data:
        attributes |= _data_attribute(data)
    return _encode(attributes)


def _data_attribute(data: bytes) -> dict[str, Any]:
    try:
        _check_json(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {"data_base64": base64.b64encode(data).decode()}
    return {"data": msgspec.Raw(data)}


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode(errors="replace")
