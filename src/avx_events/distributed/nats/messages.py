"""What an event looks like as a message of NATS, ours or another's, in both modes.

Source:
    https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md, 1.0.3-wip: the released
    1.0.2 is older than NATS's headers, and has no binary mode.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from avx_events.bus.remote.ports import Incoming, Lane, Outgoing
from avx_events.core import cloudevents
from avx_events.distributed.nats.jetstream import header_value
from avx_events.distributed.nats.names import TOPIC_HEADER, TYPE_HEADER

_ATTRIBUTE_PREFIX: Final = "ce-"
_VERSION_HEADER: Final = "ce-specversion"
_CONTENT_TYPE_HEADER: Final = "content-type"
_QUOTED: Final = re.compile(r'".*"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PLAIN: Final = "!#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What stands in a header as it is, beside letters, digits and ``_.-~``; all else is percent-encoded."""


def headers_of(outgoing: Outgoing) -> dict[str, str]:
    """Return what stands above an event: its attributes, or enough to pass by one that nobody wants unread."""
    if outgoing.attributes is None:
        return type_and_topic(outgoing.event_type, outgoing.topic)
    return {_ATTRIBUTE_PREFIX + name: quote(text, _PLAIN) for name, text in outgoing.attributes.items()}


def incoming_of(lane: Lane | None, receipt: object, document: bytes, headers: Mapping[str, str] | None) -> Incoming:
    """Return a message of the log as an event that came in."""
    if headers is None:
        return Incoming(lane, receipt, document)
    event_type, topic = headers.get(TYPE_HEADER), headers.get(TOPIC_HEADER)
    if event_type is None:
        document = structured(document, headers)
    return Incoming(lane, receipt, document, event_type, topic or event_type)


def structured(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the document of a message, which is in either mode."""
    named = {name.lower(): value for name, value in headers.items()}
    is_structured = named.get(_CONTENT_TYPE_HEADER, "").lower().startswith(cloudevents.STRUCTURED_CONTENT)
    if is_structured or _VERSION_HEADER not in named:
        return body
    attributes = (
        (name.removeprefix(_ATTRIBUTE_PREFIX), unquote_to_bytes(_unquoted(value)))
        for name, value in named.items()
        if name.startswith(_ATTRIBUTE_PREFIX)
    )
    return cloudevents.structured(attributes, body)


def _unquoted(value: str) -> str:
    """Return a value without the double quotes that older writers put around it."""
    return _ESCAPED.sub(r"\1", value[1:-1]) if _QUOTED.fullmatch(value) else value


def type_and_topic(event_type: str, topic: str) -> dict[str, str]:
    """Return what stands above a document; nothing where it cannot stand there."""
    if header_value(event_type) is None or header_value(topic) is None:
        return {}  # the document says it alone
    return {TYPE_HEADER: event_type} if topic == event_type else {TYPE_HEADER: event_type, TOPIC_HEADER: topic}
