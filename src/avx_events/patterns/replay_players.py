"""Who is given the past once more, a handler or a projection beside its live self, and kept from side effects."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from avx_events.bus.endpoints import Threads, endpoint_for
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.metadata import MessageContext, ReplayedMessage, current_message
from avx_events.core.policy import Discard
from avx_events.patterns.projection import Projection
from avx_events.patterns.projection.handling import Handling, current_handling
from avx_events.patterns.projection.projection import Effect
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

_Item: TypeAlias = tuple[StoredEvent[Any], tuple[Effect, ...]]
"""An event, and what a projection does with it."""

_EVERYTHING: Final = 2**63 - 1
# Events of a projection in one transaction.
_BATCH_EVENTS: Final = 500
# The version under which projectors keep their checkpoints, where one was ever entered.
_PROJECTORS: Final = "SELECT version FROM avx_schema WHERE component = 'projections'"

_is_replaying: ContextVar[bool] = ContextVar("avx_is_replaying", default=False)


def is_replaying() -> bool:
    """Return whether the code that asks was called by a replay: what it is given happened before, and was handled."""
    return _is_replaying.get()


class Player(Protocol):
    """Who is given the events of a replay."""

    @property
    def played(self) -> int:
        """How many events were handled."""
        ...

    @property
    def discarded(self) -> int:
        """How many events were discarded."""
        ...

    async def play(self, stored: StoredEvent[Any]) -> None:
        """Handle ``stored``, now or by the next ``flush``."""
        ...

    async def flush(self) -> None:
        """Return when all that was given is handled."""
        ...


@asynccontextmanager
async def player_for(
    target: object, into: EventStore | None, *, live: EventStore, allow_side_effects: bool
) -> AsyncGenerator[Player, None]:
    """Give the player of a handler or projection, which leaves nothing behind, and nothing undone where it can be done.

    Args:
        target: The handler or projection.
        into: The scratch store of a projection.
        live: The store whose log is replayed.
        allow_side_effects: Let the code make messages.

    Raises:
        InvalidArgumentError: ``target`` is neither, or ``into`` does not fit it.
        HandlerDefinitionError: The handler cannot be called with an event.
        Exception: What the projection's ``setup`` raised.
    """
    if isinstance(target, Projection):
        if target.handles_nothing:
            raise InvalidArgumentError("target", target, expected="a projection with a method that @handles an event")
        scratch = await _checked_scratch(into, live=live)
        async with scratch.transaction() as connection:
            await target.setup(connection)
        player = _ProjectionPlayer(target, scratch, allow_side_effects=allow_side_effects)
        try:
            yield player
        except Exception:  # of an event that cannot be read, say: those before it are not lost
            await player.flush()
            raise
        return
    if isinstance(target, type) or not callable(target):
        raise InvalidArgumentError("target", target, expected="a handler, or an object of a Projection class")
    if into is not None:
        raise InvalidArgumentError("into", into, expected="left out: a handler has no tables")
    threads = Threads()
    try:
        yield _HandlerPlayer(target, threads, allow_side_effects=allow_side_effects)
    finally:
        threads.close()


async def _checked_scratch(into: object, *, live: EventStore) -> EventStore:
    if not isinstance(into, EventStore):
        raise InvalidArgumentError("into", into, expected="a store for the projection's tables; replayed() makes one")
    # A live store is not to be mistaken for a scratch one, whichever object opened it: its tables would be dropped.
    if into is live or await into.last_position() or await into.fetch_one(_PROJECTORS) is not None:
        expected = "a store for nothing but this: without events, and never used by a projector"
        raise InvalidArgumentError("into", into, expected=expected)
    return into


class _HandlerPlayer:
    """Gives events to a function."""

    def __init__(self, function: Callable[..., object], threads: Threads, *, allow_side_effects: bool) -> None:
        self._endpoint, self._takes_envelope = endpoint_for(function, threads, most=1)
        self._allows = allow_side_effects
        self.played = self.discarded = 0

    async def play(self, stored: StoredEvent[Any]) -> None:
        """Have ``stored`` handled."""
        given = (stored.event, stored) if self._takes_envelope else (stored.event,)
        with _in_the_past(stored, allow_side_effects=self._allows):
            try:
                await self._endpoint(*given)
            except Discard:
                self.discarded += 1
            else:
                self.played += 1

    async def flush(self) -> None:
        """Do nothing: nothing waits."""


class _ProjectionPlayer:
    """Gives events to a projection, many in one transaction of the scratch store."""

    def __init__(self, projection: Projection, scratch: EventStore, *, allow_side_effects: bool) -> None:
        self._projection = projection
        self._scratch = scratch
        self._allows = allow_side_effects
        self._effects: dict[type, tuple[Effect, ...]] = {}
        self._waiting: list[_Item] = []
        self._tried: Effect | None = None
        self.played = self.discarded = 0

    async def play(self, stored: StoredEvent[Any]) -> None:
        """Have ``stored`` handled with those that come after it."""
        effects = self._effects_of(stored.event)
        if effects:
            self._waiting.append((stored, effects))
        if len(self._waiting) >= _BATCH_EVENTS:
            await self.flush()

    async def flush(self) -> None:
        """Handle what waits, in one transaction, or one by one where something in it fails or is discarded."""
        items, self._waiting = self._waiting, []
        if not items:
            return
        try:
            await self._transact(items)
        except Exception:  # noqa: BLE001 - it comes again, alone, unless it was a Discard
            for stored, effects in items:
                await self._play_alone(stored, effects)
        else:
            self.played += len(items)

    async def _play_alone(self, stored: StoredEvent[Any], effects: tuple[Effect, ...]) -> None:
        left: tuple[Effect, ...] = effects
        while left:
            try:
                await self._transact([(stored, left)])
            except Discard:
                left = tuple(effect for effect in left if effect is not self._tried)
            else:
                break
        self.discarded += left != effects
        self.played += bool(left)

    async def _transact(self, items: Sequence[_Item]) -> None:
        # All of it is history to the projection: nothing follows its commits.
        handling = Handling(self._projection, is_beside=False, goal=_EVERYTHING, build=0)
        token = current_handling.set(handling)
        try:
            async with self._scratch.transaction() as connection:
                for stored, effects in items:
                    handling.stored = stored
                    with _in_the_past(stored, allow_side_effects=self._allows):
                        for effect in effects:
                            self._tried = effect
                            handling.method = effect.method
                            await effect.run(stored, connection)
        finally:
            handling.is_open = False
            current_handling.reset(token)

    def _effects_of(self, event: object) -> tuple[Effect, ...]:
        event_class = type(event)
        effects = self._effects.get(event_class)
        if effects is None:
            effects = self._effects[event_class] = self._projection.effects_of(event_class)
        return effects


@contextmanager
def _in_the_past(stored: StoredEvent[Any], *, allow_side_effects: bool) -> Generator[None, None, None]:
    """Let the code of the block be a handler of ``stored`` that makes no messages, and its errors say where it was."""
    metadata = stored.metadata
    ids = MessageContext(metadata.correlation_id, metadata.event_id, metadata.user_id)
    message = current_message.set(metadata if allow_side_effects else ReplayedMessage(ids))
    flag = _is_replaying.set(True)
    try:
        yield
    except Exception as exc:
        place = f"stream {stored.stream!r} at version {stored.version}, position {stored.position}"
        exc.add_note(f"while the event in {place} was replayed")
        raise
    finally:
        _is_replaying.reset(flag)
        current_message.reset(message)
