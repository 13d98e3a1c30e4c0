"""The events of a listener without a group: everything from now on, of all partitions."""

import logging
from collections.abc import Sequence

from avx_events.bus.remote.ports import Incoming
from avx_events.core.tasks import TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.messages import incoming_of
from avx_events.distributed.kafka.reader import Reader

log = logging.getLogger("avx_events")


class BroadcastSource:
    """What a bus reads for one broadcast listener; after a reconnect it goes on where it was."""

    def __init__(self, cluster: Cluster, topic: str, *, name: str) -> None:
        """Begin nowhere; ``create`` finds the end of the log.

        Args:
            cluster: Where the log is.
            topic: The log.
            name: Of the listener.
        """
        self._cluster = cluster
        self._topic = topic
        self._name = name
        self._reader = Reader(cluster, topic, on_gap=self._leap, what=f"avx-events kafka: {name}")
        self._partitions: set[int] = set()
        self._tasks = TaskScope()

    async def create(self) -> None:
        """Begin after the last event there is.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        partitions = set(self._cluster.leaders(self._topic))
        ends = await self._cluster.offsets(self._topic, partitions, requests.LATEST)
        self._partitions = partitions
        self._reader.hold(ends)
        self._tasks.spawn(self._look_for_partitions(), name=f"avx-events kafka: {self._name}: look for partitions")

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for records and return up to ``most``; see ``Source``."""
        await self._reader.wait()
        records = self._reader.there(most)
        self._reader.take(len(records))
        return [incoming_of(None, None, record) for _, record in records]

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Do nothing: a listener acknowledges nothing."""

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Do nothing: nobody gets the event after this listener."""

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Do nothing: nothing is known of what was received."""

    async def close(self) -> None:
        """Leave no task and no connection."""
        await self._tasks.cancel()
        await self._reader.close()

    async def _look_for_partitions(self) -> None:
        while True:
            new = await self._cluster.new_partitions(self._topic, self._partitions)
            self._partitions |= new
            self._reader.hold(dict.fromkeys(new, 0))  # all that is in them came after this listener

    def _leap(self, partition: int, lost: int, first: int) -> None:
        log.error("%s lost events of partition %d: it goes on at %d, not %d", self._name, partition, first, lost)
