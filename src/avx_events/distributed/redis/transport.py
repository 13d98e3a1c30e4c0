"""Redis as the transport of a bus."""

import math
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.ports import Consumer, Outgoing, Source, TransportOptions, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import PartitionsMismatchError, PublishUnknownError, TransportRefusedError
from avx_events.distributed.redis.broadcast_source import BroadcastSource
from avx_events.distributed.redis.dead_letters import RedisDeadLetters
from avx_events.distributed.redis.entries import fields_around, fields_of
from avx_events.distributed.redis.group_source import GroupSource
from avx_events.distributed.redis.leases import Leases
from avx_events.distributed.redis.names import LAYOUT_VERSION, Names, lane_of
from avx_events.distributed.redis.pipe import Pipe, Unconfirmed
from avx_events.distributed.redis.requests import RedisRequests
from avx_events.distributed.redis.scripts import AGREE, TRIM
from avx_events.distributed.redis.waiting_wire import WaitingWire
from avx_events.distributed.redis.wire import Argument, Frame, Servers, packed

if TYPE_CHECKING:
    import asyncio


_TRIM_EVERY_S: Final = 60.0
_WAYS: Final = 4096  # topics may be without end


class Way(msgspec.Struct, frozen=True):
    """What is the same of all events of one type and topic in one lane.

    Attributes:
        frame: Their command, but for the document.
        unconfirmed: Makes the error of one that was sent and not confirmed.
    """

    frame: Frame
    unconfirmed: Unconfirmed


class RedisTransport:
    """One bus on one Redis: a connection for what is published, one to read for each consumer, one for all else."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL is none of Redis's.
        """
        self._servers = Servers(url, timeout_s=options.timeout_s, client=options.client)
        self._options = options
        self._clock = clock
        self._names = Names(options.namespace)
        self._publishing = self._pipe("publish")
        self._control = self._pipe("control")
        self._letters = RedisDeadLetters(self._control, self._names, clock=clock, lease_s=options.redeliver_after_s)
        self._member = uuid4().hex
        self._streams = [self._names.lane(lane) for lane in range(self.lanes)]
        self._next_lane = count()
        most = options.max_events
        self._limit: tuple[Argument, ...] = () if most is None else ("MAXLEN", "~", max(most // max(self.lanes, 1), 1))
        self._trim_at = 0.0
        self._way = lru_cache(maxsize=_WAYS)(self._new_way)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._servers.name

    @property
    def lanes(self) -> int:
        """How many lanes the log has."""
        return self._options.partitions or 0

    @property
    def is_full(self) -> bool:
        """Whether as much is on its way as may be."""
        return self._publishing.is_full

    async def open(self) -> None:
        """Reach the server, and agree with others on the number of lanes, where there is a log.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for a password, or has another layout.
            PartitionsMismatchError: The namespace has another number of lanes.
        """
        await self._control.connect()
        if self._options.partitions is None:
            return
        agreed = await self._control.ask(
            packed("EVAL", AGREE, 1, self._names.meta, self._options.partitions, LAYOUT_VERSION)
        )
        partitions, version = (field.decode() for field in agreed)
        if version != LAYOUT_VERSION:
            remedy = "run the same version of avx-events everywhere, or use another namespace"
            raise TransportRefusedError(self.name, f"the namespace has layout {version}", remedy=remedy)
        if int(partitions) != self._options.partitions:
            raise PartitionsMismatchError(
                self.name, self._options.namespace, here=self._options.partitions, there=int(partitions)
            )

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[Any]":
        """Send an event; see ``Transport``."""
        lanes = len(self._streams)
        lane = lane_of(outgoing.key, lanes) if outgoing.key else next(self._next_lane) % lanes
        way = self._way(lane, outgoing.event_type, outgoing.topic)
        if outgoing.attributes is None:
            command = way.frame.around(outgoing.document)
        else:
            command = packed(*self._begin(lane), *fields_of(outgoing))
        if self._trim_at <= self._clock.monotonic():
            self._trim()
        return self._publishing.ask(command, unconfirmed=way.unconfirmed)

    async def room(self) -> None:
        """Wait until there is room for another event."""
        await self._publishing.room()

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        """Return the events of ``consumer``; see ``Transport``."""
        if consumer.group is None:
            listener = BroadcastSource(self._servers, self._control, self._names, lanes=self.lanes)
            await listener.create()
            return listener
        wire = WaitingWire(self._servers, self._control, timeout_s=self._options.timeout_s)
        source = GroupSource(self._control, wire, self._names, consumer, lanes=self.lanes, server=self.name)
        await source.create()
        leases = Leases(
            self._control,
            members=self._names.members(source.name),
            owners=self._names.owners(source.name),
            redrives=self._names.redrives(source.name),
            member=self._member,
            lanes=self.lanes,
            lease_s=self._options.redeliver_after_s,
            clock=self._clock,
            withdrawal=withdrawal,
            on_change=source.look,
            on_redrive=consumer.on_redrive,
        )
        try:
            await source.hold(leases, self._member)
        except BaseException:
            await source.close()
            raise
        return source

    def dead_letters(self) -> DeadLetterStore:
        """Return the dead letters of the namespace."""
        return self._letters

    def requests(self) -> RedisRequests:
        """Return the same Redis for requests and replies."""
        return RedisRequests(
            self._servers, self._control, self._names, timeout_s=self._options.timeout_s, on_close=self.close
        )

    async def close(self) -> None:
        """Send what was submitted, and leave no connection."""
        await self._publishing.close()
        await self._letters.close()
        await self._control.close()

    def _pipe(self, what: str) -> Pipe:
        name = f"avx-events redis: {what}"
        return Pipe(self._servers, timeout_s=self._options.timeout_s, clock=self._clock, what=name)

    def _begin(self, lane: int) -> tuple[Argument, ...]:
        """Return what the command of every event in ``lane`` begins with."""
        return ("XADD", self._streams[lane], *self._limit, "*")

    def _new_way(self, lane: int, event_type: str, topic: str) -> Way:
        before, after = fields_around(event_type, topic)
        unconfirmed = partial(PublishUnknownError, self.name, event_type)
        return Way(Frame.of([*self._begin(lane), *before], after), unconfirmed)

    def _trim(self) -> None:
        """Have events deleted that are past their time; where that fails, whoever publishes next does it."""
        retention_s = self._options.retention_s
        self._trim_at = math.inf if retention_s is None else self._clock.monotonic() + _TRIM_EVERY_S
        if retention_s is not None:
            milliseconds = int(retention_s * 1000)
            self._control.ask(packed("EVAL", TRIM, len(self._streams), *self._streams, milliseconds))


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> RedisTransport:
    """Return a transport that has reached its server.

    Raises:
        InvalidArgumentError: The URL is none of Redis's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for a password, or the namespace has another layout.
        PartitionsMismatchError: The namespace has another number of lanes.
    """
    transport = RedisTransport(url, options, clock=clock)
    try:
        await transport.open()
    except BaseException:
        await transport.close()
        raise
    return transport
