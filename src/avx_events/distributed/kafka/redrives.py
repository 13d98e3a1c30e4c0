"""Requests to redrive dead letters, in a topic that is there once somebody has asked for the first time.

The key of a record is the consumer group of the handler, the value a redrive request. A member reads what is written
from its beginning on, over the connection that it has for whatever is answered at once, and not from one of its own.
"""

import asyncio
import logging
from typing import Final

from avx_events.bus.remote.ports import OnRedrive
from avx_events.bus.remote.redrives import decode_redrive
from avx_events.core.errors import AvxEventsError, PublishUnknownError, TransportRefusedError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.codes import AnsweredError, Code, check
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.requests import Record
from avx_events.distributed.kafka.wire import WireError

log = logging.getLogger("avx_events")

SETTINGS: Final[dict[str, object]] = {
    "cleanup.policy": "delete",
    "retention.ms": 60_000,
    "segment.ms": 60_000,
    "message.timestamp.type": "LogAppendTime",
}

_PARTITION: Final = 0
_EVENT_TYPE: Final = "avx.redrive"
_MOST_BYTES: Final = 256 << 10
_READS_EVERY_S: Final = 1.0
_FIRST_LOOK_S: Final = 0.5
_LOOKS_EVERY_S: Final = 10.0


class Redrives:
    """The redrive requests of a namespace: written by whoever asks, and read for the handlers of one bus."""

    def __init__(self, cluster: Cluster, publisher: Publisher, topic: str) -> None:
        """Read nothing yet.

        Args:
            cluster: Where the topic is.
            publisher: Sends requests.
            topic: The topic.
        """
        self._cluster = cluster
        self._publisher = publisher
        self._topic = topic
        cluster.plan_topic(topic, partitions=1, settings=SETTINGS)
        self._handlers: dict[bytes, OnRedrive] = {}
        self._offset: int | None = None  # of what is read next; None where the topic was not there
        self._beginning = asyncio.Lock()
        self._tasks = TaskScope()

    async def ask(self, consumer: str, document: bytes) -> None:
        """Have the members of a consumer group asked; the first one who does so makes the topic.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
            PublishUnknownError: It did not confirm.
        """
        await self._cluster.have_topic(self._topic)
        for is_last in (False, True):  # to ask twice does no harm
            try:
                await self._publisher.submit(
                    self._topic, _PARTITION, event_type=_EVENT_TYPE, key=consumer.encode(), value=document, headers=()
                )
            except PublishUnknownError:
                if is_last:
                    raise
            else:
                return

    async def listen(self, consumer: str, on_redrive: OnRedrive) -> None:
        """Tell ``on_redrive`` what is asked of a consumer group from now on.

        Raises:
            TransportUnavailableError: The cluster is away.
        """
        self._handlers[consumer.encode()] = on_redrive
        async with self._beginning:
            if self._tasks:
                return
            try:
                if await self._cluster.has_topic(self._topic):
                    ends = await self._cluster.offsets(self._topic, [_PARTITION], requests.LATEST)
                    self._offset = ends[_PARTITION]
            except TransportRefusedError as exc:  # events are handled all the same
                log.warning("%s does not hear who asks to redrive dead letters: %s", self._cluster.name, exc)
                return
            self._tasks.spawn(self._read(), name="avx-events kafka: read redrive requests")

    def ignore(self, consumer: str) -> None:
        """Tell nobody any more what is asked of a consumer group."""
        self._handlers.pop(consumer.encode(), None)

    async def close(self) -> None:
        """Read nothing more."""
        await self._tasks.cancel()

    async def _read(self) -> None:
        look_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(look_s if self._offset is None else _READS_EVERY_S)
            try:
                if self._offset is None:
                    look_s = min(look_s * 2, _LOOKS_EVERY_S)
                    await self._look()
                else:
                    await self._read_on(self._offset)
            except (WireError, AnsweredError, AvxEventsError) as exc:
                log.debug("no redrive requests come from %s for now: %s", self._cluster.name, exc)
                await self._refresh()

    async def _look(self) -> None:
        """See whether somebody has made the topic; all that is in it came after this bus."""
        await self._cluster.refresh(self._topic)
        if self._cluster.leaders(self._topic):
            self._offset = 0
            await self._read_on(0)

    async def _read_on(self, offset: int) -> None:
        leader = self._cluster.leaders(self._topic).get(_PARTITION, -1)
        request = requests.fetch(self._topic, {_PARTITION: offset}, wait_s=0, most_bytes=_MOST_BYTES)
        found = requests.fetched(await self._cluster.ask(leader, request))[_PARTITION]
        if found.code == Code.OFFSET_OUT_OF_RANGE:  # it was made anew, or cut
            self._offset = max(found.start, 0) if found.start > offset else 0
            return
        check(found.code)
        for following, records in requests.records_in(found.data):
            for record in records:
                if record.offset >= offset:
                    self._take(record)
            self._offset = following

    def _take(self, record: Record) -> None:
        on_redrive = self._handlers.get(record.key or b"")
        request = None if on_redrive is None else decode_redrive(record.value or b"")
        if on_redrive is not None and request is not None:
            on_redrive(request)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh(self._topic)
        except (WireError, AvxEventsError) as exc:
            log.debug("%s is away: %s", self._cluster.name, exc)
        else:
            if not self._cluster.leaders(self._topic):  # it was deleted
                self._offset = None
