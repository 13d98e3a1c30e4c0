"""Sends events to their partitions: those that come together go out together, and none is kept twice.

| state of an event | where it is |
|---|---|
| waits | in the ``waiting`` of its ``Line`` |
| on its way, or to be sent again as it was | in the ``batch`` of its line |
| accepted, refused, late | nowhere: its future says so |

A line has one batch on its way at a time, with a number that the broker knows it by. It is sent again, as it was, until
the broker has answered, or the last of its events is late.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from avx_events.bus.remote.gate import Gate
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    EventTooLargeError,
    PublishUnknownError,
    TransportRefusedError,
    TransportUnavailableError,
)
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import FIRST_PAUSE_S, Cluster, pause_after, wait_about
from avx_events.distributed.kafka.codes import (
    FORGOTTEN_PRODUCER,
    NOT_NOW,
    PERHAPS_DONE,
    TOO_LARGE,
    AnsweredError,
    Code,
    described,
)
from avx_events.distributed.kafka.requests import Headers
from avx_events.distributed.kafka.wire import Connection, WireError

log = logging.getLogger("avx_events")

_MOST_IN_A_BATCH: Final = 1000
_MOST_BYTES_IN_A_BATCH: Final = 512 << 10
_MOST: Final = 10_000
_MOST_BYTES: Final = 16 << 20
_OVERHEAD_BYTES: Final = 100
_UNKNOWN_LIMIT: Final = 1 << 20
_NOBODY: Final = -1
"""Who takes what has no leader now."""

Producer: TypeAlias = tuple[int, int]


class Submitted(msgspec.Struct, gc=False):
    """An event on its way."""

    event_type: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    accepted: "asyncio.Future[None]"
    deadline: float
    size: int


class Batch:
    """Events that go out as one.

    Attributes:
        events: Some may have been settled meanwhile.
        data: As the broker gets it.
        sequence: The number of its first event in its partition.
        doubts: How often it was sent without an answer that says what became of it.
    """

    __slots__ = ("data", "doubts", "events", "sequence")

    def __init__(self, events: list[Submitted], data: bytes, sequence: int) -> None:
        """Begin as not sent."""
        self.events = events
        self.data = data
        self.sequence = sequence
        self.doubts = 0


class Line:
    """What waits for one partition.

    Attributes:
        at: The topic, and the partition.
        waiting: What was not sent.
        batch: What was sent and not answered, or is to be sent again.
        is_away: Whether somebody deals with it now.
        producer: Under which id its events are numbered.
        sequence: The number of the next one.
        most: How many may go out as one.
    """

    __slots__ = ("at", "batch", "is_away", "most", "producer", "sequence", "waiting")

    def __init__(self, topic: str, partition: int) -> None:
        """Begin empty."""
        self.at = (topic, partition)
        self.waiting: deque[Submitted] = deque()
        self.batch: Batch | None = None
        self.is_away = False
        self.producer: Producer | None = None
        self.sequence = 0
        self.most = _MOST_IN_A_BATCH


class Publisher:
    """The sending end of one bus; its connections are its own."""

    def __init__(self, cluster: Cluster, *, clock: Clock) -> None:
        """Begin with nothing to send."""
        self._loop = asyncio.get_running_loop()  # to ask for it costs a system call each time
        self._cluster = cluster
        self._clock = clock
        self._timeout_s = cluster.timeout_s
        self._lines: dict[tuple[str, int], Line] = {}
        self._due: dict[Line, None] = {}
        self._nodes_away: set[int] = set()
        self._connections: dict[int, Connection] = {}
        self._producer: Producer | None = None
        self._identifying = asyncio.Lock()
        self._count = 0
        self._bytes = 0
        self._sender: asyncio.Future[None] | None = None
        self._gate = Gate(self._has_room)
        self._idle: set[asyncio.Future[None]] = set()
        self._problem = "no answer yet"
        self._pause_s = FIRST_PAUSE_S
        self._tasks = TaskScope(self._crashed)
        self._is_closed = False

    # What others call

    @property
    def is_full(self) -> bool:
        """Whether as much is on its way as may be."""
        return self._gate.is_shut

    def submit(
        self, topic: str, partition: int, *, event_type: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> "asyncio.Future[None]":
        """Send a record; the future tells when all replicas have it.

        It fails with ``TransportUnavailableError`` (not sent), ``PublishUnknownError`` (sent, not confirmed),
        ``EventTooLargeError`` (the broker's limit) or ``TransportRefusedError``. Cancelled before it was sent, it is
        not sent.
        """
        accepted: asyncio.Future[None] = self._loop.create_future()
        if self._is_closed:
            accepted.set_exception(ClosedError(f"the connection to {self._cluster.name}", "publish"))
            return accepted
        if not self._tasks:
            self._tasks.spawn(self._run(), name="avx-events kafka: publish")
        line = self._lines.get((topic, partition))
        if line is None:
            line = self._lines[topic, partition] = Line(topic, partition)
        size = len(value or b"") + len(key or b"") + _OVERHEAD_BYTES
        deadline = self._clock.monotonic() + self._timeout_s
        line.waiting.append(Submitted(event_type, key, value, headers, accepted, deadline, size))
        self._count += 1
        self._bytes += size
        if not line.is_away:
            self._due[line] = None
        if self._sender is not None:
            wake(self._sender)
        return accepted

    async def room(self) -> None:
        """Wait until less is on its way than may be, first come first served."""
        await self._gate.wait()

    async def close(self) -> None:
        """Send what was submitted, or fail it, and leave no connection. Harmless when repeated."""
        self._is_closed = True
        try:
            if self._count and self._tasks:
                idle: asyncio.Future[None] = self._loop.create_future()
                self._idle.add(idle)
                await idle
        finally:
            await self._tasks.cancel()
            connections, self._connections = self._connections, {}
            for connection in connections.values():
                await connection.close()

    # Who sends what

    async def _run(self) -> None:
        try:
            while True:
                self._refuse_late()
                for node, lines in self._by_node().items():
                    for line in lines:
                        line.is_away = True
                        del self._due[line]
                    self._nodes_away.add(node)
                    self._tasks.spawn(self._serve(node, lines), name="avx-events kafka: send")
                await self._change()
        finally:
            self._is_closed = True
            self._fail_all(lambda _: TransportUnavailableError(self._cluster.name, "it was closed"))

    def _by_node(self) -> dict[int, list[Line]]:
        """Return what can be sent now, by the broker that takes it."""
        found: dict[int, list[Line]] = {}
        for line in self._due:
            topic, partition = line.at
            node = self._cluster.leaders(topic).get(partition, _NOBODY)
            if node not in self._nodes_away:
                found.setdefault(node, []).append(line)
        return found

    async def _change(self) -> None:
        self._sender = self._loop.create_future()
        try:
            async with asyncio.timeout(self._next_deadline_s()):
                await self._sender
        except TimeoutError:
            pass
        finally:
            self._sender = None

    async def _serve(self, node: int, lines: list[Line]) -> None:
        """Send what the lines have to one broker, once, and put them in line again where something is left."""
        try:
            await self._exchange(node, lines)
        except (WireError, AnsweredError, TimeoutError, TransportUnavailableError) as exc:
            await self._look_again(str(exc) or f"no answer within {self._timeout_s:g} s")
        except TransportRefusedError as exc:
            for line in lines:
                self._fail_line(line, exc)
            await wait_about(FIRST_PAUSE_S)
        finally:
            self._nodes_away.discard(node)
            for line in lines:
                line.is_away = False
                if line.waiting or line.batch is not None:
                    self._due[line] = None
            if self._sender is not None:
                wake(self._sender)

    async def _look_again(self, problem: str) -> None:
        """See who leads what now."""
        log.debug("publishing to %s: %s", self._cluster.name, problem)
        self._problem = problem
        await wait_about(self._pause_s)
        self._pause_s = pause_after(self._pause_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._cluster.refresh()
        except (WireError, TimeoutError, AvxEventsError) as exc:
            self._problem = str(exc) or problem

    async def _exchange(self, node: int, lines: list[Line]) -> None:
        if node == _NOBODY:
            for topic in {line.at[0] for line in lines}:
                await self._cluster.have_topic(topic)
            raise AnsweredError(Code.LEADER_NOT_AVAILABLE)
        connection = await self._connection_to(node)
        producer = await self._producer_id(connection)
        sent = {line.at: line for line in lines if self._has_batch(line, producer)}
        if not sent:
            return
        batches = [(line, line.batch) for line in sent.values() if line.batch is not None]
        for _, batch in batches:
            batch.doubts += 1
        asked = requests.produce({line.at: batch.data for line, batch in batches}, timeout_s=self._timeout_s)
        codes = requests.produced_codes(await connection.ask(asked))
        self._pause_s = FIRST_PAUSE_S
        again: list[int] = []
        for line, batch in batches:
            code = codes.get(line.at, Code.NETWORK_EXCEPTION)
            if not await self._settle(line, batch, code):
                again.append(code)
        if again:
            raise AnsweredError(again[0])

    async def _connection_to(self, node: int) -> Connection:
        connection = self._connections.get(node)
        if connection is None or not connection.is_connected:
            place = self._cluster.place_of(node)
            # The broker itself waits for its replicas as long as we say, and only then answers.
            connection = await self._cluster.connect(place, timeout_s=self._timeout_s + 1)
            self._connections[node] = connection
        return connection

    async def _producer_id(self, connection: Connection) -> Producer:
        async with self._identifying:
            if self._producer is None:
                self._producer = requests.producer_of(await connection.ask(requests.new_producer()))
            return self._producer

    def _has_batch(self, line: Line, producer: Producer) -> bool:
        """Have a batch to send, the one from before first."""
        if line.batch is not None:
            return True
        events = self._taken(line)
        if not events:
            return False
        if line.producer != producer:
            line.producer, line.sequence = producer, 0
        records = ((event.key, event.value, event.headers) for event in events)
        data = requests.batch(records, producer=producer, sequence=line.sequence)
        line.batch = Batch(events, data, line.sequence)
        line.sequence += len(events)
        return True

    def _taken(self, line: Line) -> list[Submitted]:
        taken: list[Submitted] = []
        size = 0
        while line.waiting and len(taken) < line.most:
            event = line.waiting[0]
            if taken and size + event.size > _MOST_BYTES_IN_A_BATCH:
                break
            line.waiting.popleft()
            if event.accepted.done():
                self._forget(event)
            else:
                taken.append(event)
                size += event.size
        return taken

    # What becomes of it

    async def _settle(self, line: Line, batch: Batch, code: int) -> bool:
        """Do what an answer asks for; False where the batch is to be sent again."""
        if code not in PERHAPS_DONE:
            batch.doubts -= 1
        if code in {Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER}:
            self._end(line, batch, None)
        elif code in TOO_LARGE and len(batch.events) > 1:
            self._take_apart(line, batch)
        elif code in TOO_LARGE:
            limit = await self._limit_of(line.at[0])
            self._end(line, batch, lambda event: _too_large(event, limit))
            line.sequence = batch.sequence  # it was not kept, and leaves no gap
        elif code in FORGOTTEN_PRODUCER:
            # The broker has lost what it knew of our numbers: begin anew, with what it surely does not have.
            self._producer = line.producer = None
            if batch.doubts:
                self._end(line, batch, lambda event: self._unknown(event, described(code)))
            else:
                line.batch = None
                line.waiting.extendleft(reversed(batch.events))
        elif code in NOT_NOW:
            if code == Code.UNKNOWN_TOPIC_OR_PARTITION:
                await self._cluster.have_topic(line.at[0])
            return False
        else:
            self._producer = None
            self._end(line, batch, lambda _: self._cluster.refused(code))
        return True

    def _end(self, line: Line, batch: Batch, error: Callable[[Submitted], Exception] | None) -> None:
        line.batch = None
        for event in batch.events:
            if not event.accepted.done():
                if error is None:
                    event.accepted.set_result(None)
                else:
                    event.accepted.set_exception(error(event))
            self._forget(event)

    def _take_apart(self, line: Line, batch: Batch) -> None:
        """Send one by one what is too large together."""
        line.batch, line.sequence, line.most = None, batch.sequence, 1
        line.waiting.extendleft(reversed(batch.events))

    async def _limit_of(self, topic: str) -> int:
        try:
            answer = await self._cluster.ask_anybody(requests.topic_settings(topic))
        except (WireError, TransportRefusedError):
            return _UNKNOWN_LIMIT
        return int(requests.settings_of(answer).get("max.message.bytes", _UNKNOWN_LIMIT))

    def _unknown(self, event: Submitted, problem: str) -> PublishUnknownError:
        return PublishUnknownError(self._cluster.name, event.event_type, problem)

    def _late(self, event: Submitted, *, is_doubtful: bool) -> AvxEventsError:
        if is_doubtful:
            return self._unknown(event, self._problem)
        return TransportUnavailableError(self._cluster.name, self._problem)

    def _refuse_late(self) -> None:
        """Fail what has waited for the cluster as long as it may."""
        now = self._clock.monotonic()
        for line in self._lines.values():
            while line.waiting and (line.waiting[0].accepted.done() or line.waiting[0].deadline <= now):
                event = line.waiting.popleft()
                if not event.accepted.done():
                    event.accepted.set_exception(self._late(event, is_doubtful=False))
                self._forget(event)
            if line.batch is not None and not line.is_away:
                self._refuse_late_batch(line, line.batch, now)
            if not (line.waiting or line.batch):
                self._due.pop(line, None)

    def _refuse_late_batch(self, line: Line, batch: Batch, now: float) -> None:
        for event in batch.events:
            if event.deadline <= now and not event.accepted.done():
                event.accepted.set_exception(self._late(event, is_doubtful=bool(batch.doubts)))
        if all(event.accepted.done() for event in batch.events):
            self._producer = None  # nobody knows whether the broker counts on from this batch, or from before it
            self._end(line, batch, None)

    def _fail_line(self, line: Line, error: Exception) -> None:
        batch = line.batch
        if batch is not None:
            self._producer = None
            self._end(line, batch, lambda event: self._unknown(event, str(error)) if batch.doubts else error)
        for event in _drained(line.waiting):
            if not event.accepted.done():
                event.accepted.set_exception(error)
            self._forget(event)

    def _fail_all(self, error: Callable[[Submitted], Exception]) -> None:
        for line in self._lines.values():
            if line.batch is not None:
                self._end(line, line.batch, partial(self._unknown, problem="it was closed"))
            for event in _drained(line.waiting):
                if not event.accepted.done():
                    event.accepted.set_exception(error(event))
                self._forget(event)

    def _crashed(self, error: BaseException) -> None:
        """Leave nobody waiting for what a bug of ours has stopped."""
        self._is_closed = True
        self._fail_all(lambda event: self._unknown(event, f"a bug in avx-events: {error!r}"))

    def _forget(self, event: Submitted) -> None:
        self._count -= 1
        self._bytes -= event.size
        self._gate.let_in()
        if not self._count:
            for idle in self._idle:
                wake(idle)
            self._idle.clear()

    def _next_deadline_s(self) -> float | None:
        if not self._count:
            return None
        lines = self._lines.values()
        waiting = [line.waiting[0].deadline for line in lines if line.waiting]
        sent = [
            event.deadline for line in lines if line.batch for event in line.batch.events if not event.accepted.done()
        ]
        found = min([*waiting, *sent], default=None)
        return None if found is None else max(found - self._clock.monotonic(), 0.01)

    def _has_room(self) -> bool:
        return self._bytes <= _MOST_BYTES and self._count <= _MOST


def _drained(waiting: deque[Submitted]) -> Iterable[Submitted]:
    while waiting:
        yield waiting.popleft()


def _too_large(event: Submitted, limit: int) -> EventTooLargeError:
    return EventTooLargeError(event.event_type, size_bytes=event.size, max_bytes=limit)
