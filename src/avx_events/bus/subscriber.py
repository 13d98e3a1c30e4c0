"""What a reader holds who takes events when it pleases: ``recv``, ``async for``, envelopes, deliveries."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from avx_events.bus.deliveries import Deliveries, OpenDeliveries
from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.core.arguments import whole
from avx_events.core.metadata import EventEnvelope

if TYPE_CHECKING:
    from avx_events.bus.subscription import Subscription

EventT = TypeVar("EventT")


class Subscriber(Generic[EventT]):
    """The reading end of a subscription; ``bus.subscribe`` makes it.

    Several tasks may read from one: each event goes to one of them. ``async for`` gives the events until the bus or the
    subscriber is closed and everything queued was read; ``async with subscriber:`` closes it at the end. A loop that is
    left can be begun again. A cancelled read takes no event.
    """

    __slots__ = ("_deliveries", "_dispatcher", "_on_close", "_on_stopped", "_queue", "_subscription")

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        owner: object,
        on_idle: Callable[[], None],
        on_close: Callable[["Subscriber[EventT]"], None],
        on_stopped: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Read what ``dispatcher`` has.

        Args:
            dispatcher: Whose events.
            owner: The life of the bus.
            on_idle: Called when a delivery was settled.
            on_close: Called once, when the subscriber is closed by its reader.
            on_stopped: Awaited after that, each time it is closed.
        """
        self._dispatcher = dispatcher
        self._subscription: Subscription = dispatcher.subscription
        self._queue = dispatcher.subscription.queue
        self._deliveries = OpenDeliveries(dispatcher, owner=owner, on_idle=on_idle)
        self._on_close = on_close
        self._on_stopped = on_stopped

    @property
    def name(self) -> str:
        """The name that statistics and dead letters carry."""
        return self._subscription.name

    @property
    def open_deliveries(self) -> OpenDeliveries:
        """The deliveries that were given out and are not settled. The engine of the bus looks at them."""
        return self._deliveries

    @property
    def dispatcher(self) -> Dispatcher:
        """What gives out the events. The engine of the bus uses it."""
        return self._dispatcher

    # The hot path: bench/publish_subscribe.py. The loop is a generator, which costs no coroutine for each event.

    async def recv(self) -> EventT | None:
        """Return the next event, waiting for one; None once the bus is closed and everything queued was read.

        Raises:
            WrongLoopError: It would have to wait, and the bus belongs to another event loop.
        """
        queue, subscription = self._queue, self._subscription
        while not queue:
            if not await self._more():
                return None
        envelope = queue.popleft()
        if len(queue) <= subscription.wake_at:
            subscription.admit_waiting()
        event: EventT = envelope.event
        return event

    async def __aiter__(self) -> AsyncGenerator[EventT, None]:
        queue, subscription = self._queue, self._subscription
        while queue or await self._more():
            while queue:
                envelope = queue.popleft()
                if len(queue) <= subscription.wake_at:
                    subscription.admit_waiting()
                yield envelope.event

    async def recv_envelope(self) -> EventEnvelope[EventT] | None:
        """Return the next event in its envelope, waiting for one; None as for ``recv``.

        Raises:
            WrongLoopError: As for ``recv``.
        """
        while not self._queue:
            if not await self._more():
                return None
        envelope: EventEnvelope[EventT] = self._queue.popleft()
        if len(self._queue) <= self._subscription.wake_at:
            self._subscription.admit_waiting()
        return envelope

    async def recv_many(self, limit: int = 100) -> list[EventT]:
        """Wait for one event, and return it with what is there behind it, oldest first.

        Args:
            limit: At most so many, 1 or more.

        Returns:
            1 to ``limit`` events; none once the bus is closed and everything queued was read.

        Raises:
            InvalidArgumentError: The limit is below 1.
            WrongLoopError: As for ``recv``.
        """
        if type(limit) is not int or limit < 1:
            whole("limit", limit, least=1)
        queue, subscription = self._queue, self._subscription
        while not queue:
            if not await self._more():
                return []
        if len(queue) <= limit:
            events: list[EventT] = [envelope.event for envelope in queue]
            queue.clear()
        else:
            pop = queue.popleft
            events = [pop().event for _ in range(limit)]
        if len(queue) <= subscription.wake_at:
            subscription.admit_waiting()
        return events

    def envelopes(self) -> "Envelopes[EventT]":
        """Return an async iterator over the envelopes; it ends as that over the events does."""
        return Envelopes(self)

    def deliveries(self) -> Deliveries[EventT]:
        """Return an async iterator over deliveries, each to be handled in ``async with delivery as event:``.

        Events of one key come one after the other, each when the one before was settled.
        """
        return Deliveries(self._deliveries)

    def statistics(self) -> SubscriptionStatistics:
        """Return the counts of this subscriber."""
        return self._deliveries.statistics()

    async def close(self) -> None:
        """Take no more events; what is queued can still be read. Harmless when repeated.

        What failed in a delivery block and waits for its next attempt becomes a dead letter (reason ``stopped``).
        """
        if not self._subscription.is_closed:
            self._subscription.close()
            self._on_close(self)
        await self._deliveries.finish_stop()
        if self._on_stopped is not None:
            await self._on_stopped()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _more(self) -> bool:
        """Wait for something to read; look again, another reader may be faster. False when nothing will come."""
        if self._dispatcher.ready:
            await self._deliveries.hand_over()
        elif self._subscription.is_closed and self._dispatcher.is_empty():
            return False
        else:
            await self._subscription.wait()
        return True


class Envelopes(Generic[EventT]):
    """What ``subscriber.envelopes()`` gives."""

    __slots__ = ("_subscriber",)

    def __init__(self, subscriber: Subscriber[EventT]) -> None:
        """Read from ``subscriber``."""
        self._subscriber = subscriber

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventEnvelope[EventT]:
        envelope = await self._subscriber.recv_envelope()
        if envelope is None:
            raise StopAsyncIteration
        return envelope
