"""Snapshots: the state of an aggregate at one version, so that a load need not read the whole stream.

A snapshot must never change what a load returns. It is taken when an aggregate is loaded, of a state that comes from
the events alone, and only if that state comes back from its encoding as it is. It is used only if nothing that it
depends on has changed: the class (by its fingerprint), and for each event type that was folded into it the type and the
revision of the class that reads it. An upcaster that is changed while the revisions stay is not noticed; raise
``revision=`` on the aggregate then. A type that this process has no class for rules a snapshot out: what a load makes
of it is for each store to say.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec

from avx_events.core.errors import AvxEventsError
from avx_events.core.event import class_for, schema_of
from avx_events.store.aggregates import AggregateSchema
from avx_events.store.ports import SnapshotRecord, StoreEngine

log = logging.getLogger("avx_events")


_Reading: TypeAlias = dict[str, tuple[str, int]]
"""By each event type as it is recorded: the type of its class, and the revision of that."""


class _Content(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot record holds: the state, and how each event type that was applied on the way was read."""

    reading: _Reading
    state: bytes


_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode: Final = msgspec.msgpack.Decoder(_Content).decode


class Restored(msgspec.Struct):
    """Where a load begins.

    Attributes:
        aggregate: At ``version``.
        version: 0 where no snapshot serves.
        event_types: Those that are in its state, as they are recorded.
    """

    aggregate: Any
    version: int
    event_types: set[str]


class Snapshots:
    """Takes and finds the snapshots of one store."""

    def __init__(self, engine: StoreEngine, *, every: int | None) -> None:
        """Keep them in ``engine``, one each ``every`` events; None for no snapshots at all."""
        self._engine = engine
        self._every = every
        self._unfit: set[str] = set()
        self.taken = 0
        self.used = 0

    async def restore(
        self, schema: AggregateSchema, stream: str, *, until_version: int | None, until_us: int | None
    ) -> Restored:
        """Return an aggregate at the newest version that needs no reading, within the bounds.

        A snapshot that cannot be read is none: the load does not fail of it.
        """
        record = None if self._every is None else await self._found(stream, schema.kind)
        if record is not None and _is_within(record, until_version, until_us):
            restored = _restored(schema, record)
            if restored is not None:
                self.used += 1
                return restored
        return Restored(schema.new(stream), 0, set())

    async def take(self, schema: AggregateSchema, restored: Restored, *, version: int, recorded_us: int) -> None:
        """Keep the state of a loaded aggregate if enough events were read for it.

        A snapshot that cannot be kept is none: the load does not fail of it.
        """
        if self._every is None or version - restored.version < self._every:
            return
        reading = _reading_of(restored.event_types)
        if reading is None:
            return
        fingerprint = schema.fingerprint()
        state = None if fingerprint is None else schema.state_of(restored.aggregate)
        if fingerprint is None or state is None:
            self._report_unfit(schema.kind)
            return
        content = _encode(_Content(reading, state))
        record = SnapshotRecord(restored.aggregate.id, schema.kind, fingerprint, version, recorded_us, content)
        try:
            await self._engine.put_snapshot(record)
        except AvxEventsError as exc:  # disk full; inside of a transaction; closed meanwhile
            log.warning("no snapshot of %r kept: %s", record.stream, exc)
        else:
            self.taken += 1

    async def _found(self, stream: str, kind: str) -> SnapshotRecord | None:
        try:
            return await self._engine.get_snapshot(stream, kind)
        except AvxEventsError as exc:  # a damaged table; what ails the whole store, the events will say
            log.warning("the snapshot of %r cannot be read: %s", stream, exc)
            return None

    def _report_unfit(self, kind: str) -> None:
        if kind not in self._unfit:
            self._unfit.add(kind)
            log.warning("%s gets no snapshots: its state does not come back from msgpack as it was", kind)


def _is_within(record: SnapshotRecord, until_version: int | None, until_us: int | None) -> bool:
    return (until_version is None or record.version <= until_version) and (
        until_us is None or record.recorded_us <= until_us
    )


def _restored(schema: AggregateSchema, record: SnapshotRecord) -> Restored | None:
    if record.fingerprint != schema.fingerprint():
        return None
    try:
        content = _decode(record.state)
    except msgspec.MsgspecError:  # of another version of this package
        return None
    if content.reading != _reading_of(content.reading):
        return None
    aggregate = schema.restore(record.stream, state=content.state, version=record.version)
    return None if aggregate is None else Restored(aggregate, record.version, set(content.reading))


def _reading_of(event_types: Iterable[str]) -> _Reading | None:
    reading: _Reading = {}
    for event_type in event_types:
        message_class = class_for(event_type)
        if message_class is None:
            return None
        schema = schema_of(message_class)
        reading[event_type] = (schema.event_type, schema.revision)
    return reading
