"""Runs projections: each follows the log of one store, in a task of its own, from its own checkpoint."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Self

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, id_of
from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    ClosedError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NotRunningError,
    ProjectionLagError,
)
from avx_events.core.policy import ONE_ATTEMPT, Retry
from avx_events.core.tasks import TaskScope, is_interrupted
from avx_events.patterns.projection.follower import Follower
from avx_events.patterns.projection.letters import failed_again, now, projection_of
from avx_events.patterns.projection.overview import Overview
from avx_events.patterns.projection.projection import Projection
from avx_events.patterns.projection.status import ProjectionStatistics, ProjectionStatus
from avx_events.patterns.projection.transactions import Pace
from avx_events.store.event_store import EventStore

log = logging.getLogger("avx_events.projection")

_WHAT: Final = "the projector"
DEFAULT_RETRY: Final = Retry()


class Projector:
    """Keeps projections up to date, as ``async with Projector(store, UserDirectory()) as projector:``.

    Each projection catches up from its checkpoint and then follows live, this process's appends and others'. Events
    are handled in the order of the log, several in one transaction; the checkpoint moves in that same transaction, so
    that whatever crashes when, each event has its effect exactly once. Several projectors, in one process or many, may
    run the same projection on one database: whoever comes first to an event handles it, and the others pass it over.
    Events that no method handles are passed over as well, and move the checkpoint in memory; on disk with the next
    event that is handled, after 10,000 of them, or when there has been nothing for a second.

    Where a handler fails, its transaction is undone, the events before it are committed, and it is tried again as
    ``retry`` says; what is a ``UsageError``, ``PermanentError`` or ``Reject`` is not. What follows where it fails for
    good depends on whether the projection is live: whether this version of it has once come to the end of the log.

    - While it is built, it stops at that event, which is logged as an error, and ``caught_up`` raises: nothing is
      skipped. The other projections go on. It begins again at that event when a projector is entered anew.
    - Once it is live, the event becomes a dead letter in ``dead_letter_queue`` and the projection goes on without it:
      nothing of what its methods did stays. ``redrive`` gives it back. Without a queue it stops as above.

    What cannot be read (no class fits it) stops a projection in any case. A projection asks the store for the types of
    its handlers only, so that unknown types do not matter to it; where a method handles a family, ``Event`` or a class
    that others are derived from, it reads everything, and the store's own ``unknown=`` decides of a type that this
    process has no class for: an error that stops the projection, or with ``"keep"`` passed over. A method that raises
    ``Discard`` is passed over for that event: what it did is undone, which is logged, and all else goes on.

    A ``version`` that the database does not have yet is built anew from the first event. With ``tables=`` that is done
    beside the version before it, which goes on being read, and followed by processes that run it; once the new one has
    come to the end of the log, it takes the names and the place of the older one in one transaction, and a projector
    that still runs that stops with ``ProjectionReplacedError``. Without ``tables=`` it is built in the older one's
    place, which ends at once: the read model is incomplete until ``caught_up`` returns. ``rebuild`` has a version built
    anew in the same way; until then what is read stays as it was.

    The time of a transaction is the time that appends wait for: it takes no further events once it has taken 50 ms.
    """

    def __init__(
        self,
        store: EventStore,
        *projections: Projection,
        retry: Retry | None = DEFAULT_RETRY,
        batch_events: int = 500,
        timeout_s: float = 30.0,
        dead_letter_queue: DeadLetterQueue | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Run ``projections`` on ``store``, once entered.

        Args:
            store: Whose log, and whose database; one in memory without a database will not do.
            projections: At least one, each with a name of its own.
            retry: How often an event that fails is tried, and after which pauses; None is one attempt.
            batch_events: The most events in one transaction, 1 or more.
            timeout_s: The longest that the handlers of one transaction may take, in seconds of real time, before it is
                undone: no clock hurries a database. A statement that runs is ended, unless it runs on the loop, as it
                does with ``?writer=inline``.
            dead_letter_queue: Where events go that a live projection cannot handle; whoever made it closes it, after
                the projector was left. None stops the projection at such an event.
            clock: Measures pauses, lags and rates.

        Raises:
            InvalidArgumentError: There is no projection, a class instead of an instance, one without a name or
                without handlers, two of one name, or a number outside of its range.
        """
        _check(projections)
        arguments.whole("batch_events", batch_events, least=1)
        arguments.seconds("timeout_s", timeout_s)
        arguments.optional("retry", retry, Retry)
        arguments.optional("dead_letter_queue", dead_letter_queue, DeadLetterQueue)
        pace = Pace(retry=ONE_ATTEMPT if retry is None else retry, batch_events=batch_events, timeout_s=timeout_s)
        self._store: Final = store
        self._retry: Final = pace.retry
        self._queue: Final = dead_letter_queue
        self._clock: Final = clock
        self._followers: Final = [
            Follower(store, projection, pace=pace, clock=clock, queue=dead_letter_queue) for projection in projections
        ]
        self._waits: Final = [partial(self._caught_up, (follower,)) for follower in self._followers]
        self._scope: Final = TaskScope()
        self._is_entered = False
        self._is_running = False

    @property
    def projections(self) -> Sequence[Projection]:
        """The projections that it runs once it is entered, in the order in which they were given."""
        return [follower.projection for follower in self._followers]

    @property
    def is_entered(self) -> bool:
        """Whether it was entered, which it can be once; also true after it was left."""
        return self._is_entered

    @property
    def retry(self) -> Retry:
        """How often an event that fails is tried, and after which pauses; ``retry=None`` is one attempt."""
        return self._retry

    @property
    def dead_letter_queue(self) -> DeadLetterQueue:
        """The queue that the projector was given.

        Raises:
            NoDeadLetterQueueError: It was given none.
        """
        if self._queue is None:
            raise NoDeadLetterQueueError(_WHAT)
        return self._queue

    async def __aenter__(self) -> Self:
        """Set up what is new, and begin to follow.

        Raises:
            NotRunningError: It was entered before; make a new one.
            ProjectionReplacedError: The database has a newer version of a projection.
            TransactionError: The store is in memory without a database.
            StoreUnavailableError: The store cannot be written now.
            Exception: What a ``setup`` raised. Nothing is left running, and nothing of that projection was kept.
        """
        if self._is_entered:
            raise NotRunningError(_WHAT, "enter it a second time")
        self._is_entered = True
        for follower in self._followers:
            await follower.begin()
        self._is_running = True
        for follower, wait in zip(self._followers, self._waits, strict=True):
            follower.projection.attach(wait)
            self._scope.spawn(follower.run(), name=f"avx-events projection {follower.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop following; a transaction that is open is undone, and its events come again next time."""
        self._is_running = False
        for task in await self._scope.cancel():
            log.error("%s swallowed its cancellation and still runs; look at its handlers", task.get_name())
        for follower, wait in zip(self._followers, self._waits, strict=True):
            follower.leave()
            follower.projection.detach(wait)

    async def caught_up(self, position: int | None = None, *, timeout_s: float = 5.0) -> None:
        """Return when all projections have done everything up to ``position``: read your own writes.

        It does not matter which process has done it. What a new version has done counts once that is the one that is
        read. ``projection.caught_up()`` waits for one projection.

        Args:
            position: As ``append`` returned it; the end of the log as it is now if not given.
            timeout_s: The longest wait, in seconds.

        Raises:
            ProjectionFailedError: A projection stopped before that position; its cause is what the handler raised.
            ProjectionLagError: It takes longer than ``timeout_s``; safe to call again.
            NotRunningError: The projector was not entered, or was left, or the store was closed.
            InvalidArgumentError: The position is negative, or the time is none.
        """
        await self._caught_up(self._followers, position, timeout_s=timeout_s)

    async def redrive(self, letter: DeadLetter | str) -> bool:
        """Do the event of a dead letter now, in one transaction, at most once; the letter leaves the queue then.

        All methods of the projection that handle the event are called, as they would have been, but after what came
        later: order is lost. It needs no redrive any more where another process did it, or a newer version of the
        projection was built from all events; such a letter leaves the queue as well.

        Args:
            letter: One of a projection of this projector, or its id.

        Returns:
            True if it was done now; False where somebody else redrives it, or where it needs none any more.

        Raises:
            NoDeadLetterQueueError: The projector has no queue.
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: It is of no projection of this projector, or of an older version that is still read.
            NotRunningError: The projector was not entered, or was left.
            InvalidArgumentError: It is no letter.
            BaseException: What a handler raised, or the store. All is undone, and the letter stays, with this error.
        """
        queue = self._queue
        if queue is None:
            raise NoDeadLetterQueueError(_WHAT)
        if not self._is_running:
            raise NotRunningError(_WHAT, "redrive a dead letter")
        found = await queue.claim(id_of(letter))
        if found is None:
            return False
        try:
            is_done = await self._follower_of(found).redrive(found)
        except BaseException as exc:
            if is_interrupted(exc) or isinstance(exc, NoHandlerError):
                await queue.release(found.id)
            else:
                await queue.add(failed_again(found, exc, dead_at=now(self._clock)))
            raise
        try:
            await queue.resolve(found.id)
        except BaseException:  # the next redrive finds that its event needs none
            await queue.release(found.id)
            raise
        return is_done

    async def status(self) -> Mapping[str, ProjectionStatus]:
        """Return for each projection, by name, which version is how far, how fast it goes and how long that takes.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
            NotRunningError: The projector was never entered.
        """
        if not self._is_entered:
            raise NotRunningError(_WHAT, "tell how far its projections are")
        last = await self._store.last_position()
        return {follower.name: await follower.status(last) for follower in self._followers}

    async def lag_events(self) -> Mapping[str, int]:
        """Return for each projection, by name, how many positions of the log it is behind the end.

        Raises:
            StoreUnavailableError: The log cannot be read now.
            ClosedError: The store is closed.
        """
        last = await self._store.last_position()
        return {follower.name: max(last - follower.position, 0) for follower in self._followers}

    async def lag_seconds(self) -> Mapping[str, float]:
        """Return for each projection, by name, how old the first event is that it has not come to; 0.0 without one.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
            NotRunningError: The projector was never entered.
        """
        return {name: status.lag_seconds for name, status in (await self.status()).items()}

    async def pause(self, name: str) -> None:
        """Have nobody handle events for the projection ``name``, in any process, also after restarts; until resumed.

        It is committed before or after a transaction in which events are handled: none is cut short.

        Args:
            name: Of one of this projector's.

        Raises:
            InvalidArgumentError: The projector has none of that name.
            NotRunningError: The projector was not entered, or was left.
            StoreUnavailableError: The database cannot be written now.
        """
        await self._of_all_processes(name, "pause a projection").pause(name)

    async def resume(self, name: str) -> None:
        """Have events handled again for the projection ``name``; whoever runs it goes on within half a second.

        Args:
            name: Of one of this projector's.

        Raises:
            InvalidArgumentError: The projector has none of that name.
            NotRunningError: The projector was not entered, or was left.
            StoreUnavailableError: The database cannot be written now.
        """
        await self._of_all_processes(name, "resume a projection").resume(name)

    async def rebuild(self, name: str) -> None:
        """Have the projection ``name`` built anew from the first event, by whichever process is first, within a second.

        What is read stays as it was meanwhile, and takes no new events; ``caught_up`` waits for the new tables. Without
        ``tables=`` it is built in place, and incomplete until it has caught up. One that is being built begins again,
        and one that has failed here when a projector is entered anew.

        Args:
            name: Of one of this projector's.

        Raises:
            InvalidArgumentError: The projector has none of that name.
            NotRunningError: The projector was not entered, or was left.
            StoreUnavailableError: The database cannot be written now.
        """
        await self._of_all_processes(name, "rebuild a projection").rebuild(name)
        for follower in self._followers:
            if follower.name == name:
                follower.await_rebuild()

    def statistics(self) -> Mapping[str, ProjectionStatistics]:
        """Return what each projection did, by name."""
        return {follower.name: follower.statistics() for follower in self._followers}

    async def _caught_up(self, followers: Sequence[Follower], position: int | None, *, timeout_s: float) -> None:
        arguments.seconds("timeout_s", timeout_s)
        if position is not None:
            arguments.whole("position", position, least=0)
        if not self._is_running:
            raise NotRunningError(_WHAT, "wait for its projections")
        wanted, slowest = position or 0, followers[0]
        try:
            async with asyncio.timeout(timeout_s):
                if position is None:
                    wanted = await self._store.last_position()
                for slowest in followers:
                    await slowest.reach(wanted)
        except ClosedError as exc:
            raise NotRunningError(_WHAT, "wait for its projections") from exc
        except TimeoutError as exc:
            raise ProjectionLagError(slowest.name, wanted, reached=slowest.position, timeout_s=timeout_s) from exc

    def _of_all_processes(self, name: str, action: str) -> Overview:
        """Return what tells those who run the projection ``name``, in whatever process, what to do."""
        names = [follower.name for follower in self._followers]
        if name not in names:
            expected = f"the name of a projection of this projector: {', '.join(map(repr, names))}"
            raise InvalidArgumentError("name", name, expected=expected)
        if not self._is_running:
            raise NotRunningError(_WHAT, action)
        return Overview(self._store)

    def _follower_of(self, letter: DeadLetter) -> Follower:
        for follower in self._followers:
            if follower.name == projection_of(letter):
                return follower
        known = [f"{follower.name}.*" for follower in self._followers]
        raise NoHandlerError(f"dead letters of {letter.handler!r}", known=known)


def _check(projections: tuple[object, ...]) -> None:
    names: set[str] = set()
    for projection in projections:
        if not isinstance(projection, Projection) or not projection.name or projection.handles_nothing:
            expected = "objects of a Projection class with name= and a method that @handles an event"
            raise InvalidArgumentError("projections", projection, expected=expected)
        if projection.name in names:
            expected = f"projections with a name each; two are called {projection.name!r}"
            raise InvalidArgumentError("projections", projection, expected=expected)
        names.add(projection.name)
    if not names:
        raise InvalidArgumentError("projections", projections, expected="at least one projection")
