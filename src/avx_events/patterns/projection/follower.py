"""One projection on its way along the log.

``following`` (catches up, then waits for more) → ``failed`` (an event or the store refused for good; the error is
kept) or ``stopped`` (the projector was left, or the store closed).
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    HandlerTimeoutError,
    NotRunningError,
    PermanentError,
    ProjectionFailedError,
    UsageError,
)
from avx_events.core.metadata import current_message
from avx_events.core.policy import Discard, Reject, Retry
from avx_events.core.tasks import is_interrupted, wake
from avx_events.patterns.pause import pause
from avx_events.patterns.projection.checkpoints import begin, move, position_of
from avx_events.patterns.projection.projection import Effect, Projection
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent
from avx_events.store.subscription import StoreSubscription

State: TypeAlias = Literal["following", "failed", "stopped"]
Item: TypeAlias = tuple[StoredEvent[Any], tuple[Effect, ...]]
"""An event, and what it does."""

log = logging.getLogger("avx_events.projection")

# How long a transaction goes on taking events, in seconds: appends wait meanwhile.
_LONGEST_S: Final = 0.05
# Events without a handler that may lie behind the checkpoint: a restart reads them again, which is quick.
_MOST_UNKEPT: Final = 10_000
# Events without a handler that an effect may have to wait for.
_MOST_BEHIND: Final = 1_000
# Trouble that comes after so long a wait for events, in seconds, is a new one.
_QUIET_S: Final = 60.0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How a projection goes along.

    Attributes:
        retry: How often an event that fails is tried, and after which pauses.
        batch_events: The most events in one transaction.
        timeout_s: The longest that one transaction may take, in seconds of real time: a clock cannot hurry a database.
    """

    retry: Retry
    batch_events: int
    timeout_s: float


class ProjectionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one projection did since its projector was entered.

    Attributes:
        version: Its version.
        state: ``following``, ``failed`` or ``stopped``.
        position: The position in the log up to which it is done.
        handled: Events whose effects were committed here.
        transactions: Transactions that were committed here.
        failures: Attempts that failed and were undone.
    """

    version: int
    state: State
    position: int
    handled: int
    transactions: int
    failures: int


class Follower:
    """Follows the log for one projection; ``begin``, then ``run`` in a task."""

    def __init__(self, store: EventStore, projection: Projection, *, pace: Pace, clock: Clock) -> None:
        """Follow ``store`` for ``projection``."""
        self._store: Final = store
        self._projection: Final = projection
        self._pace: Final = pace
        self._clock: Final = clock
        self._effects: dict[type, tuple[Effect, ...]] = {}
        self._state: State = "following"
        self._error: BaseException | None = None
        self._problem = ""
        self._was_quiet = False
        self._seen = 0  # up to here everything is done
        self._kept = 0  # up to here the checkpoint says so; what lies between had no handler
        self._trying: StoredEvent[Any] | None = None
        self._tried_effect: Effect | None = None
        self._waiters: set[tuple[int, asyncio.Future[None]]] = set()
        self._handled = self._transactions = self._failures = 0

    @property
    def name(self) -> str:
        """The projection's name."""
        return self._projection.name

    @property
    def position(self) -> int:
        """The position up to which everything is done."""
        return self._seen

    def statistics(self) -> ProjectionStatistics:
        """Return what was done so far."""
        return ProjectionStatistics(
            version=self._projection.version,
            state=self._state,
            position=self._seen,
            handled=self._handled,
            transactions=self._transactions,
            failures=self._failures,
        )

    async def begin(self) -> None:
        """Find the checkpoint, and set a new version up.

        Raises:
            ProjectionReplacedError: A newer version is there.
            Exception: What ``setup`` raised; nothing of it was kept.
        """
        async with self._store.transaction() as connection:
            position = await begin(connection, self._projection)
        self._seen = self._kept = position

    async def run(self) -> None:
        """Follow until the store closes, the task is cancelled, or an event fails for good."""
        try:
            await self._follow_to_the_end()
        except BaseException as exc:  # the handler boundary: kept, logged, raised by reach()
            if is_interrupted(exc):
                self._end("stopped")
                raise
            self._fail(exc)
        else:
            self._end("stopped")

    def leave(self) -> None:
        """Be stopped, also where there was no time to begin."""
        if self._state == "following":
            self._end("stopped")

    async def reach(self, position: int) -> None:
        """Return when everything up to ``position`` is done.

        Raises:
            ProjectionFailedError: It failed before.
            NotRunningError: It was stopped before.
        """
        while self._seen < position:
            if self._state == "failed":
                raise ProjectionFailedError(self.name, problem=self._problem) from self._error
            if self._state == "stopped":
                raise NotRunningError("the projector", f"follow the log for {self.name!r}")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add((position, waiter))
            try:
                await waiter
            finally:
                self._waiters.discard((position, waiter))

    async def _follow_to_the_end(self) -> None:
        attempt = 1
        while True:
            before = self._seen
            self._was_quiet = False
            try:
                await self._follow()
            except BaseException as exc:
                if is_interrupted(exc):
                    raise
                if await self._is_at_an_end():
                    return
                # An event that others stood before was tried once by now, with them or after them.
                attempt = 2 if self._seen != before or self._was_quiet else attempt + 1
                await self._wait_before(attempt, exc)

    async def _is_at_an_end(self) -> bool:
        """Tell whether the store is closed; a handler may raise ``ClosedError`` of something else."""
        try:
            await self._store.last_position()
        except ClosedError:
            return True
        except AvxEventsError:  # it is away, which the next attempt to read it will find out
            return False
        return False

    async def _follow(self) -> None:
        """Follow from where everything is done; returns where the checkpoint was set back."""
        subscription = self._store.subscribe(after=self._seen)
        known = await self._store.last_position()
        while True:
            items, until, error = await self._gather(subscription, known)
            if not await self._take(items, until):
                return
            if error is not None:
                raise error
            if until >= known:
                known = await self._store.last_position()

    async def _gather(self, subscription: StoreSubscription, known: int) -> tuple[list[Item], int, Exception | None]:
        """Wait for the next event, and take those with it that are there up to position ``known``.

        Returns:
            The events that matter, the position up to which they are all of them, and what ended the reading there.
        """
        items: list[Item] = []
        self._trying = None
        began_at = self._clock.monotonic()
        try:
            async for stored in subscription:
                effects = self._effects_of(stored.event)
                if effects:
                    items.append((stored, effects))
                if self._is_enough(items, stored.position, known):
                    return items, stored.position, None
        except Exception as exc:  # noqa: BLE001 - raised again when what came before it is done
            self._was_quiet = self._clock.monotonic() - began_at > _QUIET_S
            return items, subscription.position, exc
        return items, subscription.position, ClosedError("the event store", "follow it")

    def _is_enough(self, items: list[Item], position: int, known: int) -> bool:
        return (
            position >= known
            or len(items) >= self._pace.batch_events
            or position - self._kept >= _MOST_UNKEPT
            or bool(items and position - items[0][0].position >= _MOST_BEHIND)
        )

    def _effects_of(self, event: object) -> tuple[Effect, ...]:
        event_class = type(event)
        effects = self._effects.get(event_class)
        if effects is None:
            effects = self._effects[event_class] = self._projection.effects_of(event_class)
        return effects

    async def _take(self, items: list[Item], until: int) -> bool:
        """Do ``items``, in as many transactions as they need; return False where the checkpoint was set back."""
        if not items and until - self._kept < _MOST_UNKEPT:
            self._advance(max(until, self._seen))  # another process may have been here
            return True
        while True:
            before = self._seen
            try:
                await self._commit(items, until)
            except Discard as exc:
                items = self._without_tried(items, exc)
            if self._seen < before:
                return False
            if self._seen >= until:
                return True
            items = [item for item in items if item[0].position > self._seen]

    def _without_tried(self, items: list[Item], reason: Discard) -> list[Item]:
        """Return ``items`` without the effect that was tried last; another one of the same event stays."""
        log.info("projection %r discards the event %s: %s", self.name, self._where(), reason)
        tried, discarded = self._trying, self._tried_effect
        return [
            (stored, left)
            for stored, effects in items
            if (left := tuple(each for each in effects if stored is not tried or each is not discarded))
        ]

    async def _commit(self, items: list[Item], until: int) -> None:
        try:
            await self._transact(items, until)
        except BaseException as exc:
            failed, effect = self._trying, self._tried_effect
            before = [] if failed is None else [item for item in items if item[0].position < failed.position]
            if before and not is_interrupted(exc):  # they took no harm, and are not to be tried again and again
                await self._transact(before, before[-1][0].position)
                self._trying, self._tried_effect = failed, effect
            raise

    async def _transact(self, items: list[Item], until: int) -> None:
        """Do ``items`` and move the checkpoint to ``until``, or as far as time allows, in one transaction."""
        self._trying = None
        deadline = asyncio.timeout(self._pace.timeout_s)
        handled = 0
        try:
            async with self._store.transaction() as connection, deadline:
                # Another process may have been here meanwhile: what it did is not done again.
                reached = await position_of(connection, self._projection)
                is_new = self._kept <= reached < until
                if is_new:
                    left = [item for item in items if item[0].position > reached]
                    handled, reached = await self._handle(left, until, connection)
                    await move(connection, self._projection, reached)
        except TimeoutError as exc:
            if deadline.expired():
                raise HandlerTimeoutError(f"projection {self.name!r}", self._pace.timeout_s) from exc
            raise
        self._handled += handled
        self._transactions += is_new
        self._kept = reached
        self._advance(reached)

    async def _handle(self, items: Sequence[Item], until: int, connection: Connection) -> tuple[int, int]:
        """Return how many of ``items`` were done in the time there is, and the position up to which all is done."""
        late_at = self._clock.monotonic() + _LONGEST_S
        for number, (stored, effects) in enumerate(items, start=1):
            self._trying = stored
            current_message.set(stored.metadata)
            for effect in effects:
                self._tried_effect = effect
                await effect(stored, connection)
            if self._clock.monotonic() > late_at and number < len(items):
                self._trying = None
                return number, stored.position
        self._trying = None
        return len(items), until

    async def _wait_before(self, attempt: int, error: BaseException) -> None:
        self._failures += 1
        delay_s = self._pace.retry.delay_before(attempt, jitter=random.random())  # noqa: S311 - spreads load
        if delay_s is None or isinstance(error, UsageError | PermanentError | Reject):
            raise error
        log.warning(
            "projection %r failed %s, attempt %d of %d, again in %.2f s: %s: %s",
            self.name,
            self._where(),
            attempt - 1,
            self._pace.retry.attempts,
            delay_s,
            type(error).__name__,
            error,
        )
        await pause(self._clock, delay_s)

    def _where(self) -> str:
        trying = self._trying
        if trying is None:
            return f"after position {self._seen}"
        return f"at {trying.metadata.event_type!r}, position {trying.position}"

    def _advance(self, position: int) -> None:
        self._seen = position
        for wanted, waiter in self._waiters:
            if wanted <= position:
                wake(waiter)

    def _fail(self, error: BaseException) -> None:
        where = self._where()
        log.error("projection %r stopped %s: %s", self.name, where, type(error).__name__, exc_info=error)
        self._error, self._problem = error, f"{where}: {type(error).__name__}: {error}"
        self._end("failed")

    def _end(self, state: State) -> None:
        self._state = state
        for _, waiter in self._waiters:
            wake(waiter)
