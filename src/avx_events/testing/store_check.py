"""Whether today's classes read what is in a store: the whole log, not only up to the first event that they cannot."""

from collections.abc import Sequence
from itertools import islice
from typing import cast

import msgspec

from avx_events.core.arguments import whole
from avx_events.core.errors import AvxEventsError, InvalidArgumentError
from avx_events.store.event_store import EventStore
from avx_events.store.ports import RecordTuple
from avx_events.store.stored_event import revision_of, stored_events


class UnreadableEvents(msgspec.Struct, frozen=True):
    """Events of one type and revision that cannot be read.

    Attributes:
        event_type: The type as it is recorded.
        revision: The revision of the data; None where not even that can be read.
        error: Why the first of them cannot.
        count: How many there are.
        first_position: Where in the log the first one is, from 1.
        first_stream: The stream that has it.
        first_version: Its version there.
    """

    event_type: str
    revision: int | None
    error: str
    count: int
    first_position: int
    first_stream: str
    first_version: int


class StoreReport(msgspec.Struct, frozen=True):
    """What came of a check of a store; ``str()`` is for people.

    Attributes:
        events: How many events were looked at.
        last_position: The position of the last of them, where the next check can go on; 0 where there was none.
        unreadable: What cannot be read, in the order of the first of each type and revision.
    """

    events: int
    last_position: int
    unreadable: tuple[UnreadableEvents, ...]

    def __str__(self) -> str:
        """Return all of it, two lines for each type and revision."""
        if not self.unreadable:
            return f"all {self.events:,} events can be read, up to position {self.last_position:,}"
        count = sum(found.count for found in self.unreadable)
        heading = f"{count:,} of {self.events:,} events cannot be read, up to position {self.last_position:,}:"
        return "\n".join([heading, *map(_lines, self.unreadable)])


async def check_store(store: EventStore, *, after: int = 0, limit: int | None = None) -> StoreReport:
    """Read the log of ``store`` with today's classes, and return what cannot be read, counted.

    ::

        report = await check_store(store)
        assert not report.unreadable, report

    It reads and changes nothing. An ``UnknownEvent`` is none that can be read, however the store was opened. Of a large
    log, ``after=report.last_position`` reads what has come since the last check, and ``limit`` a part.

    Args:
        store: The store.
        after: Begin after this position; 0 is the beginning.
        limit: Look at so many events at most, 1 or more; all if not given.

    Raises:
        InvalidArgumentError: ``store`` is no event store, or a number is outside its range.
        StoreUnavailableError: The database cannot be read now.
        StoreSchemaError: The database is damaged.
        ClosedError: The store is closed.
        WrongLoopError: The store belongs to another loop.
    """
    if not isinstance(cast("object", store), EventStore):
        raise InvalidArgumentError("store", store, expected="an EventStore")
    whole("after", after, least=0)
    if limit is not None:
        whole("limit", limit, least=1)
    tally = _Tally(after)
    async for page in store._engine.log_pages(after=after):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of the same package
        tally.look_at([*islice(page, None if limit is None else limit - tally.events)])
        if tally.events == limit:
            break
    return StoreReport(tally.events, tally.last_position, tuple(tally.found.values()))


class _Tally:
    """What was found so far."""

    def __init__(self, position: int) -> None:
        self.events = 0
        self.last_position = position
        self.found: dict[tuple[str, int | None], UnreadableEvents] = {}

    def look_at(self, records: Sequence[RecordTuple]) -> None:
        while records:
            read = 0
            try:
                for _ in stored_events(records, keep_unknown=False):
                    read += 1
            except AvxEventsError as exc:
                self._add(records[read], exc)
                read += 1
            self.events += read
            self.last_position = records[read - 1][0]
            records = records[read:]

    def _add(self, record: RecordTuple, exc: AvxEventsError) -> None:
        position, stream, version, _, _, event_type, packed, _ = record
        revision = revision_of(packed)
        known = self.found.get((event_type, revision))
        if known is None:
            known = UnreadableEvents(event_type, revision, str(exc), 0, position, stream, version)
        self.found[event_type, revision] = msgspec.structs.replace(known, count=known.count + 1)


def _lines(found: UnreadableEvents) -> str:
    revision = "of a revision that cannot be read" if found.revision is None else f"revision {found.revision}"
    where = f"position {found.first_position:,}, {found.first_stream!r} at version {found.first_version}"
    return f"  {found.event_type}, {revision}: {found.count:,}, the first at {where}\n    {found.error}"
