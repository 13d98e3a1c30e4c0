"""Reads partitions from given offsets on, each from the broker that leads it."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import Changes, TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import FIRST_PAUSE_S, Cluster, pause_after, wait_about
from avx_events.distributed.kafka.codes import AnsweredError, Code
from avx_events.distributed.kafka.requests import Fetched, Record
from avx_events.distributed.kafka.wire import Connection, WireError

log = logging.getLogger("avx_events")

_WAIT_S: Final = 2.0
_MOST_BYTES: Final = 1 << 20
_MOST_BYTES_AHEAD: Final = 2 << 20

Gap = Callable[[int, int, int], None]
"""Called with a partition, the offset that is gone from it, and the first one that is there."""


class Reading:
    """How far a partition is read.

    Attributes:
        partition: Which.
        offset: Of what is read next.
    """

    __slots__ = ("offset", "partition")

    def __init__(self, partition: int, offset: int) -> None:
        """Begin at ``offset``."""
        self.partition = partition
        self.offset = offset


class Reader:
    """Reads ahead of whoever takes from it, up to a few megabytes; a connection for each broker is its own."""

    def __init__(self, cluster: Cluster, topic: str, *, on_gap: Gap, what: str) -> None:
        """Begin with no partitions.

        Args:
            cluster: Where the topic is.
            topic: What is read.
            on_gap: Called where what was to be read is gone; reading goes on with what is there.
            what: The tasks' name.
        """
        self._cluster = cluster
        self._topic = topic
        self._on_gap = on_gap
        self._what = what
        self._readings: dict[int, Reading] = {}
        self._records: deque[tuple[Reading, Record]] = deque()
        self._bytes = 0
        self._changes = Changes()
        self._asked: dict[int, tuple[Connection, frozenset[Reading]]] = {}  # what each broker is busy with
        self._interrupted: set[int] = set()  # whose connection was closed to ask for more
        self._nodes: dict[int, object] = {}
        self._tasks = TaskScope()
        self._is_closed = False

    def hold(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions, too, from these offsets on; a partition that is read already begins anew."""
        if self._is_closed:
            return
        self.drop(offsets)
        for partition, offset in offsets.items():
            self._readings[partition] = Reading(partition, offset)
        if not self._tasks:
            self._cluster.on_change.add(self._spread)
            self._tasks.spawn(self._find_leaders(), name=f"{self._what}: find leaders")
        self._spread()

    def drop(self, partitions: Iterable[int]) -> None:
        """Read these no more, and forget what was read of them."""
        dropped = {self._readings.pop(partition) for partition in partitions if partition in self._readings}
        if dropped:
            kept = [(reading, record) for reading, record in self._records if reading not in dropped]
            self._records = deque(kept)
            self._bytes = sum(_size_of(record) for _, record in kept)
            self._changes.tell()

    def there(self, most: int) -> list[tuple[int, Record]]:
        """Return up to ``most`` records that were read, each with its partition; ``take`` removes them."""
        return [(reading.partition, record) for reading, record in islice(self._records, most)]

    async def wait(self) -> None:
        """Return when something was read, or when it is time to look anyway."""
        if not self._records:
            await self._changes.wait()

    def take(self, count: int) -> None:
        """Remove the first ``count`` records."""
        for _ in range(count):
            self._bytes -= _size_of(self._records.popleft()[1])
        if self._bytes < _MOST_BYTES_AHEAD:
            self._changes.tell()

    async def close(self) -> None:
        """Leave no task and no connection. Harmless when repeated."""
        self._is_closed = True
        self._cluster.on_change.discard(self._spread)
        await self._tasks.cancel()

    # Brokers

    def _spread(self) -> None:
        """Have a task for each broker that leads something, and have it ask for what it does not ask for yet."""
        by_node = self._by_node()
        for node, readings in by_node.items():
            if node == -1:
                continue
            if node not in self._nodes:
                self._nodes[node] = self._tasks.spawn(self._fetch_from(node), name=f"{self._what}: fetch")
            elif node in self._asked and not readings <= self._asked[node][1]:
                connection, _ = self._asked.pop(node)
                self._interrupted.add(node)
                self._tasks.spawn(connection.close(), name=f"{self._what}: interrupt")
        self._changes.tell()

    def _by_node(self) -> dict[int, set[Reading]]:
        leaders = self._cluster.leaders(self._topic)
        found: dict[int, set[Reading]] = {}
        for reading in self._readings.values():
            found.setdefault(leaders.get(reading.partition, -1), set()).add(reading)
        return found

    async def _find_leaders(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            if -1 not in self._by_node():
                pause_s = FIRST_PAUSE_S
                await self._changes.wait()
                continue
            try:
                await self._cluster.refresh(self._topic)
            except (WireError, AvxEventsError) as exc:
                log.debug("%s waits for %s: %s", self._what, self._cluster.name, exc)
            await wait_about(pause_s)
            pause_s = pause_after(pause_s)

    async def _fetch_from(self, node: int) -> None:
        connection: Connection | None = None
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                readings = self._by_node().get(node)
                if not readings or self._bytes >= _MOST_BYTES_AHEAD:
                    await self._changes.wait()
                    continue
                try:
                    if connection is None or not connection.is_connected:
                        connection = await self._connect(node)
                        continue  # others may have come to be held meanwhile
                    await self._fetch(node, connection, readings)
                    pause_s = FIRST_PAUSE_S
                except (WireError, AnsweredError, AvxEventsError) as exc:
                    if node not in self._interrupted:
                        pause_s = await self._wait_after(exc, pause_s)
                finally:
                    self._end(node)
        finally:
            self._nodes.pop(node, None)
            if connection is not None:
                await connection.close()

    async def _connect(self, node: int) -> Connection:
        place = self._cluster.place_of(node)
        return await self._cluster.connect(place, timeout_s=_WAIT_S + self._cluster.timeout_s)

    async def _wait_after(self, problem: Exception, pause_s: float) -> float:
        """Wait, see who leads what now, and return how long to wait the next time."""
        is_usual = isinstance(problem, WireError) or (isinstance(problem, AnsweredError) and problem.is_for_now)
        level = logging.DEBUG if is_usual else logging.ERROR
        log.log(level, "%s reads nothing from %s for now: %s", self._what, self._cluster.name, problem)
        await wait_about(pause_s)
        await self._refresh()
        return pause_after(pause_s)

    def _end(self, node: int) -> None:
        """Take note that nothing is asked of a broker."""
        self._asked.pop(node, None)
        self._interrupted.discard(node)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh(self._topic)
        except (WireError, AvxEventsError) as exc:
            log.debug("%s waits for %s: %s", self._what, self._cluster.name, exc)

    async def _fetch(self, node: int, connection: Connection, readings: set[Reading]) -> None:
        self._asked[node] = (connection, frozenset(readings))
        offsets = {reading.partition: reading.offset for reading in readings}
        answer = await connection.ask(requests.fetch(self._topic, offsets, wait_s=_WAIT_S, most_bytes=_MOST_BYTES))
        problem: int = Code.NONE
        asked = {reading.partition: reading for reading in readings}
        for partition, found in requests.fetched(answer).items():
            reading = asked[partition]
            if self._readings.get(partition) is not reading:
                continue
            if found.code == Code.OFFSET_OUT_OF_RANGE:
                await self._leap(reading)
            elif found.code:
                problem = found.code
            else:
                self._add(reading, found)
        if problem:
            raise AnsweredError(problem)

    def _add(self, reading: Reading, found: Fetched) -> None:
        count = 0
        for following, records in requests.records_in(found.data):
            for record in records:
                if record.offset >= reading.offset:
                    self._records.append((reading, record))
                    self._bytes += _size_of(record)
                    count += 1
            reading.offset = max(reading.offset, following)
        if count:
            self._changes.tell()

    async def _leap(self, reading: Reading) -> None:
        """Go on with the first record that is there."""
        partition, lost = reading.partition, reading.offset
        first = (await self._cluster.offsets(self._topic, [partition], requests.EARLIEST))[partition]
        end = (await self._cluster.offsets(self._topic, [partition], requests.LATEST))[partition]
        if self._readings.get(partition) is reading and not first <= lost <= end:
            reading.offset = first
            self._on_gap(partition, lost, first)


def _size_of(record: Record) -> int:
    return len(record.value or b"") + 100
