"""NATS JetStream as the transport of a bus."""

import asyncio
from functools import partial
from itertools import count
from typing import Any, Final

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.ports import Consumer, Outgoing, Source, TransportOptions, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import EventTooLargeError, PublishUnknownError
from avx_events.distributed.nats.broadcast_source import BroadcastSource
from avx_events.distributed.nats.dead_letters import NatsDeadLetters
from avx_events.distributed.nats.frames import Message
from avx_events.distributed.nats.group_source import GroupSource
from avx_events.distributed.nats.jetstream import JetStream, TooLargeError, accepted
from avx_events.distributed.nats.lanes import Lanes
from avx_events.distributed.nats.log import IS_DELETED_WITHIN_S, EventLog
from avx_events.distributed.nats.messages import headers_of
from avx_events.distributed.nats.names import ID_HEADER, Names, lane_of
from avx_events.distributed.nats.pipe import Pipe
from avx_events.distributed.nats.reader import Readers
from avx_events.distributed.nats.requests import NatsRequests
from avx_events.distributed.nats.wire import Wire

_HEADER_BYTES: Final = len(b"NATS/1.0\r\n\r\n")
_FIELD_BYTES: Final = len(b": \r\n")


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
        self._letters = NatsDeadLetters(self._jetstream, self._names, clock=clock, lease_s=options.redeliver_after_s)
        self._mender = JetStream(self._mending, self._wire.name)
        self._has_groups = False
        self._next_lane = count()

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
        lane = lane_of(outgoing.key, self.lanes) if outgoing.key else next(self._next_lane) % self.lanes
        fields = headers_of(outgoing)
        # Of one event that is published to two topics, both are kept.
        about = outgoing.event_id if outgoing.topic == outgoing.event_type else f"{outgoing.event_id} {outgoing.topic}"
        size = len(about.encode()) + _size(fields) + len(outgoing.document)
        if size > self._wire.max_payload:
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(self._too_large(outgoing, size))
            return refused
        return self._publishing.ask(
            self._names.lanes[lane],
            outgoing.document,
            partial(self._accepted, outgoing),
            headers={ID_HEADER: about, **fields},
            unconfirmed=partial(PublishUnknownError, self.name, outgoing.event_type),
        )

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

    def _accepted(self, outgoing: Outgoing, message: Message) -> None:
        try:
            accepted(message, self._jetstream)
        except TooLargeError as exc:
            raise self._too_large(outgoing, len(outgoing.document)) from exc

    def _too_large(self, outgoing: Outgoing, size: int) -> EventTooLargeError:
        return EventTooLargeError(outgoing.event_type, size_bytes=size, max_bytes=self._wire.max_payload)

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
