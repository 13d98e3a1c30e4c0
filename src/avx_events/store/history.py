"""The history of one stream: who did what, when and why, and what it changed."""

import copy
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec

from avx_events.store.aggregates import AggregateSchema
from avx_events.store.audited_event import AuditedEvent, plain, shown, shown_event, when, who, why
from avx_events.store.instants import version_at
from avx_events.store.ports import StoreEngine
from avx_events.store.stored_event import StoredEvent, stored_events

StateT_co = TypeVar("StateT_co", covariant=True)


class Change(msgspec.Struct, frozen=True):
    """What an event made of one field of an aggregate; ``str(change)`` shows both.

    Attributes:
        before: Its value at the version before.
        after: Its value at the version of the event.
    """

    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{shown(self.before)} → {shown(self.after)}"


_NO_CHANGES: Final[Mapping[str, Change]] = MappingProxyType({})


class HistoryEntry(AuditedEvent, Generic[StateT_co], frozen=True):
    """One entry in the history of a stream; ``str(entry)`` is one line, in columns.

    Attributes:
        stored: The event, its metadata and its place.
        state: The aggregate as the event left it, this entry's own; None where no aggregate was asked for.
        changes: The fields of the aggregate that the event changed, by name; none where no aggregate was asked for.
    """

    state: StateT_co
    changes: Mapping[str, Change]

    def __str__(self) -> str:
        stored = self.stored
        columns = f"{when(stored)}  v{self.version:<6} {plain(self.event_type):<24}  {who(stored):<16}"
        what = shown_event(self.event) if self.state is None else _listed(self.changes)
        reasons = why(stored)
        return f"{columns}  {what}  ({reasons})" if reasons else f"{columns}  {what}"


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a stream is wanted.

    Attributes:
        after: The version already seen.
        until_version: The last version wanted; None for the newest.
        since_us: The first ``recorded_us`` wanted; None for the oldest.
        until_us: The last ``recorded_us`` wanted; None for the newest.
    """

    after: int
    until_version: int | None
    since_us: int | None
    until_us: int | None


async def history_of(
    engine: StoreEngine,
    stream: str,
    bounds: Bounds,
    *,
    user_id: str | None,
    schema: AggregateSchema | None,
    keep_unknown: bool,
) -> AsyncGenerator[HistoryEntry[Any], None]:
    """Give the history of ``stream``, version ascending.

    Args:
        engine: Where it is.
        stream: Which stream.
        bounds: Which part of it.
        user_id: Only what this user did; None for everybody.
        schema: Of the aggregate that its events make; it is read from its beginning then. None for events alone.
        keep_unknown: Give an ``UnknownEvent`` for a type that no class has.

    Raises:
        AvxEventsError: As ``EventStore.history``.
    """
    after = bounds.after
    if bounds.since_us is not None:
        after = max(after, await version_at(engine, stream, bounds.since_us - 1))
    states = None if schema is None else _States(schema, stream)
    pages = engine.stream_pages(
        stream,
        after=after if states is None else 0,
        until_version=bounds.until_version,
        until_us=bounds.until_us,
    )
    async for page in pages:
        for stored in stored_events(page, keep_unknown=keep_unknown):
            if stored.version > after and user_id in {None, stored.metadata.user_id}:
                yield HistoryEntry(stored, None, _NO_CHANGES) if states is None else states.entry(stored)
            elif states is not None:
                states.pass_over(stored)


class _States:
    """An aggregate on its way through its versions."""

    def __init__(self, schema: AggregateSchema, stream: str) -> None:
        self._schema = schema
        self._aggregate = schema.new(stream)
        self._before: dict[str, Any] | None = None  # a copy of its fields; None where none was needed

    def pass_over(self, stored: StoredEvent[Any]) -> None:
        """Apply an event of which no entry is wanted."""
        self._apply(stored)
        self._before = None

    def entry(self, stored: StoredEvent[Any]) -> HistoryEntry[Any]:
        """Apply an event, and tell what it did."""
        before = self._before
        if before is None:
            before = self._before = copy.deepcopy(dict(self._schema.fields_of(self._aggregate)))
        self._apply(stored)
        changes: dict[str, Change] = {}
        for field, value in self._schema.fields_of(self._aggregate).items():
            if _differ(before[field], value):
                # Copies, one for each who has it: the aggregate goes on, and the reader may do as they like.
                changes[field] = Change(before[field], copy.deepcopy(value))
                before[field] = copy.deepcopy(value)
        return HistoryEntry(stored, copy.deepcopy(self._aggregate), changes)

    def _apply(self, stored: StoredEvent[Any]) -> None:
        self._schema.replay(self._aggregate, [stored.event], version=stored.version)


def _differ(before: Any, after: Any) -> bool:
    if type(before) is not type(after):
        return True
    is_same_nan = before != before and after != after  # noqa: PLR0124 - which is how to know it
    return bool(before != after) and not is_same_nan


def _listed(changes: Mapping[str, Change]) -> str:
    return ", ".join(f"{field}: {change}" for field, change in changes.items()) or "no change"
