"""The past once more: a range of the log given to a handler or a projection, at any speed, and without side effects."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final

import msgspec

from avx_events.core.arguments import whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.pause import pause
from avx_events.patterns.projection import Projection
from avx_events.patterns.replay_players import Player, player_for
from avx_events.store.event_store import EventStore
from avx_events.store.log_filter import WantedTypes
from avx_events.store.stored_event import Unknown

# How long code that never waits goes on, in seconds, before the loop has a turn.
_BREATH_S: Final = 0.005
# How much time of ``events_per_s`` can be made up for at once where a handler was slow, in seconds.
_CATCH_UP_S: Final = 0.1


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did.

    Attributes:
        events: Events that were handled; of a projection, those that it has a method for.
        discarded: Events at which a handler, or a method of a projection, raised ``Discard``.
        first_position: The position of the first event of the range; 0 where there was none.
        last_position: The position of the last event of the range; 0 where there was none.
        duration_s: How long it took, in seconds of the clock.
    """

    events: int
    discarded: int
    first_position: int
    last_position: int
    duration_s: float


async def replay(
    store: EventStore,
    target: Projection | Callable[..., object],
    *,
    into: EventStore | None = None,
    after: int = 0,
    until: int | None = None,
    as_of: datetime | None = None,
    types: WantedTypes | None = None,
    stream_prefix: str = "",
    speed: float | None = None,
    events_per_s: float | None = None,
    allow_side_effects: bool = False,
    unknown: Unknown | None = None,
    on_progress: Callable[[int], object] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ReplayReport:
    """Give the events of a range of the log to a handler or a projection, one after the other, and return when done.

    A handler is written as for a bus: ``async def``, or ``def``, which runs in a thread; it takes the event, and the
    ``StoredEvent`` too if it has a second parameter. The range ends where the log ended when the replay began.

    Nothing live is touched. The code that is called sees the context of each event as it would live, and
    ``is_replaying()`` tells it the difference. Where it would publish, append, save, dispatch, request or redrive, or
    open a transaction, there is a ``ReplayedMessageError``. Mails, calls and files are its own to leave out. A
    projection makes its tables in the scratch database ``into``, where its ``setup`` and its methods run; nobody looks
    at its live tables or its checkpoint.

    An error of the code ends the replay and is raised, with a note that says at which event; there are no retries. What
    a projection made of the events before is kept: a transaction in which one fails is undone, and done again event by
    event. ``Discard`` passes the handler or method over for that event.

    Args:
        store: Whose log.
        target: A handler, or a projection: an object of its class, other than one that runs live, as the two would
            share what its methods keep in it.
        into: Where a projection makes its tables: a store whose database takes its SQL, has no events, and never had a
            projector. ``replayed`` makes one in memory. None for a handler.
        after: The position to begin after; 0 is the beginning.
        until: The last position wanted; None for the newest there is now.
        as_of: The last ``recorded_at`` wanted, inclusive, with a time zone; None for the newest there is now.
        types: The event classes wanted, each with those derived from it, and event types by name; None for all.
        stream_prefix: What the names of their streams begin with.
        speed: How many times as fast as the events were recorded: 1.0 is as it was, 10.0 ten times as fast. Who is
            late makes up for it. None does not wait.
        events_per_s: How many events in a second of the clock at the most, on average; None for no limit.
        allow_side_effects: Let the code publish and append as it does live. It reaches what is live, if it holds it.
        unknown: What an unknown event type gives; None is the store's own choice.
        on_progress: Called with the position of each event that was given, to tell how far it is; it should be quick.
        clock: Measures the pauses.

    Raises:
        InvalidArgumentError: A value is not acceptable, ``into`` is missing or not wanted, or not empty.
        HandlerDefinitionError: The handler cannot be called with an event.
        ReplayedMessageError: The code would have had an effect that reaches others.
        UnknownEventTypeError: No class has the type of an event.
        DecodeError: An event does not fit its class.
        StoreUnavailableError: One of the stores is not available now.
        StoreSchemaError: A database is damaged.
        ClosedError: One of the stores is closed.
        WrongLoopError: One of the stores belongs to another loop.
        Exception: What the handler raised.
    """
    pace = _Pace(speed=_rate("speed", speed), events_per_s=_rate("events_per_s", events_per_s), clock=clock)
    end = await store.last_position()
    if until is not None:
        end = min(end, whole("until", until, least=0))
    began_at = clock.monotonic()
    first = last = 0
    events = store.read_all(after, until=end, as_of=as_of, types=types, stream_prefix=stream_prefix, unknown=unknown)
    playing = player_for(target, into, live=store, allow_side_effects=allow_side_effects)
    async with playing as player, aclosing(events):
        async for stored in events:
            await _wait_until(pace.due_at(stored.recorded_us), player, clock)
            first, last = first or stored.position, stored.position
            await player.play(stored)
            if on_progress is not None:
                on_progress(stored.position)
            await pace.breathe()
        await player.flush()
    return ReplayReport(
        events=player.played,
        discarded=player.discarded,
        first_position=first,
        last_position=last,
        duration_s=clock.monotonic() - began_at,
    )


@asynccontextmanager
async def replayed(
    store: EventStore,
    projection: Projection,
    *,
    after: int = 0,
    until: int | None = None,
    as_of: datetime | None = None,
    types: WantedTypes | None = None,
    stream_prefix: str = "",
    unknown: Unknown | None = None,
) -> AsyncGenerator[EventStore, None]:
    """Give a scratch store in memory with the tables that ``projection`` makes of a range of the log.

    ``async with replayed(store, UserDirectory(), as_of=then) as scratch:`` and then ``await scratch.fetch("SELECT
    ...")``: a read model as it was, or as a new version of it would be, beside the live one. It is gone at the end of
    the block. The scratch store is SQLite's; a projection in the SQL of another database needs a database of that
    kind, and ``replay(..., into=...)``.

    Args:
        store: Whose log.
        projection: An object of its class, other than one that runs live.
        after: As for ``replay``, as the others.
        until: The last position wanted; None for the newest there is now.
        as_of: The last ``recorded_at`` wanted, inclusive, with a time zone; None for the newest there is now.
        types: The event classes wanted.
        stream_prefix: What the names of their streams begin with.
        unknown: What an unknown event type gives; None is the store's own choice.

    Raises:
        Exception: As ``replay``.
    """
    async with await EventStore.connect("sqlite://") as scratch:
        await replay(
            store,
            projection,
            into=scratch,
            after=after,
            until=until,
            as_of=as_of,
            types=types,
            stream_prefix=stream_prefix,
            unknown=unknown,
        )
        yield scratch


class _Pace:
    """When each event is due."""

    def __init__(self, *, speed: float | None, events_per_s: float | None, clock: Clock) -> None:
        self._speed = speed
        self._interval_s = None if events_per_s is None else 1 / events_per_s
        self._clock = clock
        self._origin: tuple[float, int] | None = None  # when the first event was given, and when it was recorded
        self._previous_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._breathes_at = self._loop.time() + _BREATH_S

    def due_at(self, recorded_us: int) -> float:
        """Return when an event is due, in monotonic seconds of the clock; what is past is due at once."""
        now = self._clock.monotonic()
        if self._origin is None:
            self._origin, self._previous_at = (now, recorded_us), now
            return now
        due = now
        if self._speed is not None:
            began_at, first_us = self._origin
            due = max(due, began_at + (recorded_us - first_us) / 1e6 / self._speed)
        if self._interval_s is not None:
            self._previous_at = max(self._previous_at, now - _CATCH_UP_S) + self._interval_s
            due = max(due, self._previous_at)
        return due

    async def breathe(self) -> None:
        """Let the loop have a turn where it had none for a while: neither a store in memory nor a handler may wait."""
        if self._loop.time() > self._breathes_at:
            await asyncio.sleep(0)
            self._breathes_at = self._loop.time() + _BREATH_S


async def _wait_until(due_at: float, player: Player, clock: Clock) -> None:
    if due_at > clock.monotonic():
        await player.flush()
        await pause(clock, due_at - clock.monotonic())


def _rate(name: str, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise InvalidArgumentError(name, value, expected="a finite number above 0, or None")
    return value
