"""Events that a pull subscriber handles in a block: the safety of a handler, in the reader's own task."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.handling import Handling, current_handling
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.bus.work import Work
from avx_events.core.errors import DeliveryError
from avx_events.core.metadata import EventEnvelope, Handled, current_message

if TYPE_CHECKING:
    from contextvars import Context, Token

EventT = TypeVar("EventT")


class OpenDeliveries:
    """The deliveries of one subscriber that were given out and are not settled.

    Attributes:
        dispatcher: Gives out the events.
        owner: The life of the bus.
        waiting: How many readers wait for the next one.
        is_read_on: Tells whether a reader without blocks is still at work, where it is known.
    """

    __slots__ = (
        "__weakref__",
        "_left",
        "_on_idle",
        "_open",
        "_settling",
        "dispatcher",
        "is_read_on",
        "owner",
        "waiting",
    )

    def __init__(self, dispatcher: Dispatcher, *, owner: object, on_idle: Callable[[], None]) -> None:
        """Begin with none; ``on_idle`` is called when one was settled."""
        self.dispatcher = dispatcher
        self.owner = owner
        self.waiting = 0
        self.is_read_on: Callable[[], bool] = bool  # it is not
        self._on_idle = on_idle
        self._open: set[Delivery[Any]] = set()
        self._settling = 0  # dead letters on their way to or from their queue, in no block
        self._left: list[Work] = []  # to be made dead letters of, for good

    @property
    def is_done(self) -> bool:
        """Whether nothing will come to an end here any more, unless somebody reads on."""
        return not (self._open or self._settling or self._left)

    async def next(self) -> "Delivery[Any] | None":
        """Return the next delivery, waiting for one; None once the subscription is closed and nothing is left."""
        dispatcher, subscription = self.dispatcher, self.dispatcher.subscription
        while True:
            work = dispatcher.take()
            if work is not None and work.burial is not None:
                await self._settle(work, dispatcher.bury)
                continue
            if work is not None and work.must_count and not await self._counted(work):
                continue
            if work is not None:
                delivery: Delivery[Any] = Delivery(work, self)
                self._open.add(delivery)
                return delivery
            if subscription.is_closed and dispatcher.is_empty():
                return None
            self._on_idle()
            self.waiting += 1
            try:
                await subscription.wait()
            finally:
                self.waiting -= 1

    async def hand_over(self) -> None:
        """Let a reader without blocks have what is ready; to read it is all that it will do with it."""
        await self._settle(self.dispatcher.take_ready(), self.dispatcher.put_back)

    async def _counted(self, work: Work) -> bool:
        """Have the attempt that begins next counted; False where the event is no longer ours."""
        self._settling += 1
        try:
            is_ours = await work.count(may_wait=False)
        except BaseException:  # this reader was cancelled: the next one does it
            self.dispatcher.give_back(work)
            raise
        finally:
            self._settling -= 1
        if not is_ours:
            self.dispatcher.drop(work)
        return is_ours

    async def _settle(self, work: Work, settle: Callable[[Work], Awaitable[None]]) -> None:
        self._settling += 1
        try:
            await settle(work)
        except BaseException:  # this reader was cancelled: the next one does it
            self.dispatcher.give_back(work)
            raise
        finally:
            self._settling -= 1
            self._on_idle()

    async def fail(self, work: Work, error: BaseException) -> None:
        """Settle a failed attempt of ``work``."""
        try:
            await self.dispatcher.fail(work, error)
        except BaseException:  # cancelled while the dead letter was on its way to the queue
            self.dispatcher.give_back(work)
            raise

    def look_idle(self) -> None:
        """Let those look again who wait until nothing is left to do."""
        self._on_idle()

    def settled(self, delivery: "Delivery[Any]") -> None:
        """Forget ``delivery``."""
        self._open.discard(delivery)
        self._on_idle()

    def is_settled(self) -> bool:
        """Tell whether nobody works on an event of this subscriber, or is about to."""
        return not (self._open or self._settling) and (not self.waiting or self.dispatcher.is_empty())

    def is_drained(self) -> bool:
        """Tell whether no block of another task is open and no reader waits for what is there."""
        if self.is_read_on():
            return False
        task = asyncio.current_task()
        return self.is_settled() or not (
            self.waiting or self._settling or any(delivery.task not in {None, task} for delivery in self._open)
        )

    @property
    def needs_start(self) -> bool:
        """False: its reader runs already."""
        return False

    @property
    def undone(self) -> int:
        """How many events wait for the reader or are open."""
        counts = self.statistics()
        return counts.queued + counts.in_flight

    def start(self, context: "Context") -> None:
        """Do nothing: its reader runs already."""

    def begin_stop(self) -> None:
        """Take no new events; those queued can still be read."""
        self.dispatcher.subscription.close()

    async def finish_stop(self) -> None:
        """Make dead letters of what failed and waits for its next attempt; unread events stay for the reader."""
        self._left += self.dispatcher.take_failed()
        while self._left:
            work = self._left.pop(0)
            try:
                await self.dispatcher.stop([work])
            except BaseException:  # cancelled: whoever closes it next goes on
                self._left.insert(0, work)
                raise
        self._on_idle()

    def statistics(self) -> SubscriptionStatistics:
        """Return the counts of the subscriber."""
        return self.dispatcher.statistics(in_flight=len(self._open))


class Delivery(Generic[EventT]):
    """One event to handle: ``async with delivery as event:`` settles it.

    The end of the block acknowledges it. An exception in the block is a failed attempt: the event comes again after
    the pause of the subscriber's ``retry``, or becomes a dead letter; the exception goes no further. A cancelled block
    gives the event back at once. Entering it twice raises ``DeliveryError``.

    Attributes:
        task: The task whose block is open.
        outer: The handler or the other block that the block is inside of.
    """

    __slots__ = ("_attempt", "_deliveries", "_is_used", "_observed", "_tokens", "_work", "outer", "task")

    def __init__(self, work: Work, deliveries: OpenDeliveries) -> None:
        """Give out ``work``; it is settled with ``deliveries``."""
        self._work = work
        self._deliveries = deliveries
        self._is_used = False
        self._attempt = 0
        self._observed: AbstractContextManager[None] | None = None
        self._tokens: tuple[Token[Handled], Token[Handling | None]] | None = None
        self.task: asyncio.Task[Any] | None = None
        self.outer: Handling | None = None

    @property
    def envelope(self) -> EventEnvelope[EventT]:
        """The event with its metadata and topic."""
        return self._work.envelope

    @property
    def event(self) -> EventT:
        """The event."""
        event: EventT = self._work.envelope.event
        return event

    @property
    def attempt(self) -> int:
        """Which attempt the block is, or was, counted from 1."""
        return self._attempt or self._work.attempts + 1

    @property
    def owner(self) -> object:
        """The life of the bus."""
        return self._deliveries.owner

    @property
    def item(self) -> object | None:
        """The work while its block is open, None before and after."""
        return None if self._tokens is None else self._work

    @property
    def is_waited_for(self) -> bool:
        """False: a block may close its bus, which then does not wait for it."""
        return False

    async def __aenter__(self) -> EventT:
        if self._is_used:
            raise DeliveryError(self._deliveries.dispatcher.name, self._work.envelope.metadata.event_id)
        self._is_used = True
        self._work.attempts += 1
        self._attempt = self._work.attempts
        self.task = asyncio.current_task()
        self.outer = current_handling.get()
        self._tokens = (current_message.set(self._work.envelope.metadata), current_handling.set(self))
        dispatcher = self._deliveries.dispatcher
        if dispatcher.observer is not None:
            self._observed = dispatcher.observer.processing(dispatcher.name, self._work.envelope, attempt=self._attempt)
            self._observed.__enter__()
        return self.event

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        observed, self._observed = self._observed, None
        if observed is not None:
            observed.__exit__(kind, error, traceback)
        self._leave()
        dispatcher, work = self._deliveries.dispatcher, self._work
        try:
            if error is None and work.key_error is None:
                await dispatcher.succeed(work)
                return False
            if error is None or isinstance(error, Exception):
                await self._deliveries.fail(work, error or work.key_error or RuntimeError())
                return True
            work.attempts -= 1  # interrupted, which says nothing of the event
            dispatcher.give_back(work)
            return False
        finally:
            self._deliveries.settled(self)

    def _leave(self) -> None:
        if self._tokens is not None:
            message, handling = self._tokens
            self._tokens = None
            self.task = None
            # A block that ends in another context than it began in, as that of an async generator may, leaves nothing
            # there to reset.
            with suppress(ValueError):
                current_message.reset(message)
                current_handling.reset(handling)


class Deliveries(Generic[EventT]):
    """What ``subscriber.deliveries()`` gives: ends once the bus is closed and nothing is left."""

    __slots__ = ("_open",)

    def __init__(self, open_deliveries: OpenDeliveries) -> None:
        """Read from the subscriber of ``open_deliveries``."""
        self._open = open_deliveries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery[EventT]:
        delivery = await self._open.next()
        if delivery is None:
            raise StopAsyncIteration
        return delivery
