"""A bus's side of its transport: what it publishes goes out, its consumers' events come in."""

import asyncio
import logging
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.observer import system_of
from avx_events.bus.remote.intake import Decode, Intake, Wants
from avx_events.bus.remote.ports import (
    CONTENT_MODES,
    STARTS,
    Consumer,
    ContentMode,
    Incoming,
    OnRedrive,
    Outgoing,
    Start,
    Transport,
)
from avx_events.bus.subscription import AnyEnvelope
from avx_events.core import cloudevents
from avx_events.core.arguments import text, whole
from avx_events.core.errors import InvalidArgumentError, PublishUnknownError, SubscriptionFullError, UnsupportedError
from avx_events.core.metadata import current_message

if TYPE_CHECKING:
    from avx_events.bus.dead_letters import DeadLetterStore
    from avx_events.bus.life import Life
    from avx_events.core.clock import Clock
    from avx_events.core.event import EventSchema

log = logging.getLogger("avx_events")

DEFAULT_IN_FLIGHT: Final = 1024


class LinkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a bus uses its transport.

    Attributes:
        group: The group that its consumers belong to; None makes them broadcast listeners.
        start: Where a group that is new begins.
        capacity: How many events one consumer of this member may have received and not acknowledged.
        source: Who publishes, as a URI reference.
        max_event_bytes: The largest document that is sent or looked into.
        content_mode: How events are sent: as documents, or as data with the attributes beside it.
        decode: Turns what came into an envelope; None where it comes as a CloudEvents document.
    """

    group: str | None = None
    start: Start = "latest"
    capacity: int = DEFAULT_IN_FLIGHT
    source: str = "/avx"
    max_event_bytes: int = cloudevents.MAX_EVENT_BYTES
    content_mode: ContentMode = "structured"
    decode: Decode | None = None

    def __post_init__(self) -> None:
        """Refuse what no transport can do.

        Raises:
            InvalidArgumentError: A value is outside its range.
        """
        if self.group is not None:
            text("group", self.group)
        if self.start not in STARTS:
            raise InvalidArgumentError("start", self.start, expected=f"one of {', '.join(STARTS)}")
        text("source", self.source)
        whole("capacity", self.capacity, least=1)
        whole("max_event_bytes", self.max_event_bytes, least=1)
        if self.content_mode not in CONTENT_MODES:
            raise InvalidArgumentError("content_mode", self.content_mode, expected=f"one of {', '.join(CONTENT_MODES)}")


class Link:
    """What a bus that is connected has, and one in memory has not.

    Attributes:
        options: How the transport is used.
        published: How many events the broker has accepted.
    """

    __slots__ = ("_decode", "_intakes", "_life", "_sending", "_transport", "_unopened", "options", "published")

    def __init__(self, transport: Transport, options: LinkOptions, life: "Life") -> None:
        """Begin without consumers; ``life`` is that of the bus."""
        self.options = options
        self.published = 0
        self._transport = transport
        self._life = life
        self._intakes: dict[Dispatcher, Intake] = {}
        self._unopened: list[Intake] = []
        self._sending: set[asyncio.Future[None]] = set()
        self._decode = options.decode or partial(_decoded, max_bytes=options.max_event_bytes, clock=life.clock)

    @property
    def system(self) -> str:
        """The kind of broker."""
        return system_of(self._transport.name)

    # Consumers

    def check_consumer(self, name: str, *, has_key: bool, overflow: str) -> None:
        """Raise for what cannot be promised through a broker.

        Raises:
            UnsupportedError: It is another key than that of the publisher, or an overflow policy that drops or refuses.
        """
        if self.options.group is not None and overflow != "wait":
            problem = f"overflow={overflow!r} would drop events that the broker keeps for its group"
            raise UnsupportedError(name, problem, remedy="leave overflow= out, the broker keeps what is not read yet")
        if overflow == "raise":
            problem = "overflow='raise' has nobody to refuse: publishers only reach the broker"
            raise UnsupportedError(name, problem, remedy="use overflow='drop_oldest' or 'drop_newest'")
        if has_key and self.options.group is not None and self._transport.lanes > 1:
            problem = "key= cannot keep order between members: events are spread over lanes by their aggregate id"
            remedy = "connect with one lane (partitions=1, or lanes=1), or make it the aggregate id"
            raise UnsupportedError(name, problem, remedy=remedy)

    def add(self, dispatcher: Dispatcher, *, wants: Wants, capacity: int, on_redrive: OnRedrive | None) -> None:
        """Let ``dispatcher`` receive what it ``wants``, once it was opened or the bus starts.

        In a group, ``on_redrive`` is told which of its dead letters somebody asks to have redriven.
        """
        consumer = Consumer(
            name=dispatcher.name,
            group=self.options.group,
            start=self.options.start,
            event_classes=wants.classes,
            on_redrive=None if self.options.group is None else on_redrive,
        )
        intake = Intake(
            dispatcher,
            consumer,
            self._transport,
            wants=wants,
            decode=self._decode,
            most=min(capacity, self.options.capacity),
            life=self._life,
        )
        self._intakes[dispatcher] = intake
        self._unopened.append(intake)
        self._life.add(intake)

    async def open(self) -> None:
        """Have all consumers known to the broker, so that they miss nothing that is published from now on.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        while self._unopened:
            await self._unopened[0].open()
            self._unopened = [intake for intake in self._unopened if not intake.is_open]

    async def begin(self, dispatcher: Dispatcher) -> None:
        """Receive for a reader, who needs no start of the bus.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        intake = self._intakes[dispatcher]
        await intake.open()
        context = copy_context()
        context.run(current_message.set, None)
        intake.start(context)

    async def end(self, dispatcher: Dispatcher) -> None:
        """Receive nothing more for a reader that closes."""
        intake = self._intakes.pop(dispatcher, None)
        if intake is not None:
            self._unopened = [unopened for unopened in self._unopened if unopened is not intake]
            await intake.finish_stop()
            self._life.remove(intake)

    def begin_drain(self) -> None:
        """Receive nothing more for anybody."""
        for intake in self._intakes.values():
            intake.begin_drain()

    # Publishing

    async def publish(self, envelopes: Sequence[AnyEnvelope]) -> None:
        """Send ``envelopes`` in order, and return when the broker has accepted all.

        Raises:
            EncodeError: One cannot be written; none was sent.
            EventTooLargeError: One is larger than the limit; none was sent.
            TransportUnavailableError: The broker is away. Of several, some may have been accepted.
            PublishUnknownError: One was sent and not confirmed.
        """
        if len(envelopes) == 1:
            await self.publish_one(envelopes[0])
        elif envelopes:
            await self._publish_many(envelopes)

    async def publish_one(self, envelope: AnyEnvelope, schema: "EventSchema | None" = None) -> None:
        """Send ``envelope``, and return when the broker has accepted it.

        Args:
            envelope: What to send.
            schema: That of its event's class, where it is known.

        Raises:
            EncodeError: It cannot be written.
            EventTooLargeError: It is larger than the limit.
            TransportUnavailableError: The broker is away; it was not sent.
            PublishUnknownError: It was sent and not confirmed.
        """
        if self._unopened:
            await self.open()
        outgoing = self._outgoing(envelope, schema)
        transport = self._transport
        if transport.is_full:
            await transport.room()
        try:
            await transport.submit(outgoing)
        except PublishUnknownError as exc:
            exc.envelope = envelope
            raise
        self.published += 1

    def publish_nowait(self, envelopes: Sequence[AnyEnvelope]) -> None:
        """Send ``envelopes``; where the broker does not accept one, that is logged.

        Raises:
            SubscriptionFullError: Too much is on its way already; nothing was sent.
            EncodeError: One cannot be written; nothing was sent.
            EventTooLargeError: One is larger than the limit; nothing was sent.
        """
        if len(self._sending) + len(envelopes) > self.options.capacity:
            raise SubscriptionFullError(self._transport.name, self.options.capacity)
        for envelope, outgoing in [(envelope, self._outgoing(envelope)) for envelope in envelopes]:
            future = self._transport.submit(outgoing)
            self._sending.add(future)
            future.add_done_callback(partial(self._sent, envelope))

    def dead_letters(self) -> "DeadLetterStore":
        """Return the dead letters in the broker."""
        return self._transport.dead_letters()

    async def close(self) -> None:
        """Send what was published, and leave no connection."""
        if self._sending:
            await asyncio.wait(set(self._sending))
        await self._transport.close()

    async def _publish_many(self, envelopes: Sequence[AnyEnvelope]) -> None:
        if self._unopened:
            await self.open()
        sent: list[asyncio.Future[None]] = []
        try:
            for outgoing in [self._outgoing(envelope) for envelope in envelopes]:
                if self._transport.is_full:
                    await self._transport.room()
                sent.append(self._transport.submit(outgoing))
            for envelope, future in zip(envelopes, sent, strict=True):
                try:
                    await future
                except PublishUnknownError as exc:
                    exc.envelope = envelope
                    raise
                self.published += 1
        finally:
            for future in sent:
                _forget(future)

    def _outgoing(self, envelope: AnyEnvelope, schema: "EventSchema | None" = None) -> Outgoing:
        metadata, options = envelope.metadata, self.options
        source, max_bytes = options.source, options.max_event_bytes
        attributes: dict[str, str] | None = None
        if options.content_mode != "structured":
            attributes, document = cloudevents.encode_binary(envelope, source=source, max_bytes=max_bytes)
        elif schema is None:
            document = cloudevents.encode(envelope, source=source, max_bytes=max_bytes)
        else:
            document = cloudevents.encode_stamped(envelope, schema, source=source, max_bytes=max_bytes)
        return Outgoing(
            metadata.event_type, envelope.topic, metadata.aggregate_id, document, metadata.event_id, attributes
        )

    def _sent(self, envelope: AnyEnvelope, future: "asyncio.Future[None]") -> None:
        self._sending.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is None:
            self.published += 1
        else:
            log.error("%r was not published: %s", envelope, error)


def _decoded(incoming: Incoming, *, max_bytes: int, clock: "Clock") -> AnyEnvelope:
    return cloudevents.decode(incoming.document, keep_unknown=True, max_bytes=max_bytes, clock=clock)


def _forget(future: "asyncio.Future[None]") -> None:
    """Have nobody told of what nobody waits for any more; what was not sent yet is not sent."""
    if not future.cancel() and not future.cancelled():
        future.exception()
