"""What both relays have in common: their life, and what they say of themselves.

| state | what it does |
|---|---|
| ``standby`` | asks for the lease, which another process holds |
| ``active`` | holds the lease, and publishes |
| ``failed`` | nothing more: an event can never be published, or the bus is closed; the error is kept |
| ``stopped`` | nothing more: it was left, or the store is closed |
"""

import asyncio
import logging
from typing import Final, Literal, Self, TypeAlias

import msgspec

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core import arguments
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    ClosedError,
    InvalidArgumentError,
    NotRunningError,
    RelayFailedError,
    RelayLagError,
)
from avx_events.core.tasks import Changes, TaskScope, is_interrupted
from avx_events.patterns.lease import Lease, LeaseLostError
from avx_events.patterns.outbox.parcel import Feed
from avx_events.patterns.outbox.tenure import Counts, Route, Tenure
from avx_events.patterns.outbox.undeliverable import redrive
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore

State: TypeAlias = Literal["standby", "active", "failed", "stopped"]

log = logging.getLogger("avx_events.outbox")

# How often somebody who waits looks whether another process was the one that published, in seconds.
_LOOK_S: Final = 0.05


class RelayStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one relay did since it was entered, in this process.

    Attributes:
        state: ``standby``, ``active``, ``failed`` or ``stopped``.
        is_active: Whether it publishes: it is active, and nobody else can be.
        position: The position in the log up to which everything was accepted; of an outbox, the greatest number of a
            row that was.
        published: Events that the bus has accepted; one that was published again counts as often as it was accepted.
        repeated: Attempts that the bus refused or did not confirm, and that were made again.
        dead_letters: Events that became dead letters.
        held_keys: Keys that wait behind an event that can never be published.
        on_their_way: Events that the bus was given and has not answered to.
    """

    state: State
    is_active: bool
    position: int
    published: int
    repeated: int
    dead_letters: int
    held_keys: int
    on_their_way: int


class RelayLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a relay is behind, whichever process runs it.

    Attributes:
        events: How many positions of the log, or rows, wait.
        seconds: How long the oldest of them has waited; 0 where none does.
    """

    events: int
    seconds: float


class Relaying:
    """A relay; ``Relay`` and ``OutboxRelay`` are the two, which differ in where events come from."""

    def __init__(self, route: Route, feed: Feed, lease: Lease) -> None:
        """Publish what ``feed`` gives as ``route`` says while ``lease`` is held, once entered."""
        self._route: Final = route
        self._feed: Final = feed
        self._lease: Final = lease
        self._counts: Final = Counts()
        self._changes: Final = Changes()
        self._scope: Final = TaskScope()
        self._trouble: Final = Trouble(f"{route.name}: the store", log=log, clock=route.clock)
        self._tenure: Tenure | None = None
        self._state: State = "stopped"
        self._error: BaseException | None = None
        self._is_entered = False
        self._is_leaving = False

    async def __aenter__(self) -> Self:
        """Make the tables where they are not there, and begin.

        Raises:
            NotRunningError: It was entered before; make a new one.
            TransactionError: The store is in memory without a database.
            StoreUnavailableError: The store cannot be written now.
            StoreSchemaError: The database has such tables of a newer version.
            ClosedError: The store is closed.
        """
        if self._is_entered:
            raise NotRunningError(self._route.name, "enter it a second time")
        self._is_entered = True
        async with self._route.store.transaction() as connection:
            await self._feed.prepare(connection)
        self._state = "standby"
        self._scope.spawn(self._run(), name=f"avx-events {self._route.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Publish nothing more, wait for what is on its way, and let another process take over at once."""
        self._is_leaving = True
        if self._tenure is not None:
            self._tenure.finish()
            await self._scope.finish(grace_s=self._route.drain_timeout_s + 1)
        for task in await self._scope.cancel():
            log.error("%s swallowed its cancellation and still runs", task.get_name())
        await self._lease.give_up(self._route.name, log)  # what was taken in the moment in which it was left
        if self._state != "failed":
            self._state = "stopped"
        self._changes.tell()

    @property
    def is_active(self) -> bool:
        """Whether this is the process that publishes."""
        return self._state == "active" and self._lease.is_held

    def statistics(self) -> RelayStatistics:
        """Return what was done so far, in this process."""
        counts = self._counts
        return RelayStatistics(
            state=self._state,
            is_active=self.is_active,
            position=self._feed.position,
            published=counts.published,
            repeated=counts.repeated,
            dead_letters=counts.dead_letters,
            held_keys=counts.held_keys,
            on_their_way=0 if self._tenure is None else self._tenure.on_their_way,
        )

    async def lag(self) -> RelayLag:
        """Return how far the relay is behind, as the database says: also where another process is the active one.

        Raises:
            NotRunningError: It was not entered.
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        self._check_entered("say how far it is behind")
        events, oldest_us = await self._feed.lag()
        waited_us = 0 if oldest_us is None else self._route.clock.time_ns() // 1000 - oldest_us
        return RelayLag(events=events, seconds=max(waited_us, 0) / 1_000_000)

    async def caught_up(self, *, timeout_s: float = 5.0) -> None:
        """Return when everything that is there now was accepted, by this process or another.

        Args:
            timeout_s: The longest wait, in seconds of real time.

        Raises:
            RelayFailedError: It stopped before; its cause is what the bus raised.
            RelayLagError: It takes longer; safe to call again.
            NotRunningError: It was not entered, or was left, or the store was closed.
            StoreUnavailableError: The database cannot be read now.
            InvalidArgumentError: The time is none.
        """
        arguments.seconds("timeout_s", timeout_s)
        self._check_entered("catch up")
        try:
            async with asyncio.timeout(timeout_s):
                wanted = await self._feed.end()
                while not await self._has_done(wanted):
                    await self._next_look()
        except ClosedError as exc:
            raise NotRunningError(self._route.name, "catch up") from exc
        except TimeoutError as exc:
            raise RelayLagError(self._route.name, timeout_s=timeout_s) from exc

    async def redrive(self, letter: DeadLetter | str) -> bool:
        """Publish the event of a dead letter of this relay, or of one with its id; the letter is gone then.

        It comes after what was published of its key meanwhile.

        Returns:
            False where it is being redriven already.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: It is another one's letter.
            NoDeadLetterQueueError: The relay has no dead letter queue.
            InvalidArgumentError: It is no letter, or has no event: its bytes could not be decoded.
            Exception: What the bus raised; the letter stays.
        """
        return await redrive(letter, self._route.letters, self._route.bus, relay=self._route.name)

    def _check_entered(self, action: str) -> None:
        if not self._is_entered or self._is_leaving:
            raise NotRunningError(self._route.name, action)

    async def _has_done(self, wanted: int) -> bool:
        if self._state == "failed":
            failure = self._error
            if isinstance(failure, RelayFailedError):
                raise RelayFailedError(failure.relay, problem=failure.problem) from failure.__cause__
            raise RelayFailedError(self._route.name, problem=str(failure)) from failure
        if self._state == "stopped":
            raise NotRunningError(self._route.name, "catch up")
        return await self._feed.is_done(wanted)

    async def _next_look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._changes.wait()
        except TimeoutError:
            return

    async def _run(self) -> None:
        try:
            while not self._is_leaving and await self._stand_by():
                await self._be_active()
        except BaseException as exc:  # the boundary of the relay: kept, logged, raised by caught_up()
            if is_interrupted(exc):
                raise
            self._state, self._error = "failed", exc
            log.error("%s", exc, exc_info=exc)  # noqa: TRY400 - the boundary
        else:
            self._state = "stopped"
        finally:
            self._changes.tell()

    async def _stand_by(self) -> bool:
        """Return True when this is the active one, False when the store is closed."""
        self._state = "standby"
        position = await self._lease.obtain(self._trouble)
        if position is None:
            return False
        self._feed.begin(position)
        return True

    async def _be_active(self) -> None:
        tenure = self._tenure = Tenure(self._route, self._feed, self._lease, self._counts, self._changes)
        self._state = "active"
        log.info("%s is the active one, after %s %d", self._route.name, self._feed.what, self._feed.position)
        try:
            await tenure.run()
        except LeaseLostError:
            log.warning("%s has lost its lease: another process may be the active one", self._route.name)
        else:
            self._is_leaving = True  # it was told to, or the store is closed
        finally:
            self._tenure = None


def checked_route(
    name: str,
    *,
    store: object,
    bus: object,
    dead_letter_queue: object,
    in_flight: object,
    drain_timeout_s: object,
    clock: Clock,
) -> Route:
    """Return a route of what was given.

    Raises:
        InvalidArgumentError: One of it is not acceptable.
    """
    if not isinstance(store, EventStore):
        raise InvalidArgumentError("store", store, expected="an EventStore")
    if not callable(getattr(bus, "publish", None)) or isinstance(bus, type):
        raise InvalidArgumentError("bus", bus, expected="a bus that publishes, as EventBus or TopicBus")
    if dead_letter_queue is not None and not isinstance(dead_letter_queue, DeadLetterQueue):
        raise InvalidArgumentError("dead_letter_queue", dead_letter_queue, expected="a DeadLetterQueue, or None")
    return Route(
        name=name,
        store=store,
        bus=bus,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it has what is needed
        letters=dead_letter_queue,
        in_flight=arguments.whole("in_flight", in_flight, least=1),
        drain_timeout_s=arguments.seconds("drain_timeout_s", drain_timeout_s),
        clock=clock,
    )
