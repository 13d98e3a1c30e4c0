"""Brings the events of one consumer from its source into its subscription, and acknowledges those that are done.

| state of an event | where it is |
|---|---|
| received | in the subscription of a ``Dispatcher``, as a ``ReceivedWork`` |
| running | with a worker, or in a delivery block |
| done | in ``_done``, until the broker has been told |
| given up | nowhere: whoever holds its lane next gets it again |

A broadcast listener has nothing to acknowledge: its envelopes are queued as if they were published in memory.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from itertools import chain, islice
from typing import Final

import msgspec

from avx_events.bus.admission import Admission
from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.life import Life
from avx_events.bus.remote.ports import Consumer, Incoming, Lane, Source, Transport
from avx_events.bus.subscription import AnyEnvelope
from avx_events.bus.work import Work
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, HandlerKilledError, RetryableError
from avx_events.core.event import UnknownEvent, current_type
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.core.tasks import Changes, TaskScope

log = logging.getLogger("avx_events")

Decode = Callable[[Incoming], AnyEnvelope]

_MOST_AT_ONCE: Final = 256
_PAUSE_S: Final = 0.5
_FEW_ATTEMPTS: Final = 2


class Wants(msgspec.Struct, frozen=True):
    """Which events a consumer wants.

    Attributes:
        tells: Tells whether it wants an event of this type, published to this topic.
        classes: The classes that it wants, each with those derived from it; None where topics say what.
    """

    tells: Callable[[str, str], bool]
    classes: tuple[type, ...] | None = None


class ReceivedWork(Work):
    """An event of a group: the broker keeps it until it is acknowledged."""

    __slots__ = ("incoming", "intake", "must_count", "own_key")

    is_kept_elsewhere = True

    def __init__(self, envelope: AnyEnvelope, incoming: Incoming, intake: "Intake") -> None:
        """Begin where the member before, if there was one, has ended."""
        super().__init__(envelope)
        self.attempts = incoming.attempts
        self.incoming = incoming
        self.intake = intake
        self.own_key = incoming.key
        # It may have killed the process that had it before: from now on that is counted exactly.
        self.must_count = incoming.is_redelivered or incoming.attempts > 0

    def may_begin(self) -> bool:
        """Tell whether this member still holds the event's lane."""
        return self.intake.holds(self.incoming)

    async def count(self, *, may_wait: bool) -> bool:
        """Have the attempt that begins next counted by the broker; False where the lane is lost meanwhile."""
        return await self.intake.count(self, may_wait=may_wait)

    def paused(self) -> None:
        """Have the attempts so far counted by the broker, in case this member ends before the next one."""
        self.intake.count_soon(self)

    def done(self) -> None:
        """Have the event acknowledged."""
        self.intake.done(self)

    def dropped(self) -> None:
        """Leave the event to whoever holds its lane next."""
        self.intake.dropped(self)


class Intake:
    """The receiving end of one consumer; lives with its bus.

    Attributes:
        dispatcher: Where the events go.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        consumer: Consumer,
        transport: Transport,
        *,
        wants: Wants,
        decode: Decode,
        most: int,
        life: Life,
    ) -> None:
        """Begin with nothing received.

        Args:
            dispatcher: Where the events go.
            consumer: Whose events.
            transport: Where from.
            wants: Which of them.
            decode: Turns what came into an envelope.
            most: How many may be received and not acknowledged, at most.
            life: Of the bus.
        """
        self.dispatcher = dispatcher
        self._consumer = consumer
        self._transport = transport
        self._wants = wants.tells
        self._decode = decode
        self._most = most
        self._life = life
        self._clock = life.clock
        self._door = Admission(lambda: life.refusal("receive"))
        self._source: Source | None = None
        self._opening = asyncio.Lock()
        self._works: set[ReceivedWork] = set()  # received, and neither done nor given up
        self._alone: ReceivedWork | None = None  # of those that may end a process, the one that runs
        self._done: list[Incoming] = []
        self._telling: list[Incoming] = []  # the broker is being told of these
        self._changes = Changes()
        self._tasks = TaskScope(life.fail)
        self._is_stopping = False
        dispatcher.gives_works = consumer.group is not None

    # Life

    @property
    def needs_start(self) -> bool:
        """False: what needs a start is the handler."""
        return False

    @property
    def undone(self) -> int:
        """0: the handler counts what waits."""
        return 0

    @property
    def is_open(self) -> bool:
        """Whether the consumer is known to the broker."""
        return self._source is not None

    async def open(self) -> None:
        """Have the consumer in the broker. Harmless when repeated.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        async with self._opening:
            if self._source is None:
                self._source = await self._transport.source(self._consumer, self)

    def start(self, context: Context) -> None:
        """Receive, on the running loop."""
        if not (self._tasks or self._is_stopping):
            what = f"avx-events {self.dispatcher.name}"
            self._tasks.spawn(self._receive(), name=f"{what}: receive", context=context.copy())
            self._tasks.spawn(self._tell(), name=f"{what}: acknowledge", context=context.copy())

    def is_settled(self) -> bool:
        """Tell whether the broker knows of all that is done."""
        return not (self._done or self._telling)

    def is_drained(self) -> bool:
        """True: what the broker does not know yet it is told when the bus stops."""
        return True

    def begin_drain(self) -> None:
        """Receive nothing more, and leave to others what has not begun."""
        self._is_stopping = True
        self._door.close()
        self._changes.tell()
        if self._consumer.group is not None:
            self.dispatcher.subscription.close()
            self.dispatcher.withdraw(lambda work: work.is_kept_elsewhere)

    def begin_stop(self) -> None:
        """Do the same, where it was not done."""
        self.begin_drain()

    async def finish_stop(self) -> None:
        """Tell the broker what is done, give back what is held, and leave nothing running. Harmless when repeated."""
        self.begin_drain()
        await self._tasks.cancel()
        source, self._source = self._source, None
        if source is None:
            return
        try:
            if self._done:
                await self._acknowledge(source, self._done)
                self._done.clear()
        except AvxEventsError as exc:
            log.warning("%s: %d events are done, and will come again: %s", self.dispatcher.name, len(self._done), exc)
        finally:
            await source.close()

    # Receiving

    async def _receive(self) -> None:
        while not self._is_stopping:
            try:
                await self.open()
                await self._fetch()
            except ClosedError:
                return
            except AvxEventsError as exc:  # whatever it is, it may be mended while we run
                log.warning("%s receives nothing for now: %s", self.dispatcher.name, exc)
                await asyncio.sleep(_PAUSE_S)

    async def _fetch(self) -> None:
        source = self._source
        while source is not None and not self._is_stopping:
            batch = await source.fetch(min(await self._room(), _MOST_AT_ONCE))
            if self._is_stopping:  # in the broker it stays unacknowledged
                return
            if self._consumer.group is None:
                for incoming in batch:
                    await self._broadcast(incoming)
            else:
                self._queue(batch)

    async def _room(self) -> int:
        """Wait until it is worth asking for more, and return for how many there is room."""
        dispatcher = self.dispatcher
        while True:
            room = self._most - len(self._works) - len(self._done) - len(self._telling)
            is_idle = not (dispatcher.subscription.queue or dispatcher.ready)
            if self._consumer.group is None or (room > 0 and (is_idle or room * 2 >= self._most)):
                return max(room, 1)
            await self._changes.wait()

    def _queue(self, batch: Sequence[Incoming]) -> None:
        subscription = self.dispatcher.subscription
        count = 0
        for incoming in batch:
            work = self._work_of(incoming)
            if work is None:
                self._done.append(incoming)
            else:
                count += 1
                self._works.add(work)
                subscription.queue.append(work)
        if self.dispatcher.observer is not None and count:
            received = [work.envelope for work in islice(reversed(subscription.queue), count) if isinstance(work, Work)]
            self.dispatcher.observer.receiving(self.dispatcher.name, received[::-1])
        subscription.delivered += count
        for _ in range(min(count, len(subscription.receivers))):
            subscription.wake()
        if self._done:
            self._changes.tell()

    def _work_of(self, incoming: Incoming) -> ReceivedWork | None:
        """Return what is to be done with an event; None where it is not for this consumer."""
        try:
            envelope = self._read(incoming)
        except AvxEventsError as exc:
            work = ReceivedWork(_unreadable(incoming, self._clock), incoming, self)
            self.dispatcher.mark_undecodable(work, exc, raw=incoming.document)
            return work
        if envelope is None:
            return None
        work = ReceivedWork(envelope, incoming, self)
        if incoming.attempts >= self.dispatcher.attempts:
            self.dispatcher.mark_used_up(work, HandlerKilledError(self.dispatcher.name, work.attempts))
        return work

    async def _broadcast(self, incoming: Incoming) -> None:
        try:
            envelope = self._read(incoming)
        except AvxEventsError as exc:
            work = Work(_unreadable(incoming, self._clock))
            self.dispatcher.mark_undecodable(work, exc, raw=incoming.document)
            await self.dispatcher.bury(work)
            return
        if envelope is None:
            return
        if self.dispatcher.observer is not None:
            self.dispatcher.observer.receiving(self.dispatcher.name, [envelope])
        to = [self.dispatcher.subscription]
        if to[0].overflow == "wait" and (to[0].free() <= 0 or to[0].gate):
            await self._door.deliver(to, [envelope], self._door.take_ticket(to))
        elif not to[0].is_closed:
            to[0].push([envelope])

    def _read(self, incoming: Incoming) -> AnyEnvelope | None:
        event_type, topic = incoming.event_type, incoming.topic
        if event_type is not None:
            today = current_type(event_type)
            topic = today if topic in (None, event_type) else topic
            event_type = today
            if not self._wants(event_type, topic):
                return None
        envelope = self._decode(incoming)
        if (event_type, topic) != (envelope.metadata.event_type, envelope.topic):
            # The document says what it is; what the entry says beside it is a way to skip it unread.
            return envelope if self._wants(envelope.metadata.event_type, envelope.topic) else None
        return envelope

    # What becomes of what was received

    def holds(self, incoming: Incoming) -> bool:
        """Tell whether this member holds the lane of ``incoming``."""
        lane = incoming.lane
        return lane is None or not (lane.is_lost or lane.held_until <= self._clock.monotonic())

    async def count(self, work: ReceivedWork, *, may_wait: bool) -> bool:
        """Have the attempt that begins next counted; False where the lane was lost meanwhile.

        What comes again was perhaps begun before, by a process that it ended. That is counted for it if it ends another
        one while it runs alone: events that were begun when a process ended run one at a time, where the caller may
        wait for them, as do all that come again where there is no attempt to spare.
        """
        known = work.incoming.attempts
        if may_wait and (known or self.dispatcher.attempts <= _FEW_ATTEMPTS):
            while self._alone is not None:
                await self._changes.wait()
            self._alone = work
        doubt = 1 if self._alone is work and known <= 1 and work.attempts == known else 0
        while (source := self._source) is not None and self.holds(work.incoming):
            try:
                await source.count_attempts(work.incoming, work.attempts + 1 + doubt)
            except RetryableError as exc:
                log.warning("%s waits to begin with an event: %s", self.dispatcher.name, exc)
                await asyncio.sleep(_PAUSE_S)
            else:
                return self.holds(work.incoming)
        return False

    def count_soon(self, work: ReceivedWork) -> None:
        """Have the attempts of ``work`` counted, while others go on."""
        self._leave(work)
        source, attempts = self._source, work.attempts
        if source is not None:
            counting = self._count_now(source, work.incoming, attempts)
            self._life.errands.spawn(counting, name=f"avx-events {self.dispatcher.name}: count")

    def done(self, work: ReceivedWork) -> None:
        """Have the broker told that ``work`` is done."""
        if work in self._works:
            self._works.remove(work)
            self._done.append(work.incoming)
            self._changes.tell()
        else:
            self._leave(work)

    def dropped(self, work: ReceivedWork) -> None:
        """Leave ``work`` to whoever holds its lane next."""
        self._leave(work)
        if work in self._works:
            self._works.remove(work)
            if self._source is not None:
                self._source.give_back(work.incoming, has_begun=work.attempts > work.incoming.attempts)
            self._changes.tell()

    def _know_alone(self, told: Sequence[Incoming]) -> None:
        """Let the next one run alone once the broker knows that the one before is done: else it would be to blame too.

        A process that ends then has ended with one event begun and not acknowledged, and no other.
        """
        alone = self._alone
        if alone is not None and alone not in self._works and any(incoming is alone.incoming for incoming in told):
            self._leave(alone)

    def _leave(self, work: ReceivedWork) -> None:
        if self._alone is work:
            self._alone = None
            self._changes.tell()

    def lose(self, lane: Lane) -> None:
        """Forget what waits of ``lane``, which another member may hold already; what runs, runs on."""
        lane.is_lost = True
        self.dispatcher.withdraw(lambda work: isinstance(work, ReceivedWork) and work.incoming.lane is lane)

    async def give_up(self, lane: Lane) -> None:
        """Forget what waits of ``lane``, and return when nothing of it runs and the broker knows what is done."""
        self.lose(lane)
        while any(incoming.lane is lane for incoming in self._in_flight()):
            await self._changes.wait()

    def _in_flight(self) -> Iterator[Incoming]:
        return chain((work.incoming for work in self._works), self._done, self._telling)

    # Acknowledging

    async def _tell(self) -> None:
        while True:
            source = self._source
            if source is None or not self._done:
                await self._changes.wait()
                continue
            batch = self._telling = self._done
            self._done = []
            try:
                await self._acknowledge(source, batch)
            except AvxEventsError as exc:
                self._done = batch + self._done
                log.warning(
                    "%s: %d events are done and not acknowledged yet: %s", self.dispatcher.name, len(batch), exc
                )
                await asyncio.sleep(_PAUSE_S)
            except BaseException:
                self._done = batch + self._done
                raise
            else:
                self._know_alone(batch)
            finally:
                self._telling = []
            self._changes.tell()
            self._life.look_idle()

    async def _acknowledge(self, source: Source, batch: Sequence[Incoming]) -> None:
        observer = self.dispatcher.observer
        if observer is None:
            await source.acknowledge(batch)
            return
        with observer.settling(self.dispatcher.name, len(batch)):
            await source.acknowledge(batch)

    async def _count_now(self, source: Source, incoming: Incoming, attempts: int) -> None:
        try:
            await source.count_attempts(incoming, attempts)
        except AvxEventsError as exc:
            log.warning("%s: %d attempts are not counted in the broker: %s", self.dispatcher.name, attempts, exc)


def _unreadable(incoming: Incoming, clock: Clock) -> AnyEnvelope:
    """Return what stands for an event that cannot be read, as long as its dead letter is on its way."""
    event_type = incoming.event_type or "undecodable"
    now_ns = clock.time_ns()
    event_id = new_id(now_ns)
    metadata = EventMetadata(event_id, event_type, "", now_ns // 1000, event_id)
    return EventEnvelope(UnknownEvent(event_type, {}), metadata, incoming.topic or event_type)
