"""The event bus: typed events to everybody who subscribed to their class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from operator import countOf
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast, overload

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.dispatcher import KeyFunction
from avx_events.bus.engine import Remote
from avx_events.bus.registered_handler import RegisteredHandler
from avx_events.bus.remote.intake import Wants
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.subscription import DEFAULT_CAPACITY, AnyEnvelope, Subscription
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError, NotAnEventError
from avx_events.core.event import ANSWERED_BY_ONE, Event, EventSchema, class_for, schema_of, text_of
from avx_events.core.ids import IdBlock
from avx_events.core.metadata import (
    NO_HEADERS,
    EventEnvelope,
    EventMetadata,
    checked_headers,
    current_message,
    readdressed,
    refuse_in_replay,
    stamp,
    stamp_run,
)
from avx_events.core.policy import ONE_ATTEMPT, Overflow, Retry

if TYPE_CHECKING:
    from concurrent.futures import Future

EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

Run: TypeAlias = tuple[Sequence[Subscription], list[EventMetadata], list[AnyEnvelope]]
"""Events of one class, stamped: who gets them, their metadata, and the envelopes that hold both."""

_current_message: Final = current_message.get
_NOT_FOR_MANY: Final = (
    "is a request, a command or a query, which one handler answers; "
    "give it to RequestReplyBus.request(), CommandBus.dispatch() or QueryBus.ask()"
)
_NO_CLASS: Final = "is no event class; give the class of the events, as UserCreated; TopicBus takes patterns"
DEFAULT_RETRY: Final = Retry()


class Route:
    """What a publish needs to know of a class, from one change of the bus to the next.

    It counts for all of its subscriptions at once, which leaves nothing to count to who reads from them.

    Attributes:
        schema: Of the class.
        event_type: Of the class.
        key_field: The field that holds the aggregate id of an event; None where there is no such field.
        key_of: Gives the aggregate id; None where an event has none.
        keys_of: Gives those of several.
        subscriptions: Who gets it.
        only: The one of them, where there are no others.
        published: How many events were put in line at all of them, past the engine's door.
    """

    __slots__ = ("event_type", "key_field", "key_of", "keys_of", "only", "published", "schema", "subscriptions")

    def __init__(self, schema: EventSchema, subscriptions: Sequence[Subscription]) -> None:
        """Begin with nothing published."""
        self.schema = schema
        self.event_type = schema.event_type
        self.key_field = schema.aggregate_field
        self.key_of = schema.key_of
        self.keys_of = schema.keys_of
        self.subscriptions = subscriptions
        self.only = subscriptions[0] if len(subscriptions) == 1 else None
        self.published = 0

    def begin(self) -> None:
        """Count for the subscriptions."""
        for subscription in self.subscriptions:
            subscription.counters.append(self)

    def end(self) -> int:
        """Leave it to the subscriptions what was counted, and return it."""
        for subscription in self.subscriptions:
            subscription.counters.remove(self)
            subscription.delivered += self.published
        return self.published


class HandlerDecorator(Protocol[EventT]):
    """What ``bus.on`` gives for one event class: type checkers see that the function takes its events."""

    @overload
    def __call__(self, function: Callable[[EventT], ResultT], /) -> Callable[[EventT], ResultT]: ...

    @overload
    def __call__(
        self, function: Callable[[EventT, EventEnvelope[EventT]], ResultT], /
    ) -> Callable[[EventT, EventEnvelope[EventT]], ResultT]: ...


class EventBus(DeliveringBus):
    """An event bus: every subscriber receives every event of its classes, in publish order; in memory, or connected.

    Pull subscribers work as soon as there is a bus; handlers run from ``start`` to ``close``, or inside of
    ``async with bus:``. A bus belongs to the event loop that first uses it.
    """

    __slots__ = ("_classes", "_ids", "_link", "_routes", "_time_ns", "_whereabouts")

    def __init__(
        self,
        *,
        name: str = "event bus",
        dead_letter_queue: DeadLetterQueue | None = None,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        remote: Remote | None = None,
    ) -> None:
        """Make an open bus without subscriptions.

        Args:
            name: What errors and logs call it.
            dead_letter_queue: Where events go that a handler gave up; None is the log.
            drain_timeout_s: How many seconds ``close`` lets handlers finish what is there.
            clock: Time.
            remote: A transport and how to use it, as ``connect`` gives them; None is memory.

        Raises:
            InvalidArgumentError: The timeout is no number of seconds above 0, or the queue is none.
        """
        super().__init__(
            name=name,
            dead_letter_queue=dead_letter_queue,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
            remote=remote,
        )
        # Who subscribed to what, in the order of subscription.
        self._classes: list[tuple[tuple[type, ...], Subscription]] = []
        # The classes that can be published without asking: see _route.
        self._routes: dict[type, Route] = {}
        self._ids = IdBlock()
        self._time_ns = clock.time_ns
        self._whereabouts = self._engine.life.whereabouts
        self._link = self._engine.link

    async def subscribe(
        self,
        *event_classes: type[EventT],
        name: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
        retry: Retry | None = DEFAULT_RETRY,
        key: KeyFunction | None = None,
    ) -> Subscriber[EventT]:
        """Return a subscriber that receives every event of ``event_classes`` from now on.

        Args:
            event_classes: Event classes; one that others derive from is all of these, and ``Event`` is all there are.
            name: What statistics and dead letters call it; ``subscriber-1`` and so on if not given.
            capacity: How many unread events it holds, 1 or more.
            overflow: What happens to a publish when they are that many: it waits (``wait``), the oldest or the new one
                goes (``drop_oldest``, ``drop_newest``), or it fails for everybody (``raise``).
            retry: What follows a failed delivery block; None is one attempt. Of no meaning for ``recv``.
            key: Gives the key of an event, whose deliveries never overlap; the aggregate id if not given.

        Raises:
            NotAnEventError: One of the classes is no event class.
            InvalidArgumentError: No class is given, or an option is outside its range.
            DuplicateHandlerError: Another consumer of the bus has the name.
            ClosedError: The bus is closed.
            UnsupportedError: The bus is connected, and its broker cannot do what an option says.
            TransportUnavailableError: The broker of a connected bus is away.
            WrongLoopError: The bus belongs to another event loop.
        """
        classes = _checked_classes(event_classes)
        subscriber = await self._engine.add_subscriber(
            name=name,
            retry=retry,
            key=key,
            capacity=capacity,
            overflow=overflow,
            what="+".join(sorted(_type_of(event_class) for event_class in classes)),
            wants=_wants(classes),
            on_close=self._remove,
        )
        self._add(classes, subscriber.dispatcher.subscription)
        return subscriber

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
    ) -> HandlerDecorator[EventT]: ...

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
        """Decorate a handler of ``event_classes``: ``async def``, or ``def``, which runs in a thread.

        It takes the event, and its envelope if it has a second parameter. What it raises is a failed attempt:
        ``Discard``, ``Reject`` and ``RetryAfter`` say what to do, anything else is retried and then becomes a dead
        letter. It never touches other handlers.

        Args:
            event_classes: Event classes; one that others derive from is all of these.
            name: What statistics and dead letters call it; its qualified name if not given.
            retry: How often it is tried, and after which pauses; None is one attempt.
            concurrency: How many events it handles at once, at most; those of one key never overlap.
            timeout_s: How many seconds one attempt may take; None is for ever. The attempt is cancelled then and has
                failed. A thread cannot be cancelled: it goes on, and its result is ignored.
            key: Gives the key of an event; the aggregate id if not given. Events without a key have no order among
                each other under concurrency.
            capacity: How many events wait for it, 1 or more, those waiting for a retry included.
            overflow: What happens to a publish when they are that many; see ``subscribe``.

        Raises:
            NotAnEventError: One of the classes is no event class.
            InvalidArgumentError: No class is given, or an option is outside its range.
            HandlerDefinitionError: The function cannot be called with an event.
            DuplicateHandlerError: Another consumer of the bus has the name.
            UnsupportedError: The bus is connected, and its broker cannot do what an option says.
            ClosedError: The bus is closed.
            WrongLoopError: The bus runs on another event loop.
        """
        classes = _checked_classes(event_classes)

        def register(function: HandlerT) -> HandlerT:
            subscription = self._engine.add_handler(
                function,
                name=name,
                retry=retry,
                concurrency=concurrency,
                timeout_s=timeout_s,
                key=key,
                capacity=capacity,
                overflow=overflow,
                wants=_wants(classes),
            )
            self._add(classes, subscription)
            self._handlers[subscription.name] = RegisteredHandler(
                name=subscription.name,
                takes=classes,
                retry=ONE_ATTEMPT if retry is None else retry,
                concurrency=concurrency,
                timeout_s=timeout_s,
                key=key,
            )
            return function

        return register

    # The hot path: bench/publish_subscribe.py. Ids, metadata and queues are done in line, since each call costs as much
    # as what it does; everything out of the ordinary is _publish_unusual's. Headers are no keyword-only argument, which
    # would cost every call a twentieth.
    async def publish(  # noqa: C901, PLR0912 - the hot path: no calls
        self, event: object, headers: Mapping[str, str] | None = None
    ) -> EventMetadata:
        """Give ``event`` to all who subscribed to its class, and return the metadata it was given.

        Waits while one of them with ``overflow="wait"`` is full, first come first served; a handler of this bus never
        waits. All get it or, where it is refused or the wait is cancelled, none.

        Args:
            event: An event, or an ``EventEnvelope``, which keeps its metadata.
            headers: Text by name, for the metadata.

        Raises:
            NotAnEventError: It is no event.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            SubscriptionFullError: A subscription with ``overflow="raise"`` is full.
            NotStartedError: The bus has handlers and was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            EncodeError: The bus is connected, and the event cannot be written.
            EventTooLargeError: The bus is connected, and the event is larger than ``max_event_bytes``.
            TransportUnavailableError: The broker of a connected bus is away; nothing was sent.
            PublishUnknownError: The broker of a connected bus did not confirm; ``envelope`` can be published again.
            WrongLoopError: It is called from another thread or event loop; see ``publish_threadsafe``.
            ReplayedMessageError: It is called by what is being replayed.
        """
        try:
            route = self._routes[type(event)]
        except KeyError:
            return await self._publish_unusual(event, headers)
        if headers is not None or self._whereabouts._thread_id != get_ident():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see Whereabouts
            return await self._publish_unusual(event, headers)
        time_ns = self._time_ns  # called in one line with the look-up, it would be looked up as a method
        now_ns = time_ns()
        ids = self._ids
        if now_ns >= ids.until_ns:
            ids.renew(now_ns)
        try:
            event_id = next(ids.unused)
        except StopIteration:
            event_id = ids.take(now_ns)
        event_type = route.event_type
        field, key = route.key_field, ""
        if field is not None:
            key = getattr(event, field)
        elif route.key_of is not None:
            key = cast("Any", route.key_of(event))
        if type(key) is not str:
            key = text_of(key)
        outer = _current_message()
        if outer is None:
            metadata = EventMetadata(event_id, event_type, key, now_ns // 1000, event_id)
        else:
            metadata = EventMetadata(
                event_id,
                event_type,
                key,
                now_ns // 1000,
                event_id if outer.correlation_id is None else outer.correlation_id,
                outer.event_id,
                outer.user_id,
            )
        envelope = EventEnvelope(event, metadata, event_type)
        only = route.only
        if only is not None and len(only.queue) < only.limit:
            only.queue.append(envelope)
            if only.receivers:
                only.wake()
            route.published += 1
            return metadata
        link = self._link
        if link is not None:
            await link.publish_one(envelope, route.schema)
            return metadata
        for subscription in route.subscriptions:
            queue = subscription.queue
            if len(queue) >= subscription.limit:
                _take_back(route.subscriptions, subscription)
                await self._engine.deliver(route.subscriptions, [envelope])
                return metadata
            queue.append(envelope)
            if subscription.receivers:
                subscription.wake()
        route.published += 1
        return metadata

    async def publish_many(
        self, events: Iterable[object], *, headers: Mapping[str, str] | None = None
    ) -> list[EventMetadata]:
        """Publish ``events`` in order, as ``publish`` does each, and return their metadata.

        They are stamped before the first is delivered, with one instant, and reach those who have subscribed by then.
        Where one is refused or the wait is cancelled, those before it stay published.

        Args:
            events: Events or envelopes.
            headers: Text by name, for the metadata of each.

        Raises:
            NotAnEventError: One of them is no event; none was published.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            SubscriptionFullError: A subscription with ``overflow="raise"`` is full.
            NotStartedError: The bus has handlers and was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            EncodeError: The bus is connected, and the event cannot be written.
            EventTooLargeError: The bus is connected, and the event is larger than ``max_event_bytes``.
            TransportUnavailableError: The broker of a connected bus is away; nothing was sent.
            PublishUnknownError: The broker of a connected bus did not confirm; ``envelope`` can be published again.
            WrongLoopError: It is called from another thread or event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        # Routes are there only while everything may be published.
        if not self._routes or self._whereabouts._thread_id != get_ident():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see Whereabouts
            self._engine.life.check_takes("publish")
        runs = self._stamp_runs(events, headers)
        if self._engine.observer is not None:
            return await self._publish_observed(runs)
        if self._link is not None:  # in one go, whatever their classes
            await self._link.publish([envelope for _, _, envelopes in runs for envelope in envelopes])
            return [metadata for _, stamped, _ in runs for metadata in stamped]
        for subscriptions, _, envelopes in runs:
            count = len(envelopes)
            for subscription in subscriptions:
                if len(subscription.queue) + count > subscription.limit:
                    await self._engine.deliver(subscriptions, envelopes)
                    break
            else:
                for subscription in subscriptions:
                    subscription.append(envelopes)
                self._published += count
        return runs[0][1] if len(runs) == 1 else list(chain.from_iterable(metadata for _, metadata, _ in runs))

    def publish_nowait(self, event: object, *, headers: Mapping[str, str] | None = None) -> EventMetadata:
        """Publish from synchronous code on the loop's own thread.

        Args:
            event: An event or an envelope.
            headers: Text by name, for the metadata.

        Raises:
            SubscriptionFullError: A subscription has no room; nobody got the event.
            NotAnEventError: It is no event.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            NotStartedError: The bus has handlers and was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            WrongLoopError: It is called from another thread or outside of the event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        self._engine.life.check_takes("publish")
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers)
        (delivered,) = self._engine.deliver_now(self._subscriptions_of(envelope), [envelope])
        return delivered.metadata

    def publish_threadsafe(self, event: object, *, headers: Mapping[str, str] | None = None) -> "Future[EventMetadata]":
        """Publish from any thread, in the order of the thread's calls; the future tells when the event is in.

        Waiting for the future (not on the loop's own thread) is what holds back a thread that publishes faster than
        events are handled; one that does not wait fills the memory. It raises what ``publish`` does.

        Args:
            event: An event or an envelope.
            headers: Text by name, for the metadata.

        Raises:
            NotAnEventError: It is no event.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            NotStartedError: The bus was not used on an event loop yet.
            ClosedError: The bus is closed, or its event loop is.
            ReplayedMessageError: It is called by what is being replayed.
        """
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers)
        refuse_other_messages(envelope)
        return self._engine.deliver_threadsafe(envelope, self._subscriptions_of)

    def _add(self, classes: tuple[type, ...], subscription: Subscription) -> None:
        self._classes.append((classes, subscription))
        self._look_again()

    def _remove(self, subscription: Subscription) -> None:
        self._classes = [entry for entry in self._classes if entry[1] is not subscription]

    def _count_in_line(self) -> int:
        return self._published + sum(route.published for route in self._routes.values())

    def _look_again(self) -> None:
        self._published += sum(route.end() for route in self._routes.values())
        self._routes = {}
        self._whereabouts = self._engine.life.whereabouts

    def _route(self, event_class: type) -> Route:
        """Return the route of a class that may be published now; it need not be asked for again until things change."""
        route = self._routes.get(event_class)
        if route is not None:
            return route
        schema = schema_of(event_class)
        _refuse_other_class(event_class)
        # Event is all events, those of decorated classes too.
        subscriptions = tuple(
            item for classes, item in self._classes if Event in classes or issubclass(event_class, classes)
        )
        outlet = self._engine.outlet
        route = Route(schema, subscriptions if outlet is None else (outlet,))
        if self._engine.life.takes_all and self._engine.observer is None:
            self._routes[event_class] = route
            route.begin()
        return route

    def _route_of(self, event: object) -> Route:
        if isinstance(event, type):
            raise NotAnEventError(event)
        return self._route(type(event))

    def _subscriptions_of(self, envelope: AnyEnvelope) -> Sequence[Subscription]:
        event: object = envelope.event
        return self._route(type(event)).subscriptions

    async def _publish_unusual(self, event: object, headers: Mapping[str, str] | None) -> EventMetadata:
        self._engine.life.check_takes("publish")
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers)
        (delivered,) = await self._engine.deliver(self._subscriptions_of(envelope), [envelope])
        return delivered.metadata

    async def _publish_observed(self, runs: Sequence[Run]) -> list[EventMetadata]:
        published: list[EventMetadata] = []
        for subscriptions, _, envelopes in runs:
            published += [one.metadata for one in await self._engine.deliver(subscriptions, envelopes)]
        return published

    # The second hot path: bench/publish_batches.py. Events of one class in a row are stamped and delivered together.
    def _stamp_runs(self, events: Iterable[Any], headers: Mapping[str, str] | None) -> list[Run]:
        checked = NO_HEADERS if headers is None else checked_headers(headers)
        now_ns = self._time_ns()
        runs: list[Run] = []
        for same in _runs_of_one_class(events):
            if isinstance(same[0], EventEnvelope):
                refuse_in_replay()
                envelopes = [readdressed(envelope, headers=headers, topic=None) for envelope in same]
                runs += [(self._subscriptions_of(one), [one.metadata], [one]) for one in envelopes]
            else:
                route = self._route_of(same[0])
                metadata, envelopes = stamp_run(
                    same,
                    route.event_type,
                    route.keys_of,
                    event_ids=self._ids.take_many(now_ns, len(same)),
                    timestamp=now_ns // 1000,
                    headers=checked,
                )
                runs.append((route.subscriptions, metadata, envelopes))
        return runs


def _checked_classes(event_classes: tuple[Any, ...]) -> tuple[type, ...]:
    if not event_classes:
        raise InvalidArgumentError("event_classes", event_classes, expected="at least one event class")
    for event_class in event_classes:
        if event_class is Event:
            continue
        if not isinstance(event_class, type):
            raise NotAnEventError(event_class, problem=_NO_CLASS)
        schema_of(event_class)
        _refuse_other_class(event_class)
    return cast("tuple[type, ...]", event_classes)


def _type_of(event_class: type) -> str:
    return "*" if event_class is Event else schema_of(event_class).event_type


def _wants(classes: tuple[type, ...]) -> Wants:
    """Return which events from a broker a consumer of ``classes`` gets."""
    known: dict[str, bool] = {}

    def wants(event_type: str, _: str) -> bool:
        is_wanted = known.get(event_type)
        if is_wanted is None:
            found = class_for(event_type)
            if found is None:  # today: its module may be imported later
                return Event in classes
            is_wanted = known[event_type] = Event in classes or issubclass(found, classes)
        return is_wanted

    return Wants(wants, classes)


def refuse_other_messages(envelope: AnyEnvelope) -> None:
    """Raise for requests, commands and queries, which other buses send to one handler.

    Raises:
        NotAnEventError: The envelope holds one of these.
    """
    event: object = envelope.event
    _refuse_other_class(type(event))


def _refuse_other_class(event_class: type) -> None:
    value: object = event_class
    if issubclass(event_class, ANSWERED_BY_ONE):
        raise NotAnEventError(value, problem=_NOT_FOR_MANY)


def _runs_of_one_class(events: Iterable[Any]) -> list[list[Any]]:
    try:
        listed: list[Any] = events if isinstance(events, list) else list(events)
    except TypeError as exc:
        raise InvalidArgumentError("events", events, expected="several events, as a list") from exc
    first: object = listed[0] if listed else None
    if listed and countOf(map(type, listed), type(first)) == len(listed):  # faster than a set of the classes, or a loop
        return [listed]
    return [list(run) for _, run in groupby(listed, type)]


def _take_back(subscriptions: Sequence[Subscription], full: Subscription) -> None:
    """Undo the appends to those before ``full``, in the same turn of the loop: nobody has seen them."""
    for subscription in subscriptions:
        if subscription is full:
            return
        subscription.queue.pop()
