"""The events of now: taken from a broker, a bus or the log, kept for a while, and given to whoever looks."""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from operator import attrgetter
from secrets import token_hex
from typing import Any, Final

import msgspec

from avx_events.apps.console.given import Given
from avx_events.apps.console.masking import Masking
from avx_events.apps.console.turns import Turns
from avx_events.apps.console.views import PREVIEW_CHARACTERS, ShownEvent, preview, shown_event, size_of
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import AvxEventsError, DecodeError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope
from avx_events.core.tasks import Changes
from avx_events.patterns.pause import pause
from avx_events.store.event_store import record_after

log = logging.getLogger("avx_events.console")

KEPT_EVENTS: Final = 10_000
KEPT_BYTES: Final = 64 * 1024 * 1024
UNSEEN: Final = 200
"""So many events are kept, untouched, while nobody looks: making them ready to be shown takes 17 µs each."""

UNSEEN_BYTES: Final = 16 * 1024 * 1024
"""Of their JSON, and so much that a service does not grow for a page that nobody looks at."""

MOST_IN_FRAME: Final = 500
"""Rows that a page gets at once; of more, it gets the newest, and is told how many it missed."""

_CAPACITY: Final = 10_000
_PAUSE_S: Final = 1.0
_CONNECT_S: Final = 3.0
_UNREADABLE_KEPT: Final = 100


class Kept(msgspec.Struct, frozen=True):
    """One event that was seen.

    Attributes:
        number: Its place among those seen, from 1.
        shown: What may be shown of it.
    """

    number: int
    shown: ShownEvent

    def row(self) -> dict[str, Any]:
        """Return what the list shows."""
        metadata = self.shown.metadata
        return {
            "n": self.number,
            "id": metadata.event_id,
            "type": metadata.event_type,
            "topic": self.shown.topic,
            "key": metadata.aggregate_id,
            "time_us": metadata.timestamp,
            "correlation": metadata.correlation_id,
            "preview": preview(self.shown.data),
            "size": len(self.shown.data),
        }


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events somebody wants to see: those that contain all texts, in whatever case.

    Attributes:
        type: In the event type.
        topic: In the topic.
        key: In the aggregate id.
        text: In the data, the ids or the headers.
    """

    type: str = ""
    topic: str = ""
    key: str = ""
    text: str = ""

    def matches(self, shown: ShownEvent) -> bool:
        """Tell whether ``shown`` is one of them."""
        metadata = shown.metadata
        return (
            self.type.lower() in metadata.event_type.lower()
            and self.topic.lower() in shown.topic.lower()
            and self.key.lower() in metadata.aggregate_id.lower()
            and (not self.text or self._is_in(shown))
        )

    def _is_in(self, shown: ShownEvent) -> bool:
        metadata, sought = shown.metadata, self.text.lower()
        ids = f"{metadata.event_id}\n{metadata.correlation_id}\n{metadata.user_id}\n{dict(metadata.headers)}"
        return sought in ids.lower() or sought in shown.data.decode().lower()


class Frame(msgspec.Struct, frozen=True):
    """What a page gets at once.

    Attributes:
        rows: Oldest first.
        last: The number of the last event that was looked at.
        missed: How many that were wanted are not among the rows.
    """

    rows: list[dict[str, Any]]
    last: int
    missed: int


class _Unseen(msgspec.Struct, frozen=True):
    number: int
    envelope: EventEnvelope[Any]
    size: int


class LiveFeed:
    """Keeps the last 10,000 events, or the last 64 MB of them, and tells when there are more.

    They come from the broker, else from the bus, else from the log of the store. What comes faster than this process
    can take it is dropped at the subscription, the oldest first: looking never makes a publisher wait. While nobody
    looks, only the last 200 are kept, or the last 16 MB of them, as they came.

    Attributes:
        watchers: How many look.
        run_id: Tells the numbers of this feed from those of one before.
        changes: Told when there are more events, or the state is another.
        problem: Why there is nothing to see now; empty where all is well.
        is_closed: Whether nothing comes any more.
    """

    def __init__(self, given: Given, masking: Masking) -> None:
        """Begin with nothing seen."""
        self._given: Final = given
        self._masking: Final = masking
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._unseen: deque[_Unseen] = deque()
        self._unseen_bytes = 0
        self.watchers = 0
        self._count = 0
        self._position: int | None = None
        self.run_id: Final = token_hex(4)
        self.changes: Final = Changes()
        self.problem = ""
        self.is_closed = False

    @property
    def source(self) -> str:
        """Where events come from, in words; empty where they come from nowhere."""
        given = self._given
        if given.broker_url is not None:
            return "the broker"
        if self._has_bus:
            return "the bus of this process"
        return "" if given.store is None else "the log of the store"

    @property
    def _has_bus(self) -> bool:
        """Whether the bus gives its events to whoever listens: those of a group are for its handlers."""
        bus = self._given.bus
        return isinstance(bus, TopicBus | EventBus) and bus.group is None

    async def run(self) -> None:
        """Take events for ever; what is away is tried again."""
        while self.source and not self.is_closed:
            try:
                await self._take()
            except AvxEventsError as exc:  # whatever it is, it may be mended while we run
                self._say(str(exc))
            else:
                self._say(f"{self.source} is closed")
                return
            await pause(self._given.clock, _PAUSE_S)

    def close(self) -> None:
        """Let those who wait for more go."""
        self.is_closed = True
        self.changes.tell()

    async def frame(self, wanted: Wanted, *, after: int) -> Frame:
        """Return what is new after a number: of what is wanted, the newest rows."""
        await self._show_unseen()
        matching = [kept for kept in self._newer_than(after) if wanted.matches(kept.shown)]
        rows = [kept.row() for kept in matching[-MOST_IN_FRAME:]]
        return Frame(rows, self._count, len(matching) - len(rows))

    async def find(self, event_id: str) -> ShownEvent | None:
        """Return an event that is still kept; None where it is not."""
        await self._show_unseen()
        found = (kept.shown for kept in reversed(self._kept) if kept.shown.metadata.event_id == event_id)
        return next(found, None)

    def _newer_than(self, number: int) -> Iterator[Kept]:
        return islice(self._kept, bisect_right(self._kept, number, key=_number), None)

    async def _take(self) -> None:
        async with self._envelopes() as envelopes:
            self._say("")
            async for envelope in envelopes:
                self._take_in(envelope)
                if self.watchers:
                    await self._show_unseen()
                    self.changes.tell()

    def _take_in(self, envelope: EventEnvelope[Any]) -> None:
        self._count += 1
        unseen = _Unseen(self._count, envelope, size_of(envelope.event))
        self._unseen.append(unseen)
        self._unseen_bytes += unseen.size
        while len(self._unseen) > UNSEEN or (self._unseen_bytes > UNSEEN_BYTES and len(self._unseen) > 1):
            self._next_unseen()

    def _next_unseen(self) -> _Unseen:
        unseen = self._unseen.popleft()
        self._unseen_bytes -= unseen.size
        return unseen

    async def _show_unseen(self) -> None:
        turns = Turns()
        while self._unseen:  # of several who do this each takes the next one, and none ends before the last
            unseen = self._next_unseen()
            kept = Kept(unseen.number, shown_event(unseen.envelope, self._masking))
            self._kept.append(kept)
            self._kept_bytes += _bytes_of(kept)
            await turns.rest()
        while len(self._kept) > KEPT_EVENTS or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= _bytes_of(self._kept.popleft())

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            if problem:
                log.warning("the console shows no live events for now: %s", problem)
            self.problem = problem
            self.changes.tell()

    @asynccontextmanager
    async def _envelopes(self) -> AsyncGenerator[AsyncIterator[EventEnvelope[Any]], None]:
        given = self._given
        if given.broker_url is not None:
            # Of its own: what cannot be read here is no dead letter of anybody.
            unreadable = DeadLetterQueue(capacity=_UNREADABLE_KEPT)
            bus = await TopicBus.connect(
                given.broker_url,
                namespace=given.namespace,
                timeout_s=_CONNECT_S,
                dead_letter_queue=unreadable,
                clock=given.clock,
            )
            async with bus, await bus.subscribe("**", **_GREEDY) as subscriber:
                yield subscriber.envelopes()
        elif self._has_bus and isinstance(given.bus, TopicBus):
            async with await given.bus.subscribe("**", **_GREEDY) as subscriber:
                yield subscriber.envelopes()
        elif self._has_bus and isinstance(given.bus, EventBus):
            async with await given.bus.subscribe(Event, **_GREEDY) as subscriber:
                yield subscriber.envelopes()
        elif given.store is not None:
            if self._position is None:
                self._position = await given.store.last_position()
            yield self._following(self._position)

    async def _following(self, after: int) -> AsyncIterator[EventEnvelope[Any]]:
        store = self._given.store
        assert store is not None  # noqa: S101 - for the type checker
        while True:
            try:
                async for stored in store.subscribe(after, unknown="keep"):
                    self._position = after = stored.position
                    yield stored
            except DecodeError as exc:
                unreadable = await record_after(store, after)
                assert unreadable is not None  # noqa: S101 - for the type checker
                self._position = after = unreadable.position
                log.warning("the console does not show the event at position %d: %s", after, exc)
            else:
                return


_GREEDY: Final[Any] = {"name": "avx-console", "capacity": _CAPACITY, "overflow": "drop_oldest", "retry": None}


_number: Final = attrgetter("number")


def _bytes_of(kept: Kept) -> int:
    return 2 * len(kept.shown.data) + PREVIEW_CHARACTERS  # its fields are kept too
