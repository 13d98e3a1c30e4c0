"""Handlers and subscribers on the log of an event store: each keeps its place, and several processes share its work."""

from collections.abc import Callable
from typing import Any, Final, Protocol, Self, TypeVar, overload

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.dispatcher import KeyFunction
from avx_events.bus.event_bus import DEFAULT_RETRY, EventBus, HandlerDecorator
from avx_events.bus.remote.link import DEFAULT_IN_FLIGHT, LinkOptions
from avx_events.bus.remote.ports import STARTS, Start
from avx_events.bus.subscription import DEFAULT_CAPACITY
from avx_events.core.arguments import is_whole, seconds, text, whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.metadata import EventEnvelope
from avx_events.core.policy import Overflow, Retry
from avx_events.patterns.log_bus.records import decode
from avx_events.patterns.log_bus.transport import LogTransport
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_MOST_LANES: Final = 1024
_GREATEST: Final = 2**63 - 1


class StoredHandlerDecorator(HandlerDecorator[EventT], Protocol[EventT]):
    """What ``bus.on`` of a log bus gives for one event class: the envelope may be asked for as a ``StoredEvent``."""

    @overload
    def __call__(self, function: Callable[[EventT], ResultT], /) -> Callable[[EventT], ResultT]: ...

    @overload
    def __call__(
        self, function: Callable[[EventT, EventEnvelope[EventT]], ResultT], /
    ) -> Callable[[EventT, EventEnvelope[EventT]], ResultT]: ...

    @overload
    def __call__(
        self, function: Callable[[EventT, StoredEvent[EventT]], ResultT], /
    ) -> Callable[[EventT, StoredEvent[EventT]], ResultT]: ...


class LogBus(EventBus):
    """An event bus whose events come from the log of a store: ``await LogBus.connect(store, group="billing")``.

    Each handler, and each subscriber, begins once and goes on where it was, over restarts: what is appended while
    nobody runs waits in the log. Processes with buses of one group share the work of each handler, in order by key;
    what one had in hand when it died is handled by another. Everything else is as on any bus, but that it publishes
    nothing: append to the store.

    The envelope that a handler takes as its second parameter is the ``StoredEvent``.
    """

    __slots__ = ()

    @classmethod
    async def connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # no URL: a store
        cls,
        store: EventStore,
        *,
        group: str,
        start: Start | int = "latest",
        lanes: int = 16,
        lease_s: float = 30.0,
        capacity: int = DEFAULT_IN_FLIGHT,
        dead_letter_queue: DeadLetterQueue | None = None,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Self:
        """Return a bus on the log of ``store``, in whose database it keeps how far each handler is.

        Each event is handled by one of those members of the group that have the handler, at least once: it is
        acknowledged when the handler, its retry or its dead letter is done. Events of one key (the aggregate id, or the
        stream where there is none) go through one lane, in order.

        Args:
            store: The store; it stays open when the bus is closed, and is closed after it.
            group: Which service this is; its members share the work.
            start: Where a handler that is new to its group begins: ``latest`` is now, ``earliest`` the first event, and
                a number the position that it begins after, where that is not past the end.
            lanes: How many lanes a handler has, 1 to 1,024: no more members than that share its work. The number stays
                what it was when the handler began.
            lease_s: How many seconds the work of a member waits that died or stood still.
            capacity: How many events a handler of this member may have received and not acknowledged, 1 or more.
            dead_letter_queue: Where events go that a handler gave up; None is the store's database, for all groups, as
                ``DeadLetterQueue.connect`` opens it with the store's URL; or memory, for a store in memory.
            drain_timeout_s: How many seconds ``close`` lets handlers finish what they have begun.
            clock: Time.

        Raises:
            InvalidArgumentError: An option is outside its range, or there is no queue and nobody knows the store's URL.
            TransactionError: The store is in memory, without a database: use ``sqlite://``.
            StoreUnavailableError: The database cannot be written now.
            StoreSchemaError: Its tables are of a newer version.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        _check_store(store)
        text("group", group)
        transport = LogTransport(
            store,
            group=group,
            start=_checked_start(start),
            lanes=whole("lanes", lanes, least=1, most=_MOST_LANES),
            lease_s=seconds("lease_s", lease_s),
            clock=clock,
        )
        await transport.open(with_letters=dead_letter_queue is None)
        try:
            return cls(
                name=f"log bus of group {group!r}",
                dead_letter_queue=dead_letter_queue,
                drain_timeout_s=drain_timeout_s,
                clock=clock,
                remote=(transport, LinkOptions(group=group, capacity=capacity, decode=decode)),
            )
        except BaseException:
            await transport.close()
            raise

    @overload
    def on(
        self,
        event_class: type[EventT],
        /,
        *,
        name: str | None = None,
        retry: Retry | None = DEFAULT_RETRY,
        concurrency: int = 1,
        timeout_s: float | None = None,
        key: KeyFunction | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
    ) -> StoredHandlerDecorator[EventT]: ...

    @overload
    def on(
        self,
        *event_classes: type,
        name: str | None = None,
        retry: Retry | None = DEFAULT_RETRY,
        concurrency: int = 1,
        timeout_s: float | None = None,
        key: KeyFunction | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
    ) -> Callable[[HandlerT], HandlerT]: ...

    def on(
        self,
        *event_classes: type,
        name: str | None = None,
        retry: Retry | None = DEFAULT_RETRY,
        concurrency: int = 1,
        timeout_s: float | None = None,
        key: KeyFunction | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
    ) -> Any:
        """Decorate a handler as ``EventBus.on`` does; its envelope, if it takes one, is the ``StoredEvent``.

        Its name is what its place in the log is kept by: give it one, or leave the function's own as it is.

        Args:
            event_classes: As for ``EventBus.on``.
            name: What its place, statistics and dead letters go by; its qualified name if not given.
            retry: As for ``EventBus.on``.
            concurrency: As for ``EventBus.on``.
            timeout_s: As for ``EventBus.on``.
            key: As for ``EventBus.on``, where there is one lane.
            capacity: How many events it may have received and not acknowledged, 1 or more, up to that of the bus.
            overflow: ``wait``: the log keeps what is not handled yet.

        Raises:
            AvxEventsError: As ``EventBus.on``.
        """
        return super().on(
            *event_classes,
            name=name,
            retry=retry,
            concurrency=concurrency,
            timeout_s=timeout_s,
            key=key,
            capacity=capacity,
            overflow=overflow,
        )


def _check_store(store: object) -> None:
    if not isinstance(store, EventStore):
        raise InvalidArgumentError("store", store, expected="an EventStore, as EventStore.connect gives it")


def _checked_start(start: object) -> Start | int:
    for known in STARTS:
        if start == known:
            return known
    if is_whole(start):
        return whole("start", start, least=0, most=_GREATEST)
    raise InvalidArgumentError("start", start, expected=f"one of {', '.join(STARTS)}, or a position")
