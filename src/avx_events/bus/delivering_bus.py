"""What the event bus and the topic bus have in common: their life, their dead letters, their figures."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.engine import Engine, Remote
from avx_events.bus.observer import MEMORY, Observer
from avx_events.bus.registered_handler import RegisteredHandler
from avx_events.bus.remote.connecting import transport_at
from avx_events.bus.remote.link import DEFAULT_IN_FLIGHT, LinkOptions
from avx_events.bus.remote.ports import DEFAULT_RETENTION_S, ContentMode, Start, TransportOptions
from avx_events.bus.statistics import BusStatistics
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.cloudevents import MAX_EVENT_BYTES
from avx_events.core.errors import NoDeadLetterQueueError


class DeliveringBus:
    """A bus that delivers events to handlers and subscribers; ``EventBus`` and ``TopicBus`` are the two.

    They differ in how a subscription says what it wants: a base class, and not functions of an engine, so that code can
    be written for both.

    Attributes:
        schemes: Of which URLs ``connect`` takes one; None is whatever is installed.
    """

    __slots__ = ("_engine", "_handlers", "_published")

    schemes: ClassVar[tuple[str, ...] | None] = None

    def __init__(
        self,
        *,
        name: str = "bus",
        dead_letter_queue: DeadLetterQueue | None = None,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        remote: Remote | None = None,
    ) -> None:
        """Make an open bus without subscriptions.

        Args:
            name: What errors and logs call it.
            dead_letter_queue: Where events go that a handler gave up; None is the log, or the broker of ``remote``.
            drain_timeout_s: How many seconds ``close`` lets handlers finish what is there.
            clock: Time.
            remote: A transport and how to use it, as ``connect`` gives them; None is memory.

        Raises:
            InvalidArgumentError: The timeout is no number of seconds above 0, or the queue is none.
        """
        self._engine = Engine(
            name,
            dead_letters=dead_letter_queue,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
            on_change=self._look_again,
            remote=remote,
        )
        self._handlers: dict[str, RegisteredHandler] = {}
        self._published: int = 0

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        group: str | None = None,
        start: Start = "latest",
        namespace: str = "avx",
        partitions: int = 16,
        redeliver_after_s: float = 30.0,
        timeout_s: float = 10.0,
        capacity: int = DEFAULT_IN_FLIGHT,
        retention_s: float | None = DEFAULT_RETENTION_S,
        max_events: int | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        content_mode: ContentMode = "structured",
        dead_letter_queue: DeadLetterQueue | None = None,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        **client: Any,
    ) -> Self:
        """Return a bus on the broker at ``url``, which was reached.

        With a group, each event is handled by one of those members of the group that have the handler, at least once:
        it is acknowledged when the handler, its retry or its dead letter is done. Without one, every subscriber and
        handler gets every event that is published while it lives.

        Args:
            url: Where the broker is: ``redis://`` and what else is installed.
            group: Which service this is; its members share the work.
            start: Where a handler that is new to its group begins: ``latest`` is now, ``earliest`` all that is kept.
            namespace: The prefix of every name in the broker; buses of one namespace share one log.
            partitions: How many lanes the log has, 1 to 1,024, where the broker has none of its own: no more members
                than that share the work of a handler. All that use a namespace must agree.
            redeliver_after_s: How many seconds the work of a member waits that died or stood still.
            timeout_s: How many seconds the broker may be away before a call fails.
            capacity: How many events a handler of this member may have received and not acknowledged, 1 or more.
            retention_s: How many seconds the broker keeps events, whether they were handled or not; None is for ever.
            max_events: How many events it keeps, about, however young they are; None is no limit.
            max_event_bytes: The largest event that is sent or looked into.
            content_mode: How events are sent, as CloudEvents calls it: ``structured`` is one JSON document, ``binary``
                the data alone, with the attributes in the broker's own headers. Both are always understood.
            dead_letter_queue: Where events go that a handler gave up; None is the broker.
            drain_timeout_s: How many seconds ``close`` lets handlers finish what they have begun.
            clock: Time.
            client: Options of the broker's client library: credentials, TLS.

        Raises:
            InvalidArgumentError: The URL is none, or an option is outside its range.
            UnknownSchemeError: Nothing is installed for its scheme.
            MissingExtraError: The client library is not installed.
            TransportUnavailableError: The broker does not answer within ``timeout_s``.
            TransportRefusedError: It answers, and refuses: a password or TLS is missing.
            PartitionsMismatchError: The namespace has another number of partitions.
        """
        link = LinkOptions(
            group=group,
            start=start,
            capacity=capacity,
            source=f"/{namespace}" if group is None else f"/{namespace}/{group}",
            max_event_bytes=max_event_bytes,
            content_mode=content_mode,
        )
        options = TransportOptions(
            namespace=namespace,
            partitions=partitions,
            redeliver_after_s=redeliver_after_s,
            timeout_s=timeout_s,
            retention_s=retention_s,
            max_events=max_events,
            client=client,
        )
        transport = await transport_at(url, options, schemes=cls.schemes, clock=clock)
        try:
            return cls(
                name=f"bus at {transport.name}",
                dead_letter_queue=dead_letter_queue,
                drain_timeout_s=drain_timeout_s,
                clock=clock,
                remote=(transport, link),
            )
        except BaseException:
            await transport.close()
            raise

    @property
    def dead_letter_queue(self) -> DeadLetterQueue:
        """The queue that the bus was given; that in the broker, where a connected bus was given none.

        Raises:
            NoDeadLetterQueueError: It was given none.
        """
        queue = self._engine.dead_letters
        if queue is None:
            raise NoDeadLetterQueueError(self._engine.life.name)
        return queue

    @property
    def name(self) -> str:
        """What errors and logs call the bus."""
        return self._engine.life.name

    @property
    def system(self) -> str:
        """What carries its events: ``memory``, ``log`` (of a store), or the broker's kind, as ``redis`` or ``nats``."""
        link = self._engine.link
        return MEMORY if link is None else link.system

    @property
    def group(self) -> str | None:
        """The group of a connected bus; None where it has none."""
        link = self._engine.link
        return None if link is None else link.options.group

    def handlers(self) -> Sequence[RegisteredHandler]:
        """Return the handlers that ``on`` registered, by name, whether they run or not; pull subscribers are none."""
        return [self._handlers[name] for name in sorted(self._handlers)]

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of all that the bus does from now on, beside those that are told already.

        Events take longer paths then, so it is for telemetry: a handler or a subscriber is how to get events.

        Raises:
            ClosedError: The bus is closed.
        """
        self._engine.observe(observer)

    async def start(self) -> None:
        """Run the handlers. Harmless when repeated.

        Raises:
            ClosedError: The bus was closed.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._engine.start()

    async def close(self) -> None:
        """Stop in good order; harmless when repeated.

        Publishers from outside are refused at once. Handlers finish what is queued, retries and what they themselves
        publish included, for up to ``drain_timeout_s`` seconds; what is not done then becomes a dead letter with the
        reason ``stopped``. Pull subscribers read what is queued for them, and then the end. In a group of a broker,
        what handlers have not begun is left to other members, and what is done is acknowledged.

        Raises:
            HandlerWaitError: One of its own handlers calls it.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._engine.close(is_in_good_order=sys.exception() is None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.close(is_in_good_order=kind is None)

    async def settled(self) -> None:
        """Wait until every event, and all that handlers published because of it, is handled.

        Delivery blocks that are open are waited for, pull subscribers that nobody reads are not. Of a broker, it speaks
        of what has come to this process.

        Raises:
            HandlerWaitError: A handler or delivery block of this bus calls it.
            NotStartedError: There are handlers that nobody runs.
            EngineFailedError: The bus delivers nothing any more.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._engine.life.settled()

    async def republish(self, letter: DeadLetter | str) -> bool:
        """Give a dead letter, or the one of an id, back to the handler that failed, and to no other.

        Returns once it is in line; the letter leaves the queue when the handler succeeds, and is updated when it fails.

        Returns:
            False where the letter is being redriven already, or was in this moment, and has failed again.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: The bus has no handler of its name, or belongs to another group.
            NoDeadLetterQueueError: The bus has no dead letter queue.
            InvalidArgumentError: It is no letter, or its bytes could not be decoded: there is no event to handle.
            NotStartedError: The bus was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            WrongLoopError: The bus belongs to another event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        return await self._engine.redrive(letter)

    def statistics(self) -> BusStatistics:
        """Return what was published, delivered, handled, retried, dead-lettered and dropped, and what waits."""
        return self._engine.statistics(self._count_in_line())

    def _look_again(self) -> None:
        """See anew what a publish may do: something has changed."""

    def _count_in_line(self) -> int:
        """Return how many events found room and were put in line, past the engine's door."""
        return self._published
