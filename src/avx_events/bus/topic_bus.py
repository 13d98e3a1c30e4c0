"""The topic bus: events by the topic they are published to, subscriptions by pattern."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.dispatcher import KeyFunction
from avx_events.bus.engine import Remote
from avx_events.bus.event_bus import DEFAULT_RETRY, refuse_other_messages
from avx_events.bus.registered_handler import RegisteredHandler
from avx_events.bus.remote.intake import Wants
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.subscription import DEFAULT_CAPACITY, AnyEnvelope, Subscription
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.ids import IdBlock
from avx_events.core.metadata import EventMetadata, stamp
from avx_events.core.policy import ONE_ATTEMPT, Overflow, Retry
from avx_events.core.topic import TopicTrie, check_pattern, check_topic

if TYPE_CHECKING:
    from concurrent.futures import Future

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class TopicBus(DeliveringBus):
    """A bus whose subscriptions are patterns of topics; in memory, or connected.

    A topic is text in segments split by dots, as ``orders.eu.placed``. In a pattern ``*`` is exactly one segment and
    ``**`` zero or more, anywhere; a lone ``*`` is every topic, as a lone ``**`` is. A subscription whose patterns
    select a topic receives its events in publish order, each once. In everything else it is as ``EventBus``.
    """

    __slots__ = ("_ids", "_is_ready", "_patterns", "_trie", "_whereabouts")

    def __init__(
        self,
        *,
        name: str = "topic bus",
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
        self._is_ready = False
        super().__init__(
            name=name,
            dead_letter_queue=dead_letter_queue,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
            remote=remote,
        )
        self._whereabouts = self._engine.life.whereabouts
        self._trie: TopicTrie[Subscription] = TopicTrie()
        self._patterns: dict[Subscription, tuple[str, ...]] = {}
        self._ids = IdBlock()

    async def subscribe(
        self,
        *patterns: str,
        name: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
        retry: Retry | None = DEFAULT_RETRY,
        key: KeyFunction | None = None,
    ) -> Subscriber[Any]:
        """Return a subscriber that receives every event published to a topic of ``patterns`` from now on.

        Args:
            patterns: One or more patterns; a topic is one too.
            name: What statistics and dead letters call it; ``subscriber-1`` and so on if not given.
            capacity: How many unread events it holds, 1 or more.
            overflow: What happens to a publish when they are that many: it waits (``wait``), the oldest or the new one
                goes (``drop_oldest``, ``drop_newest``), or it fails for everybody (``raise``).
            retry: What follows a failed delivery block; None is one attempt. Of no meaning for ``recv``.
            key: Gives the key of an event, whose deliveries never overlap; the aggregate id if not given.

        Raises:
            InvalidTopicError: A pattern is malformed.
            InvalidArgumentError: No pattern is given, or an option is outside its range.
            DuplicateHandlerError: Another consumer of the bus has the name.
            ClosedError: The bus is closed.
            UnsupportedError: The bus is connected, and its broker cannot do what an option says.
            TransportUnavailableError: The broker of a connected bus is away.
            WrongLoopError: The bus belongs to another event loop.
        """
        checked = _checked(patterns)
        subscriber = await self._engine.add_subscriber(
            name=name,
            retry=retry,
            key=key,
            capacity=capacity,
            overflow=overflow,
            what="+".join(sorted(checked)),
            wants=_wants(checked),
            on_close=self._remove,
        )
        self._add(checked, subscriber.dispatcher.subscription)
        return subscriber

    def on(
        self,
        *patterns: str,
        name: str | None = None,
        retry: Retry | None = DEFAULT_RETRY,
        concurrency: int = 1,
        timeout_s: float | None = None,
        key: KeyFunction | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler of what is published to the topics of ``patterns``; see ``EventBus.on``.

        The topic is in the envelope, which the handler is given if it has a second parameter.

        Args:
            patterns: One or more patterns.
            name: What statistics and dead letters call it; its qualified name if not given.
            retry: How often it is tried, and after which pauses; None is one attempt.
            concurrency: How many events it handles at once, at most; those of one key never overlap.
            timeout_s: How many seconds one attempt may take; None is for ever.
            key: Gives the key of an event; the aggregate id if not given.
            capacity: How many events wait for it, 1 or more, those waiting for a retry included.
            overflow: What happens to a publish when they are that many; see ``subscribe``.

        Raises:
            InvalidTopicError: A pattern is malformed.
            InvalidArgumentError: No pattern is given, or an option is outside its range.
            HandlerDefinitionError: The function cannot be called with an event.
            DuplicateHandlerError: Another consumer of the bus has the name.
            UnsupportedError: The bus is connected, and its broker cannot do what an option says.
            ClosedError: The bus is closed.
            WrongLoopError: The bus runs on another event loop.
        """
        checked = _checked(patterns)

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
                wants=_wants(checked),
            )
            self._add(checked, subscription)
            self._handlers[subscription.name] = RegisteredHandler(
                name=subscription.name,
                takes=checked,
                retry=ONE_ATTEMPT if retry is None else retry,
                concurrency=concurrency,
                timeout_s=timeout_s,
                key=key,
            )
            return function

        return register

    async def publish_to(self, topic: str, event: object, *, headers: Mapping[str, str] | None = None) -> EventMetadata:
        """Give ``event`` to all whose patterns select ``topic``, and return the metadata it was given.

        Waits, refuses and is cancelled as ``EventBus.publish``: all get it, or none.

        Args:
            topic: Segments split by dots, without wildcards.
            event: An event, or an ``EventEnvelope``, which keeps its metadata.
            headers: Text by name, for the metadata.

        Raises:
            InvalidTopicError: The topic is malformed.
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
        self._trie.match(topic)  # before the event is stamped, and None is no topic here
        envelope = self._stamped(topic, event, headers)
        return await self._deliver(envelope)

    async def publish(self, event: object, *, headers: Mapping[str, str] | None = None) -> EventMetadata:
        """Publish ``event`` to its event type, or an envelope to its topic; see ``publish_to``.

        Args:
            event: An event, or an ``EventEnvelope``, which keeps its metadata and topic.
            headers: Text by name, for the metadata.

        Raises:
            InvalidTopicError: The topic of an envelope is malformed.
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
            WrongLoopError: It is called from another thread or event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        envelope = self._stamped(None, event, headers)
        return await self._deliver(envelope)

    async def publish_many(
        self, events: Iterable[object], *, topic: str | None = None, headers: Mapping[str, str] | None = None
    ) -> list[EventMetadata]:
        """Publish ``events`` in order, as ``publish_to`` does each, and return their metadata.

        They are stamped before the first is delivered. Where one is refused or the wait is cancelled, those before it
        stay published.

        Args:
            events: Events or envelopes.
            topic: The topic of all; each one's own (an event's type) if not given.
            headers: Text by name, for the metadata of each.

        Raises:
            InvalidTopicError: The topic is malformed.
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
        try:
            listed = list(events)
        except TypeError as exc:
            raise InvalidArgumentError("events", events, expected="several events, as a list") from exc
        envelopes = [self._stamped(topic, event, headers) for event in listed]
        if self._engine.link is not None:
            return [envelope.metadata for envelope in await self._engine.deliver((), envelopes)]
        return [await self._deliver(envelope) for envelope in envelopes]

    def publish_nowait(
        self, event: object, *, topic: str | None = None, headers: Mapping[str, str] | None = None
    ) -> EventMetadata:
        """Publish from synchronous code on the loop's own thread.

        Args:
            event: An event or an envelope.
            topic: Where to; its own topic (an event's type) if not given.
            headers: Text by name, for the metadata.

        Raises:
            SubscriptionFullError: A subscription has no room; nobody got the event.
            InvalidTopicError: The topic is malformed.
            NotAnEventError: It is no event.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            NotStartedError: The bus has handlers and was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            WrongLoopError: It is called from another thread or outside of the event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        envelope = self._stamped(topic, event, headers)
        (delivered,) = self._engine.deliver_now(self._trie.match(envelope.topic), [envelope])
        return delivered.metadata

    def publish_threadsafe(
        self, event: object, *, topic: str | None = None, headers: Mapping[str, str] | None = None
    ) -> "Future[EventMetadata]":
        """Publish from any thread, in the order of the thread's calls; see ``EventBus.publish_threadsafe``.

        Args:
            event: An event or an envelope.
            topic: Where to; its own topic (an event's type) if not given.
            headers: Text by name, for the metadata.

        Raises:
            InvalidTopicError: The topic is malformed.
            NotAnEventError: It is no event.
            InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
            NotStartedError: The bus was not used on an event loop yet.
            ClosedError: The bus is closed, or its event loop is.
            ReplayedMessageError: It is called by what is being replayed.
        """
        if topic is not None:
            check_topic(topic)
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers, topic=topic)
        refuse_other_messages(envelope)
        return self._engine.deliver_threadsafe(envelope, self._subscriptions_of)

    def _add(self, patterns: tuple[str, ...], subscription: Subscription) -> None:
        self._patterns[subscription] = patterns
        for pattern in patterns:
            self._trie.add(pattern, subscription)

    def _remove(self, subscription: Subscription) -> None:
        for pattern in self._patterns.pop(subscription, ()):
            self._trie.remove(pattern, subscription)

    def _look_again(self) -> None:
        self._is_ready = self._engine.life.takes_all
        self._whereabouts = self._engine.life.whereabouts

    def _subscriptions_of(self, envelope: AnyEnvelope) -> Sequence[Subscription]:
        return self._trie.match(envelope.topic)

    def _stamped(self, topic: str | None, event: object, headers: Mapping[str, str] | None) -> AnyEnvelope:
        if not self._is_ready or self._whereabouts._thread_id != get_ident():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see Whereabouts
            self._engine.life.check_takes("publish")
        if topic is not None:
            self._trie.match(topic)  # which remembers what it has seen, unlike a check
        life = self._engine.life
        envelope = stamp(event, clock=life.clock, headers=headers, topic=topic, new_id=self._ids.take)
        refuse_other_messages(envelope)
        return envelope

    async def _deliver(self, envelope: AnyEnvelope) -> EventMetadata:
        engine = self._engine
        if engine.observer is not None:
            (delivered,) = await engine.deliver(self._trie.match(envelope.topic), [envelope])
            return delivered.metadata
        if engine.link is not None:
            await engine.link.publish_one(envelope)
            return envelope.metadata
        subscriptions = self._trie.match(envelope.topic)
        for subscription in subscriptions:
            if len(subscription.queue) >= subscription.limit:
                await engine.deliver(subscriptions, [envelope])
                return envelope.metadata
        for subscription in subscriptions:
            subscription.push([envelope])
        self._published += 1
        return envelope.metadata


def _wants(patterns: tuple[str, ...]) -> Wants:
    """Return which events from a broker a consumer of ``patterns`` gets."""
    trie: TopicTrie[str] = TopicTrie()
    for pattern in patterns:
        trie.add(pattern, pattern)

    def wants(_: str, topic: str) -> bool:
        return bool(trie.match(topic))

    return Wants(wants)


def _checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise InvalidArgumentError("patterns", patterns, expected="at least one pattern, as 'orders.*'")
    return tuple([check_pattern(pattern) for pattern in patterns])
