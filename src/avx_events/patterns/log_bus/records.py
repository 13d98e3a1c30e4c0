"""What a record of the log is to a group: its key, its lane, its event, and what is kept of it if it cannot be read."""

import sys
from typing import Any, Final
from zlib import crc32

import msgspec

from avx_events.bus.remote.ports import Incoming
from avx_events.core import cloudevents
from avx_events.core.errors import AvxEventsError
from avx_events.core.event import UnknownEvent
from avx_events.core.metadata import EventEnvelope
from avx_events.store.ports import RecordTuple
from avx_events.store.stored_event import StoredEvent, stored_events

_NOBODYS: Final = "avx.nobodys"
"""An event type that no class has: what is of it is read without a look at its data."""

_SOURCE: Final = "/avx/log"


class _Beginning(msgspec.Struct, array_like=True, gc=False):
    """The first two of what the store keeps of the metadata; new ones go to the end, see ``store.stored_event``."""

    timestamp: int
    aggregate_id: str


_read_beginning = msgspec.json.Decoder(_Beginning).decode


def key_of(record: RecordTuple) -> str:
    """Return what the order of an event is kept by: its aggregate id, or its stream where it has none.

    It is found without the event's class, so that processes of different versions find the same.
    """
    try:
        key = _read_beginning(record[6]).aggregate_id
    except (msgspec.MsgspecError, ValueError):  # what is damaged is no event either
        key = ""
    return key or record[1]


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of ``key``: CRC-32 of its UTF-8 bytes, modulo the number of lanes.

    Source:
        ISO 3309 CRC-32, as the brokers' lanes have it, and zlib and most languages' libraries.
    """
    return crc32(key.encode()) % lanes


def decode(incoming: Incoming) -> StoredEvent[Any]:
    """Return the event of what a ``LogSource`` gave.

    Raises:
        DecodeError: It does not fit its class; what came has a document of it then.
    """
    record: RecordTuple = incoming.receipt.record
    try:
        return next(stored_events((record,), keep_unknown=True))
    except AvxEventsError:
        incoming.document = document_of(record)
        raise


def document_of(record: RecordTuple) -> bytes:
    """Return a record as a CloudEvents document, which can be read when its class fits again.

    Where that much of it cannot be read, it is the data of the record alone.
    """
    event_type, data = record[5], record[7]
    try:
        (nobodys,) = stored_events([(*record[:5], _NOBODYS, record[6], data)], keep_unknown=True)
        event = UnknownEvent(event_type, nobodys.event.data, nobodys.event.revision)
        metadata = msgspec.structs.replace(nobodys.metadata, event_type=event_type)
        topic = event_type if nobodys.topic == _NOBODYS else nobodys.topic
        return cloudevents.encode(EventEnvelope(event, metadata, topic), source=_SOURCE, max_bytes=sys.maxsize)
    except AvxEventsError:
        return data
