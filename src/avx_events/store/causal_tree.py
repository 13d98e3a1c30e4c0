"""All events of one correlation id, over all streams: which of them caused which."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from avx_events.store.audited_event import AuditedEvent, plain, shown_event, when, who
from avx_events.store.ports import PAGE_EVENTS, RecordTuple, StoreEngine
from avx_events.store.stored_event import StoredEvent, has_correlation_id

# A deeper branch is drawn no further to the right.
_DEEPEST_DRAWN: Final = 20


class CorrelatedEvent(AuditedEvent, frozen=True):
    """One event in a chain of causes and effects; ``str(event)`` is one line.

    Attributes:
        stored: The event, its metadata and its place.
        cause: The event whose handling made it. None for the first, and where the cause is not among those found: a
            command, which is never stored, or an event out of bounds.
        depth: How many causes it has, one behind the other.
    """

    cause: StoredEvent[Any] | None
    depth: int

    def __str__(self) -> str:
        stored = self.stored
        place = f"{plain(self.stream)} v{self.version}"
        return f"{when(stored)}  {place}  {plain(self.event_type)}  {who(stored)}  {shown_event(self.event)}"


class CausalTree(msgspec.Struct, frozen=True):
    """The events of one correlation id, which iterating gives in the order of the log; ``str(tree)`` draws the tree.

    Attributes:
        correlation_id: What they have in common.
        events: In the order of the log.
    """

    correlation_id: str
    events: tuple[CorrelatedEvent, ...]

    def __iter__(self) -> Iterator[CorrelatedEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def roots(self) -> tuple[CorrelatedEvent, ...]:
        """The events without a cause among them, in the order of the log."""
        return tuple(event for event in self.events if event.cause is None)

    def effects_of(self, cause: CorrelatedEvent) -> tuple[CorrelatedEvent, ...]:
        """Return the events that the handling of ``cause`` made, in the order of the log."""
        return tuple(self._effects().get(cause.event_id, ()))

    def __str__(self) -> str:
        effects = self._effects()
        left = [*reversed(self.roots)]
        lines: list[str] = []
        while left:
            event = left.pop()
            lines.append("  " * min(event.depth, _DEEPEST_DRAWN) + str(event))
            left += reversed(effects.get(event.event_id, ()))
        return "\n".join(lines)

    def _effects(self) -> Mapping[str, Sequence[CorrelatedEvent]]:
        effects: dict[str, list[CorrelatedEvent]] = {}
        for event in self.events:
            if event.cause is not None:
                effects.setdefault(event.cause.metadata.event_id, []).append(event)
        return effects


async def correlated_records(
    engine: StoreEngine, correlation_id: str, *, after: int, until: int | None
) -> list[RecordTuple]:
    """Return the records of ``correlation_id`` after one position and until another, by looking at all between.

    Raises:
        AvxEventsError: As ``StoreEngine.log_pages``.
    """
    found: list[RecordTuple] = []
    is_wanted = has_correlation_id(correlation_id)
    async for page in engine.log_pages(after=after, until=until):
        for start in range(0, len(page), PAGE_EVENTS):
            found += filter(is_wanted, page[start : start + PAGE_EVENTS])
            await asyncio.sleep(0)  # a page of an engine in memory is the whole log
    return found


def tree_of(correlation_id: str, events: Sequence[StoredEvent[Any]]) -> CausalTree:
    """Return ``events``, position ascending, with their causes.

    An effect may have been stored before its cause. Where ids given by hand make a ring, the link that would close it
    counts for nothing, so that everything hangs from a root.
    """
    causes = _causes_of(events)
    depths = _depths_of(events, causes)
    linked = (
        CorrelatedEvent(stored, causes.get(stored.metadata.event_id), depths[stored.metadata.event_id])
        for stored in events
    )
    return CausalTree(correlation_id, tuple(linked))


def _causes_of(events: Sequence[StoredEvent[Any]]) -> dict[str, StoredEvent[Any]]:
    by_id = {stored.metadata.event_id: stored for stored in events}
    links = [(stored, by_id.get(stored.metadata.causation_id or "")) for stored in events]
    causes: dict[str, StoredEvent[Any]] = {}
    for stored, cause in links:
        if cause is not None and cause.position < stored.position:
            causes[stored.metadata.event_id] = cause
    for stored, cause in links:  # those that lead back in the log make no ring; with these one may close
        if cause is not None and cause.position > stored.position and not _is_among_causes(stored, cause, causes):
            causes[stored.metadata.event_id] = cause
    return causes


def _is_among_causes(
    sought: StoredEvent[Any], effect: StoredEvent[Any], causes: Mapping[str, StoredEvent[Any]]
) -> bool:
    cause: StoredEvent[Any] | None = effect
    while cause is not None and cause is not sought:
        cause = causes.get(cause.metadata.event_id)
    return cause is sought


def _depths_of(events: Sequence[StoredEvent[Any]], causes: Mapping[str, StoredEvent[Any]]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for stored in events:
        above: list[str] = []
        event_id = stored.metadata.event_id
        while event_id not in depths:
            above.append(event_id)
            cause = causes.get(event_id)
            if cause is None:
                break
            event_id = cause.metadata.event_id
        depth = depths.get(event_id, -1)
        for below in reversed(above):
            depth += 1
            depths[below] = depth
    return depths
