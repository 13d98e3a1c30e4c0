"""Events that people mend: other data in an envelope that is otherwise as it was."""

from typing import Any

import msgspec

from avx_events.core.codec import decode_data
from avx_events.core.event import UnknownEvent, schema_of
from avx_events.core.metadata import EventEnvelope


def with_data(envelope: EventEnvelope[Any], document: bytes) -> EventEnvelope[Any]:
    """Return ``envelope`` with an event of the data in ``document``, which must fit its class where there is one.

    The event keeps its id and metadata, but for the key: order is kept by that of the data as it is now.

    Args:
        envelope: What is mended.
        document: All fields, as a JSON object.

    Raises:
        DecodeError: The data is no JSON object, or does not fit.
    """
    before: object = envelope.event
    revision = before.revision if isinstance(before, UnknownEvent) else schema_of(before).revision
    metadata = envelope.metadata
    event = decode_data(metadata.event_type, document, revision=revision, keep_unknown=True)
    if not isinstance(event, UnknownEvent):
        metadata = msgspec.structs.replace(metadata, aggregate_id=schema_of(event).aggregate_id(event))
    return msgspec.structs.replace(envelope, event=event, metadata=metadata)
