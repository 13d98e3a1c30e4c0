"""One projection on its way along the log.

``following`` (catches up, then waits for more) → ``failed`` (an event or the store refused for good; the error is
kept) or ``stopped`` (the projector was left, or the store closed).
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    DecodeError,
    LaterStatementError,
    NoHandlerError,
    NotRunningError,
    PermanentError,
    ProjectionFailedError,
    ProjectionReplacedError,
    StoreSchemaError,
    StoreUnavailableError,
    UsageError,
)
from avx_events.core.policy import Discard, Reject
from avx_events.core.tasks import is_interrupted
from avx_events.patterns.pause import pause
from avx_events.patterns.projection import letters
from avx_events.patterns.projection.ahead import one_ahead
from avx_events.patterns.projection.projection import Effect, Projection
from avx_events.patterns.projection.speed import Speed
from avx_events.patterns.projection.standing import Standing
from avx_events.patterns.projection.status import FollowerState, ProjectionState, ProjectionStatistics, ProjectionStatus
from avx_events.patterns.projection.transactions import Item, Pace, PausedError, Transactions
from avx_events.patterns.projection.waiting import Waiters
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

if TYPE_CHECKING:
    from avx_events.store.subscription import StoreSubscription

Batch: TypeAlias = tuple[list[Item], int, Exception | None]
"""Events that matter, the position up to which they are all of them, and what ended the reading there."""

log = logging.getLogger("avx_events.projection")

# Positions that one read of the log goes over, however few of their events are wanted.
_MOST_AT_ONCE: Final = 10_000
# Events without a handler that may lie behind the checkpoint: a restart reads them again, which is quick.
_MOST_UNKEPT: Final = 10_000
# Events without a handler that an effect may have to wait for.
_MOST_BEHIND: Final = 1_000
# Trouble that comes after so long a wait for events, in seconds, is a new one.
_QUIET_S: Final = 60.0
# How often one that is paused looks whether it is resumed, in seconds.
_PAUSED_S: Final = 0.5
# How often one that waits for events looks whether it is to be built anew, and says where it is, in seconds.
_QUIET_LOOK_S: Final = 1.0
# How often who waits for a position looks whether another process has come there, in seconds.
_LOOK_S: Final = 0.05


class Follower:
    """Follows the log for one projection; ``begin``, then ``run`` in a task."""

    def __init__(
        self, store: EventStore, projection: Projection, *, pace: Pace, clock: Clock, queue: DeadLetterQueue | None
    ) -> None:
        """Follow ``store`` for ``projection``; what it cannot handle once it is live goes into ``queue``."""
        self._store: Final = store
        self._projection: Final = projection
        self._pace: Final = pace
        self._clock: Final = clock
        self._queue: Final = queue
        self._transactions: Final = Transactions(store, projection, pace=pace, clock=clock)
        self._standing: Final = Standing(store, projection)
        self._speed: Final = Speed()
        self._waiters: Final = Waiters()
        self._effects: dict[type, tuple[Effect, ...]] = {}
        self._news: StoreSubscription | None = None
        self._state: FollowerState = "following"
        self._error: BaseException | None = None
        self._problem = ""
        self._failed_at: datetime | None = None
        self._was_quiet = self._is_set_aside = self._awaits_rebuild = False
        self._is_near_the_end = False
        self._seen = 0  # up to here everything is done
        self._failures = self._dead_lettered = 0

    @property
    def name(self) -> str:
        """The projection's name."""
        return self._projection.name

    @property
    def projection(self) -> Projection:
        """The projection."""
        return self._projection

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
            handled=self._transactions.handled,
            transactions=self._transactions.committed,
            failures=self._failures,
            dead_lettered=self._dead_lettered,
            failed_actions=self._transactions.failed_actions,
        )

    async def status(self, last_position: int) -> ProjectionStatus:
        """Return how far it is on the way to ``last_position``.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        own, older = await self._standing.versions()
        position = max(self._seen, 0 if own is None else own.position)
        lag_events = max(last_position - position, 0)
        rate = self._speed.per_second(self._seen, now_s=self._clock.monotonic())
        left_s = lag_events / rate if rate else None
        standing: ProjectionState = "live" if own is not None and own.stage == "live" else "building"
        if own is not None and own.is_paused:
            standing = "paused"
        return ProjectionStatus(
            version=self._projection.version,
            state=self._state if self._state != "following" else standing,
            replaces=None if older is None else older.version,
            position=position,
            last_position=last_position,
            lag_events=lag_events,
            lag_seconds=await self._age_after(position) if lag_events else 0.0,
            events_per_second=rate,
            seconds_left=left_s if lag_events else 0.0,
            problem=self._problem,
        )

    async def begin(self) -> None:
        """Find the checkpoint, and set up what is new, or is to be built anew.

        Raises:
            ProjectionReplacedError: A newer version is there.
            Exception: What ``setup`` raised; nothing of it was kept.
        """
        await self._transactions.begin(await self._store.last_position())
        self._awaits_rebuild = False
        self._standing.dialect = self._transactions.dialect
        self._seen = self._transactions.kept

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

    def await_rebuild(self) -> None:
        """Be at no position any more until it is built anew, which somebody has asked for."""
        self._awaits_rebuild = self._state == "following"

    def leave(self) -> None:
        """Be stopped, also where there was no time to begin."""
        if self._state == "following":
            self._end("stopped")

    async def reach(self, position: int) -> None:
        """Return when everything up to ``position`` is done, here or by another process.

        Raises:
            ProjectionFailedError: It failed before.
            NotRunningError: It was stopped before.
        """
        while not self._is_at(position):
            if self._state == "stopped":
                raise NotRunningError("the projector", f"follow the log for {self.name!r}")
            has_failed = self._state == "failed"
            is_waiting = not has_failed and await self._waiters.wait_for(position, timeout_s=_LOOK_S)
            if not is_waiting and await self._standing.is_done(position):
                return
            if has_failed:
                raise ProjectionFailedError(self.name, problem=self._problem) from self._error

    async def redrive(self, letter: DeadLetter) -> bool:
        """Do the event of ``letter`` now, in a transaction; False, and nothing, where it needs no redrive any more.

        Raises:
            NoHandlerError: The letter is of another version that is still read, or the event's handlers are gone.
            BaseException: What a handler raised.
        """
        place = await self._standing.place_of(letter.id)
        if place is None:
            return False
        version, position = place
        if version != self._projection.version:
            raise NoHandlerError(f"dead letters of {self.name!r} version {version}")
        stored = await self._standing.event_after(position - 1)
        effects = () if stored is None else self._effects_of(stored.event)
        if stored is None or not effects:
            raise NoHandlerError(f"the event of dead letter {letter.id} in projection {self.name!r}")
        return await self._transactions.make_up((stored, effects), letter.id)

    async def _follow_to_the_end(self) -> None:
        attempt, failed_at = 1, letters.now(self._clock)
        while True:
            before = self._seen
            self._was_quiet, self._transactions.failed = False, None
            try:
                if self._is_set_aside:
                    await self.begin()
                    self._is_set_aside = False
                await self._follow()
            except PausedError:
                await pause(self._clock, _PAUSED_S)
            except ProjectionReplacedError:
                if self._is_set_aside:  # it is not that somebody wants it built anew
                    raise
                self._is_set_aside = True
            except BaseException as exc:
                if is_interrupted(exc):
                    raise
                if await self._is_at_an_end():
                    return
                # An event that others stood before was tried once by now, with them or after them.
                attempt = 2 if self._seen != before or self._was_quiet else attempt + 1
                failed_at = letters.now(self._clock) if attempt == 2 else failed_at  # noqa: PLR2004 - the first retry
                if not await self._waits_before(attempt, exc):
                    await self._go_on_without(exc, attempts=attempt - 1, first_failed_at=failed_at)
                    attempt = 1

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
        """Follow from where everything is done, for ever."""
        while True:
            last = await self._store.last_position()
            self._is_near_the_end = last - self._seen <= self._pace.batch_events
            if self._seen < last:
                await self._catch_up(min(last, self._seen + _MOST_AT_ONCE))
            if self._is_due_to_go_live():
                await self._apply([], self._seen)
            if self._is_near_the_end and self._seen >= last:
                await self._wait_for_more()

    def _is_due_to_go_live(self) -> bool:
        return self._is_near_the_end and self._transactions.stage != "live"

    async def _catch_up(self, until: int) -> None:
        """Do what there is up to position ``until``; less where somebody else has moved the checkpoint meanwhile."""
        batches = self._batches(until)
        if until - self._seen > self._pace.batch_events:
            batches = one_ahead(batches)
        async with aclosing(batches):
            async for items, gathered, error in batches:
                await self._take(items, gathered)
                if error is not None:
                    raise error
                if self._seen != gathered:
                    return

    async def _batches(self, until: int) -> AsyncGenerator[Batch, None]:
        gathered, types = self._seen, self._projection.wanted_types()
        async with aclosing(self._store.read_all(after=gathered, until=until, types=types)) as events:
            error: Exception | None = None
            while gathered < until and error is None:
                items, gathered, error = await self._gather(events, after=gathered, until=until)
                yield items, gathered, error

    async def _gather(self, events: AsyncGenerator[StoredEvent[Any], None], *, after: int, until: int) -> Batch:
        """Take from ``events``, which lie between ``after`` and ``until``, what goes into one transaction."""
        # Written out: the loop does it for each event (bench/projections.py).
        items: list[Item] = []
        effects_of, most = self._effects, self._pace.batch_events
        position, last = after, until
        try:
            async for stored in events:
                position = stored.position
                event: object = stored.event
                effects = effects_of.get(type(event))
                if effects is None:
                    effects = self._effects_of(event)
                if effects:
                    if not items:
                        last = min(until, position + _MOST_BEHIND)
                    items.append((stored, effects))
                if len(items) >= most or position >= last:
                    return items, position, None
        except Exception as exc:  # noqa: BLE001 - raised again when what came before it is done
            return items, position, exc
        return items, until, None

    def _effects_of(self, event: object) -> tuple[Effect, ...]:
        event_class = type(event)
        effects = self._effects.get(event_class)
        if effects is None:
            effects = self._effects[event_class] = self._projection.effects_of(event_class)
        return effects

    async def _wait_for_more(self) -> None:
        """Return when there is something after what is seen, whatever it is.

        Raises:
            ClosedError: The store is closed.
            StoreUnavailableError: The log cannot be read now.
        """
        began_at = self._clock.monotonic()
        if self._news is None or self._news.position != self._seen:
            self._news = self._store.subscribe(after=self._seen, unknown="keep")
        try:
            while not await self._has_news(self._news):
                await self._standing.ensure_is_there()
                if self._transactions.kept < self._seen:  # there is time to say so, for those who look from outside
                    await self._apply([], self._seen)
        except StopAsyncIteration:
            raise ClosedError("the event store", "follow it") from None
        except DecodeError as exc:  # whoever reads it for its own sake finds out
            log.debug("projection %r: an event after position %d: %s", self.name, self._seen, exc)
        finally:
            self._was_quiet = self._clock.monotonic() - began_at > _QUIET_S

    async def _has_news(self, news: "StoreSubscription") -> bool:
        """Wait for the next event; False where it has not come after a while."""
        while_quiet = asyncio.timeout(_QUIET_LOOK_S)
        try:
            async with while_quiet:
                await anext(news)
        except TimeoutError:
            if while_quiet.expired():
                return False
            raise
        return True

    async def _take(self, items: list[Item], until: int) -> None:
        """Do ``items``, in as many transactions as they need."""
        if not items and until - self._transactions.kept < _MOST_UNKEPT:
            self._advance(max(until, self._seen))  # another process may have been here
            return
        while True:
            before = self._seen
            try:
                await self._commit(items, until)
            except Discard as exc:
                items = self._without_tried(items, exc)
            if self._seen < before or self._seen >= until:  # the checkpoint may have been set back
                return
            items = [item for item in items if item[0].position > self._seen]

    def _without_tried(self, items: list[Item], reason: Discard) -> list[Item]:
        """Return ``items`` without the effect that was tried last; another one of the same event stays."""
        log.info("projection %r discards the event %s: %s", self.name, self._where(), reason)
        failed = self._transactions.failed
        return [
            (stored, left)
            for stored, effects in items
            if (left := tuple(each for each in effects if (stored, each.method) != failed))
        ]

    async def _commit(self, items: list[Item], until: int) -> None:
        try:
            await self._apply_to_the_last(items, until)
        except BaseException as exc:
            failed = self._transactions.failed
            before = [] if failed is None else [item for item in items if item[0].position < failed.stored.position]
            if before and not is_interrupted(exc):  # they took no harm, and are not to be tried again and again
                await self._apply(before, before[-1][0].position)
                self._transactions.failed = failed
            raise

    async def _apply_to_the_last(self, items: list[Item], until: int) -> None:
        try:
            await self._apply(items, until)
        except LaterStatementError as exc:  # whose it was is only known where each goes by itself
            log.debug("projection %r: again, statement by statement: %s", self.name, exc)
            await self._apply(items, until, puts_off=False)

    async def _apply(self, items: list[Item], until: int, *, puts_off: bool = True) -> None:
        may_switch = self._is_near_the_end
        self._advance(await self._transactions.apply(items, until, may_switch=may_switch, puts_off=puts_off))
        await self._transactions.follow_up()

    async def _waits_before(self, attempt: int, error: BaseException) -> bool:
        """Wait before the next attempt, and return True; False where there is none."""
        self._failures += 1
        delay_s = self._pace.retry.delay_before(attempt, jitter=random.random())  # noqa: S311 - spreads load
        if delay_s is None or isinstance(error, UsageError | PermanentError | Reject):
            return False
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
        return True

    async def _go_on_without(self, error: BaseException, *, attempts: int, first_failed_at: datetime) -> None:
        """Make a dead letter of the event that was tried, then move past it: a crash in between repeats the letter.

        Raises:
            BaseException: ``error``, where the projection is not live, has no queue, or failed of something else than
                a handler.
            Exception: The queue, or the database, failed at it.
        """
        failed, queue = self._transactions.failed, self._queue
        is_of_store = isinstance(error, StoreUnavailableError | StoreSchemaError)
        if queue is None or failed is None or is_of_store or self._transactions.stage != "live":
            raise error
        dead_at = letters.now(self._clock)
        letter = letters.letter_of(
            self._projection, failed, error, attempts=attempts, first_failed_at=first_failed_at, dead_at=dead_at
        )
        await letters.keep(queue, letter, retry=self._pace.retry, clock=self._clock)
        where = self._where()
        try:
            self._advance(await self._transactions.leave_out(failed.stored, letter.id))
        except ProjectionReplacedError:  # the letter needs no redrive where it is built anew
            self._is_set_aside = True
            return
        if self._transactions.stage != "live":  # another process builds it anew: it is tried again there
            return
        self._dead_lettered += 1
        log.error("projection %r goes on without the event %s; it is dead letter %s", self.name, where, letter.id)

    def _where(self) -> str:
        failed = self._transactions.failed
        if failed is None:
            return f"after position {self._seen}"
        return f"at {failed.stored.metadata.event_type!r}, position {failed.stored.position}"

    def _advance(self, position: int) -> None:
        self._seen = position
        self._speed.passes(position, at_s=self._clock.monotonic())
        if self._transactions.stage != "beside":
            self._waiters.wake_until(position)

    def _is_at(self, position: int) -> bool:
        return self._seen >= position and self._transactions.stage != "beside" and not self._awaits_rebuild

    async def _age_after(self, position: int) -> float:
        """Return for how many seconds there has been an event after ``position``."""
        now_s = self._clock.time_ns() / 1e9
        try:
            stored = await self._standing.event_after(position)
            since_s = now_s if stored is None else stored.recorded_us / 1e6
        except PermanentError:  # the one that cannot be read is that one: it is as old as the failure, at the least
            since_s = now_s if self._failed_at is None else self._failed_at.timestamp()
        return max(now_s - since_s, 0.0)

    def _fail(self, error: BaseException) -> None:
        where = self._where()
        log.error("projection %r stopped %s: %s", self.name, where, type(error).__name__, exc_info=error)
        self._error, self._problem = error, f"{where}: {type(error).__name__}: {error}"
        self._failed_at = letters.now(self._clock)
        self._end("failed")

    def _end(self, state: FollowerState) -> None:
        self._state = state
        self._waiters.wake_all()
