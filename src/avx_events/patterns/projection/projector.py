"""Runs projections: each follows the log of one store, in a task of its own, from its own checkpoint."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Self

from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import ClosedError, InvalidArgumentError, NotRunningError, ProjectionLagError
from avx_events.core.policy import ONE_ATTEMPT, Retry
from avx_events.core.tasks import TaskScope
from avx_events.patterns.projection.follower import Follower, Pace, ProjectionStatistics
from avx_events.patterns.projection.projection import Projection
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
    event that is handled, or after 10,000 of them.

    Where a handler fails, its transaction is undone, the events before it are committed, and it is tried again as
    ``retry`` says; what is a ``UsageError``, ``PermanentError`` or ``Reject`` is not. If it fails for good, its
    projection stops at that event, which is logged as an error, and ``caught_up`` raises: nothing is skipped. The other
    projections go on. It begins again at that event when a projector is entered anew. Of an event type that this
    process has no class for, the store's own ``unknown=`` decides: an error that stops the projection, or with
    ``"keep"`` passed over. A method that raises ``Discard`` is passed over for that event: what it did is undone, which
    is logged, and all else goes on.

    A ``version`` that the database does not have yet is built anew from the first event: today in the place of the
    one before it. Its ``setup`` and the end of the older version's checkpoint are one transaction; from then on the
    read model is incomplete until ``caught_up`` returns, and a projector that still runs the older version stops with
    ``ProjectionReplacedError`` and applies nothing any more.

    The time of a transaction is the time that appends wait for: it takes no further events once it has taken 50 ms.
    """

    def __init__(
        self,
        store: EventStore,
        *projections: Projection,
        retry: Retry | None = DEFAULT_RETRY,
        batch_events: int = 500,
        timeout_s: float = 30.0,
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
            clock: Measures pauses.

        Raises:
            InvalidArgumentError: There is no projection, a class instead of an instance, one without a name or
                without handlers, two of one name, or a number outside of its range.
        """
        _check(projections)
        arguments.whole("batch_events", batch_events, least=1)
        arguments.seconds("timeout_s", timeout_s)
        arguments.optional("retry", retry, Retry)
        pace = Pace(retry=ONE_ATTEMPT if retry is None else retry, batch_events=batch_events, timeout_s=timeout_s)
        self._store: Final = store
        self._followers: Final = [Follower(store, projection, pace=pace, clock=clock) for projection in projections]
        self._scope: Final = TaskScope()
        self._is_entered = False
        self._is_running = False

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
        for follower in self._followers:
            self._scope.spawn(follower.run(), name=f"avx-events projection {follower.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop following; a transaction that is open is undone, and its events come again next time."""
        self._is_running = False
        for task in await self._scope.cancel():
            log.error("%s swallowed its cancellation and still runs; look at its handlers", task.get_name())
        for follower in self._followers:
            follower.leave()

    async def caught_up(self, position: int | None = None, *, timeout_s: float = 5.0) -> None:
        """Return when all projections have done everything up to ``position``: read your own writes.

        Args:
            position: As ``append`` returned it; the end of the log as it is now if not given.
            timeout_s: The longest wait, in seconds.

        Raises:
            ProjectionFailedError: A projection stopped before that position; its cause is what the handler raised.
            ProjectionLagError: It takes longer than ``timeout_s``; safe to call again.
            NotRunningError: The projector was not entered, or was left, or the store was closed.
            InvalidArgumentError: The position is negative, or the time is none.
        """
        arguments.seconds("timeout_s", timeout_s)
        if position is not None:
            arguments.whole("position", position, least=0)
        if not self._is_running:
            raise NotRunningError(_WHAT, "wait for its projections")
        wanted, slowest = position or 0, self._followers[0]
        try:
            async with asyncio.timeout(timeout_s):
                if position is None:
                    wanted = await self._store.last_position()
                for slowest in self._followers:
                    await slowest.reach(wanted)
        except ClosedError as exc:
            raise NotRunningError(_WHAT, "wait for its projections") from exc
        except TimeoutError as exc:
            raise ProjectionLagError(slowest.name, wanted, reached=slowest.position, timeout_s=timeout_s) from exc

    async def lag_events(self) -> Mapping[str, int]:
        """Return for each projection, by name, how many positions of the log it is behind the end.

        Raises:
            StoreUnavailableError: The log cannot be read now.
            ClosedError: The store is closed.
        """
        last = await self._store.last_position()
        return {follower.name: max(last - follower.position, 0) for follower in self._followers}

    def statistics(self) -> Mapping[str, ProjectionStatistics]:
        """Return what each projection did, by name."""
        return {follower.name: follower.statistics() for follower in self._followers}


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
