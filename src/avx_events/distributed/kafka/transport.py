"""Kafka as the transport of a bus."""

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.ports import Consumer, Outgoing, RequestTransport, Source, TransportOptions, Withdrawal
from avx_events.core.arguments import whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.distributed.kafka.broadcast_source import BroadcastSource
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.dead_letters import KafkaDeadLetters
from avx_events.distributed.kafka.group_source import GroupSource
from avx_events.distributed.kafka.messages import headers_of
from avx_events.distributed.kafka.names import Names, lane_of
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.redrives import Redrives
from avx_events.distributed.kafka.request_reply import KafkaRequests
from avx_events.distributed.kafka.wire import Servers

if TYPE_CHECKING:
    import asyncio

_MOST_EVENT_BYTES: Final = (1 << 20) + (64 << 10)
"""What the log takes: an event of 1 MiB, and what is around it."""

_LONGEST_HEARTBEAT_S: Final = 1.0
_HEARTBEATS_IN_A_SESSION: Final = 10


class KafkaTransport:
    """One bus on one cluster: connections for what is published, for what is asked, and for each consumer."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL or an option is none of Kafka's.
        """
        client = dict(options.client)
        heartbeat_ms = client.pop("heartbeat_interval_ms", None)
        shortest = min(options.redeliver_after_s / _HEARTBEATS_IN_A_SESSION, _LONGEST_HEARTBEAT_S)
        self._heartbeat_s = (
            shortest if heartbeat_ms is None else whole("heartbeat_interval_ms", heartbeat_ms, least=1) / 1000
        )
        self._options = options
        self._clock = clock
        self._names = Names(options.namespace)
        self._cluster = Cluster(Servers(url, client), timeout_s=options.timeout_s, clock=clock)
        retention_s = options.retention_s
        settings: dict[str, object] = {
            "cleanup.policy": "delete",
            "retention.ms": -1 if retention_s is None else int(retention_s * 1000),
            "max.message.bytes": _MOST_EVENT_BYTES,
            "message.timestamp.type": "LogAppendTime",  # whose clock is wrong neither deletes nor is refused
        }
        self._has_log = options.partitions is not None
        self._cluster.plan_topic(self._names.log, partitions=options.partitions or 1, settings=settings)
        self._publisher = Publisher(self._cluster, clock=clock)
        self._redrives = Redrives(self._cluster, self._publisher, self._names.redrives)
        self._letters = KafkaDeadLetters(
            self._cluster,
            self._publisher,
            self._names,
            self._redrives,
            clock=clock,
            lease_s=options.redeliver_after_s,
        )
        self._next_lane = count()

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._cluster.name

    @property
    def lanes(self) -> int:
        """How many partitions the log has."""
        return len(self._cluster.leaders(self._names.log)) or self._options.partitions or 1

    @property
    def is_full(self) -> bool:
        """Whether as much is on its way as may be."""
        return self._publisher.is_full

    async def open(self) -> None:
        """Reach the cluster, and make the log where it is not there.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for other credentials, or the log is not there and may not be made.
        """
        if self._has_log:
            await self._cluster.have_topic(self._names.log)
        else:
            await self._cluster.until_done(self._cluster.refresh)

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[Any]":
        """Send an event; see ``Transport``."""
        key = outgoing.key.encode() if outgoing.key else None
        lanes = self.lanes
        partition = next(self._next_lane) % lanes if key is None else lane_of(key, lanes)
        return self._publisher.submit(
            self._names.log,
            partition,
            event_type=outgoing.event_type,
            key=key,
            value=outgoing.document,
            headers=headers_of(outgoing),
        )

    async def room(self) -> None:
        """Wait until there is room for another event."""
        await self._publisher.room()

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        """Return the events of ``consumer``; see ``Transport``."""
        if consumer.group is None:
            listener = BroadcastSource(self._cluster, self._names.log, name=consumer.name)
            await listener.create()
            return listener
        source = GroupSource(
            self._cluster,
            consumer,
            topic=self._names.log,
            name=self._names.consumer(consumer.group, consumer.name),
            session_s=self._options.redeliver_after_s,
            heartbeat_s=self._heartbeat_s,
            clock=self._clock,
            withdrawal=withdrawal,
            redrives=self._redrives,
        )
        await source.create()
        source.start()
        return source

    def requests(self) -> RequestTransport:
        """Return the same connections for requests and replies."""
        # What time it is at the broker is not for a test's own clock to say.
        return KafkaRequests(
            self._cluster, self._publisher, self._names.requests, clock=SYSTEM_CLOCK, on_close=self.close
        )

    def dead_letters(self) -> DeadLetterStore:
        """Return the dead letters of the namespace."""
        return self._letters

    async def close(self) -> None:
        """Send what was submitted, and leave no connection."""
        await self._redrives.close()
        await self._letters.close()
        await self._publisher.close()
        await self._cluster.close()


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> KafkaTransport:
    """Return a transport that has reached its cluster.

    Raises:
        InvalidArgumentError: The URL or an option is none of Kafka's.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials, or the log is not there and may not be made.
    """
    transport = KafkaTransport(url, options, clock=clock)
    try:
        await transport.open()
    except BaseException:
        await transport.close()
        raise
    return transport
