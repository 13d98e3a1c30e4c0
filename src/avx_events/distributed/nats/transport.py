"""NATS JetStream as the transport of a bus."""

import asyncio
from functools import lru_cache, partial
from itertools import count
from typing import Any, Final

import msgspec

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.ports import Consumer, Outgoing, Source, TransportOptions, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import EventTooLargeError, PublishUnknownError
from avx_events.distributed.nats.broadcast_source import BroadcastSource
from avx_events.distributed.nats.dead_letters import NatsDeadLetters
from avx_events.distributed.nats.frames import Frame, Message
from avx_events.distributed.nats.group_source import GroupSource
from avx_events.distributed.nats.jetstream import MAY_BE_REFUSED, JetStream, TooLargeError, accepted
from avx_events.distributed.nats.lanes import Lanes
from avx_events.distributed.nats.log import IS_DELETED_WITHIN_S, EventLog
from avx_events.distributed.nats.messages import headers_of, type_and_topic
from avx_events.distributed.nats.names import ID_HEADER, Names, lane_of
from avx_events.distributed.nats.pipe import Pipe, Read, Unconfirmed
from avx_events.distributed.nats.reader import Readers
from avx_events.distributed.nats.requests import NatsRequests
from avx_events.distributed.nats.wire import Wire

_HEADER_BYTES: Final = len(b"NATS/1.0\r\n\r\n")
_FIELD_BYTES: Final = len(b": \r\n")
_WAYS: Final = 4096  # topics may be without end


class Way(msgspec.Struct, frozen=True):
    """What is the same of all events of one type and topic in one lane.

    Attributes:
        frame: What they are in structured mode, but for their id and the document.
        read: Raises what an answer says that was not taken.
        unconfirmed: Makes the error of one that was sent and not confirmed.
    """

    frame: Frame
    read: Read
    unconfirmed: Unconfirmed


class NatsTransport:
    """One bus on one NATS: one connection for everything."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL is none of NATS's.
        """
        self._wire = Wire(url, timeout_s=options.timeout_s, client=options.client, clock=clock)
        self._options = options
        self._clock = clock
        self._names = Names(options.namespace, lanes=self.lanes)
        self._publishing = self._pipe("publish", on_nobody=self._mend_log)
        self._control = self._pipe("control", on_nobody=self._mend_others)
        self._mending = self._pipe("mend", on_nobody=None)  # while the others wait for it
        self._jetstream = JetStream(self._control, self._wire.name)
        self._log = EventLog(self._jetstream, self._names, options, server=self._wire.name)
        self._readers = Readers(self._wire, self._jetstream, self._log, self._names, clock=clock)
        self._letters = NatsDeadLetters(
            self._wire, self._jetstream, self._names, clock=clock, lease_s=options.redeliver_after_s
        )
        self._mender = JetStream(self._mending, self._wire.name)
        self._has_groups = False
        self._next_lane = count()
        self._way = lru_cache(maxsize=_WAYS)(self._new_way)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._wire.name

    @property
    def lanes(self) -> int:
        """How many lanes the log has."""
        return self._options.partitions or 0

    @property
    def is_full(self) -> bool:
        """Whether as much is on its way as may be."""
        return self._publishing.is_full

    async def open(self) -> None:
        """Reach the server, and agree with others on the number of lanes.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for credentials, or has another layout.
            PartitionsMismatchError: The namespace has another number of lanes.
        """
        await self._wire.open()
        await self._publishing.open()
        await self._control.open()
        await self._mending.open()
        await self._readers.open()
        if self._options.partitions is not None:
            await self._log.open()

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[Any]":
        """Send an event; see ``Transport``."""
        lanes = len(self._names.lanes)
        lane = lane_of(outgoing.key, lanes) if outgoing.key else next(self._next_lane) % lanes
        way = self._way(lane, outgoing.event_type, outgoing.topic)
        # Of one event that is published to two topics, both are kept.
        about = outgoing.event_id if outgoing.topic == outgoing.event_type else f"{outgoing.event_id} {outgoing.topic}"
        if outgoing.attributes is not None or not about.isprintable():
            return self._submit_with(headers_of(outgoing), outgoing, about, way)
        event_id, document = about.encode(), outgoing.document
        size = way.frame.block_bytes + len(event_id) + len(document)
        if size > self._wire.max_payload:
            return self._refused(outgoing, size)
        return self._publishing.ask_around(way.frame, event_id, document, way.read, unconfirmed=way.unconfirmed)

    async def room(self) -> None:
        """Wait until there is room for another event."""
        await self._publishing.room()

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        """Return the events of ``consumer``; see ``Transport``."""
        if consumer.group is None:
            listener = BroadcastSource(self._readers, self._names)
            await listener.create()
            return listener
        self._has_groups = True
        source = GroupSource(f"{consumer.group}:{consumer.name}")
        lanes = Lanes(
            self._wire,
            self._jetstream,
            self._readers,
            self._names,
            consumer,
            life_s=self._options.redeliver_after_s,
            clock=self._clock,
            withdrawal=withdrawal,
            on_change=source.look,
        )
        try:
            await source.hold(lanes)
        except BaseException:
            await source.close()
            raise
        return source

    def dead_letters(self) -> DeadLetterStore:
        """Return the dead letters of the namespace."""
        return self._letters

    def requests(self) -> NatsRequests:
        """Return the same connection for requests and replies."""
        return NatsRequests(self._wire, self._names, on_close=self.close)

    async def close(self) -> None:
        """Send what was submitted, and leave no connection."""
        await self._publishing.close()
        await self._letters.close()
        await self._readers.close()
        await self._control.close()
        await self._mending.close()
        await self._wire.close()

    def _submit_with(self, fields: dict[str, str], outgoing: Outgoing, about: str, way: Way) -> "asyncio.Future[Any]":
        size = len(about.encode()) + _size(fields) + len(outgoing.document)
        if size > self._wire.max_payload:
            return self._refused(outgoing, size)
        return self._publishing.ask(
            way.frame.subject,
            outgoing.document,
            way.read,
            headers={ID_HEADER: about, **fields},
            unconfirmed=way.unconfirmed,
        )

    def _refused(self, outgoing: Outgoing, size: int) -> "asyncio.Future[Any]":
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(self._too_large(outgoing.event_type, size))
        return refused

    def _new_way(self, lane: int, event_type: str, topic: str) -> Way:
        def read(message: Message, size: int) -> None:
            if MAY_BE_REFUSED in message.data:
                self._look_refused(event_type, message, size)

        fields = type_and_topic(event_type, topic)
        frame = Frame.of(self._names.lanes[lane], reply=self._publishing.inbox, header=ID_HEADER, headers=fields)
        return Way(frame, read, partial(PublishUnknownError, self.name, event_type))

    def _look_refused(self, event_type: str, message: Message, size: int) -> None:
        try:
            accepted(message, self._jetstream)
        except TooLargeError as exc:
            raise self._too_large(event_type, size) from exc

    def _too_large(self, event_type: str, size: int) -> EventTooLargeError:
        return EventTooLargeError(event_type, size_bytes=size, max_bytes=self._wire.max_payload)

    async def _mend_log(self) -> None:
        await self._log.look()

    async def _mend_others(self) -> None:
        await asyncio.sleep(IS_DELETED_WITHIN_S)
        if self._has_groups:
            await self._mender.make_bucket(self._names.groups)
        await self._letters.make(self._mender)

    def _pipe(self, what: str, *, on_nobody: Any) -> Pipe:
        name = f"avx-events nats: {what}"
        return Pipe(self._wire, timeout_s=self._options.timeout_s, clock=self._clock, what=name, on_nobody=on_nobody)


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> NatsTransport:
    """Return a transport that has reached its server.

    Raises:
        InvalidArgumentError: The URL is none of NATS's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for credentials, or the namespace has another layout.
        PartitionsMismatchError: The namespace has another number of lanes.
    """
    transport = NatsTransport(url, options, clock=clock)
    try:
        await transport.open()
    except BaseException:
        await transport.close()
        raise
    return transport


def _size(fields: dict[str, str]) -> int:
    """Return how many bytes all headers take, but for the id itself."""
    size = _HEADER_BYTES + len(ID_HEADER) + _FIELD_BYTES
    return size + sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields.items())
