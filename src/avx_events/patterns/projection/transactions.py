"""The transactions of one projection: what handlers do, and the checkpoint that says so, together or not at all."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.errors import HandlerTimeoutError, LaterStatementError
from avx_events.core.metadata import current_message
from avx_events.core.policy import Retry
from avx_events.core.tasks import is_interrupted
from avx_events.patterns.projection.checkpoints import (
    Checkpoint,
    Stage,
    current,
    leave_out,
    make_up,
    move,
    undo_where_idle,
)
from avx_events.patterns.projection.handling import FollowUp, Handled, Handling, current_handling
from avx_events.patterns.projection.projection import Effect, Projection
from avx_events.patterns.projection.versions import begin, has_settled
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection, Dialect
from avx_events.store.stored_event import StoredEvent

Item: TypeAlias = tuple[StoredEvent[Any], tuple[Effect, ...]]
"""An event, and what it does."""

log = logging.getLogger("avx_events.projection")

# How long a transaction goes on taking events, in seconds: appends wait meanwhile.
_LONGEST_S: Final = 0.05
# How long after its own deadline a transaction is left to a process that stands still, in seconds.
_GRACE_S: Final = 1.0


class PausedError(Exception):
    """Somebody has paused the projection: nothing was done, and nothing is to be done until it is resumed."""


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


class Transactions:
    """What a follower does to the database.

    Attributes:
        stage: The stage of the projection's version when it was last looked at.
        dialect: The SQL of the store's database.
        kept: Up to here the checkpoint says that all is done; what lies behind had no handler.
        failed: What handlers were at when the last transaction failed; None where it failed of something else.
        follow_ups: What is to follow the last commit; ``follow_up`` does it.
        handled: Events whose effects were committed.
        committed: Transactions that were committed and had something to do.
        failed_actions: Actions after a commit that failed.
    """

    def __init__(self, store: EventStore, projection: Projection, *, pace: Pace, clock: Clock) -> None:
        """Work on the database of ``store`` for ``projection``."""
        self._store: Final = store
        self._projection: Final = projection
        self._pace: Final = pace
        self._clock: Final = clock
        self._idle_s: Final = pace.timeout_s + _GRACE_S
        self.stage: Stage = "building"
        self.dialect: Dialect = "sqlite"
        self.kept = 0
        self.failed: Handled | None = None
        self.follow_ups: Sequence[FollowUp] = ()
        self.handled = self.committed = self.failed_actions = 0

    async def begin(self, last_position: int) -> None:
        """Find the checkpoint, and set a new version up; ``last_position`` is the end of the log.

        Raises:
            ProjectionReplacedError: A newer version is there.
            Exception: What ``setup`` raised; nothing of it was kept.
        """
        async with self._store.transaction() as connection:
            self.dialect = connection.dialect
            await undo_where_idle(connection, self._idle_s)
            found = await begin(connection, self._projection, last_position=last_position)
        self.stage, self.kept = found.stage, found.position

    async def apply(self, items: Sequence[Item], until: int, *, may_switch: bool, puts_off: bool = True) -> int:
        """Do ``items`` and move the checkpoint to ``until``, or as far as time allows, in one transaction.

        What another process has done already is not done again.

        Args:
            items: The events that matter, in the order of the log.
            until: Up to there they are all of them.
            may_switch: Whether a version that is built beside another may take its place afterwards.
            puts_off: Whether statements of several handlers may go to the database together; otherwise ``failed`` tells
                also which handler's it was that was refused.

        Returns:
            The position up to which everything is done; it may lie before, or behind, what was to be done.

        Raises:
            PausedError: It is paused; nothing was done.
            ProjectionReplacedError: A newer version has taken its place.
            HandlerTimeoutError: The handlers took too long.
            LaterStatementError: The database refused a statement that a handler had put off.
            BaseException: What a handler raised.
        """
        self.failed = None
        handled, follow_ups = 0, self.follow_ups
        async with self._transaction() as connection:
            is_beside = self.stage == "beside"  # as far as is known: where it is built anew, others may have begun that
            with_older = may_switch and is_beside
            found = await current(connection, self._projection, idle_s=self._idle_s, with_older=with_older)
            own = found[-1]
            self.stage = own.stage  # also where a handler fails: what is built anew leaves out no event
            if own.is_paused:
                raise PausedError
            reached, stage = own.position, own.stage
            is_new = self.kept <= reached < until
            if is_new:
                left = [item for item in items if item[0].position > reached]
                with self._handling(own) as handling:
                    try:
                        handled, reached = await self._handle(left, until, connection, handling, puts_off=puts_off)
                    except BaseException as exc:
                        is_of_another = puts_off and isinstance(exc, LaterStatementError)
                        self.failed = None if is_of_another else handling.handled
                        raise
                follow_ups = handling.follow_ups
                await move(connection, self._projection, reached)
            if stage == "building" or (stage == "beside" and may_switch and is_beside):
                has_gone_live = await has_settled(connection, self._projection, found, position=reached)
                stage = "live" if has_gone_live else stage
        self.handled += handled
        self.committed += is_new
        self.stage, self.kept, self.follow_ups = stage, reached, follow_ups
        return reached

    async def follow_up(self) -> None:
        """Do what is to follow the last commit, once."""
        follow_ups, self.follow_ups = self.follow_ups, ()
        await self._follow_up(follow_ups)

    async def leave_out(self, stored: StoredEvent[Any], letter_id: str) -> int:
        """Move the checkpoint past an event without its effect, of which a dead letter tells; return where it is.

        Where the projection is built anew meanwhile it stays before the event, and the letter needs no redrive.
        """
        async with self._transaction() as connection:
            (own,) = await current(connection, self._projection, idle_s=self._idle_s)
            reached = own.position
            if own.stage == "live" and self.kept <= reached < stored.position:
                await leave_out(connection, self._projection, stored.position, letter_id)
                await move(connection, self._projection, stored.position)
                reached = stored.position
        self.stage, self.kept = own.stage, reached
        return reached

    async def make_up(self, item: Item, letter_id: str) -> bool:
        """Do an event that was passed over; False, and nothing, where that was done meanwhile.

        Raises:
            ProjectionReplacedError: A newer version has taken its place.
            HandlerTimeoutError: The handlers took too long.
            BaseException: What a handler raised.
        """
        async with self._transaction() as connection:
            (own,) = await current(connection, self._projection, idle_s=self._idle_s)
            if not await make_up(connection, self._projection, letter_id):
                return False
            with self._handling(own) as handling:
                await self._handle([item], item[0].position, connection, handling, puts_off=False)
        self.handled += 1
        await self._follow_up(handling.follow_ups)
        return True

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection, None]:
        deadline = asyncio.timeout(self._pace.timeout_s)
        try:
            async with self._store.transaction() as connection, deadline:
                yield connection
        except TimeoutError as exc:
            if deadline.expired():
                raise HandlerTimeoutError(f"projection {self._projection.name!r}", self._pace.timeout_s) from exc
            raise

    @contextmanager
    def _handling(self, own: Checkpoint) -> Generator[Handling, None, None]:
        is_beside = own.stage == "beside"
        handling = Handling(self._projection, is_beside=is_beside, goal=own.replays_until, build=own.build)
        tokens = current_handling.set(handling), current_message.set(current_message.get())
        try:
            yield handling
        finally:
            handling.is_open = False
            current_handling.reset(tokens[0])
            current_message.reset(tokens[1])

    async def _handle(
        self, items: Sequence[Item], until: int, connection: Connection, handling: Handling, *, puts_off: bool
    ) -> tuple[int, int]:
        """Return how many of ``items`` were done in the time there is, and the position up to which all is done."""
        # Written out: the loop does it for each event (bench/projections.py).
        monotonic, set_message = self._clock.monotonic, current_message.set
        late_at = monotonic() + _LONGEST_S
        for number, (stored, effects) in enumerate(items, start=1):
            handling.stored = stored
            set_message(stored.metadata)
            for method, call, takes_stored in effects:
                handling.method = method
                if takes_stored:
                    await call(stored.event, connection, stored)
                else:
                    await call(stored.event, connection)
                if not puts_off:
                    await connection.flush()
            if monotonic() > late_at and number < len(items):
                return number, stored.position
        return len(items), until

    async def _follow_up(self, follow_ups: Sequence[FollowUp]) -> None:
        for cause, action in follow_ups:
            token = current_message.set(cause)
            try:
                async with asyncio.timeout(self._pace.timeout_s):
                    await action()
            except BaseException as exc:  # the commit stands, whatever comes of what was to follow it
                if is_interrupted(exc):
                    raise
                self.failed_actions += 1
                log.exception(
                    "projection %r: what was to follow the commit of %r failed and is not repeated",
                    self._projection.name,
                    cause.event_type,
                )
            finally:
                current_message.reset(token)
