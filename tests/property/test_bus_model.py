"""The event bus beside a naive model: one list for each subscription, filled from the record of what went in.

The record is a subscriber of everything that never holds anybody back. What it has is what was accepted, in order; who
may be accepted when is checked as laws on it, and what everybody else has follows from it.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from avx_events.bus.event_bus import EventBus
from avx_events.bus.subscriber import Subscriber
from avx_events.core.errors import AvxEventsError, ClosedError, SubscriptionFullError
from avx_events.core.event import Event
from avx_events.core.policy import OVERFLOWS, Overflow
from avx_events.core.tasks import TaskScope

ValueT = TypeVar("ValueT")

# More than any chain of publishers and readers that a few steps can make.
TURNS: Final = 100


class Tick(Event, event_type="model.tick", aggregate_id="number"):
    number: int


class Tock(Tick, event_type="model.tock"):
    pass


class Bell(Event, event_type="model.bell"):
    number: int


Numbered = Tick | Tock | Bell
event_classes = st.sampled_from([Tick, Tock, Bell])
places = st.integers(0, 1000)  # of a list, whatever its length


@dataclass(eq=False)
class Naive:
    """A subscription: a list, its policy, and what was counted."""

    subscriber: Subscriber[Any]
    classes: tuple[type, ...]
    capacity: int
    overflow: Overflow
    queue: list[Numbered] = field(default_factory=list[Numbered])
    read: int = 0
    dropped: int = 0
    is_closed: bool = False
    readers: "list[Reader]" = field(default_factory=list["Reader"])  # who waits
    handed: list[Numbered] = field(default_factory=list[Numbered])  # what those have got, one each

    @property
    def is_full(self) -> bool:
        return len(self.queue) >= self.capacity

    def takes(self, event: object) -> bool:
        return not self.is_closed and isinstance(event, self.classes)

    def put(self, event: Numbered) -> None:
        if self.is_full and self.overflow == "drop_newest":
            self.dropped += 1
            return
        self.queue.append(event)
        if len(self.queue) > self.capacity and self.overflow == "drop_oldest":
            self.queue.pop(0)
            self.dropped += 1
        if len(self.handed) < len(self.readers):
            self.handed += self.take(1)
        assert len(self.queue) <= self.capacity, "more than its capacity was let in"

    def take(self, limit: int) -> list[Numbered]:
        taken, self.queue = self.queue[:limit], self.queue[limit:]
        self.read += len(taken)
        return taken


@dataclass(eq=False)
class Reader:
    """Somebody who waits for one event."""

    task: "asyncio.Task[None] | None" = None
    got: list[Numbered] = field(default_factory=list[Numbered])


@dataclass(eq=False)
class Publisher:
    """One call of ``publish`` or ``publish_many``, and how it ended."""

    events: list[Numbered]
    subscriptions: list[Naive]  # those that were there when it was called
    task: "asyncio.Task[None] | None" = None
    accepted: int = 0
    error: AvxEventsError | None = None
    is_done: bool = False
    is_cancelled: bool = False

    @property
    def gates(self) -> list[Naive]:
        """Where its first event may have to wait."""
        return [one for one in self.reached_by(self.events[0]) if one.overflow == "wait"] if self.events else []

    @property
    def is_in_its_first_run(self) -> bool:
        """Whether its gates are those it stands at: the events so far are of one class."""
        return len(set(map(type, self.events[: self.accepted + 1]))) == 1

    def reached_by(self, event: Numbered) -> list[Naive]:
        return [one for one in self.subscriptions if one.takes(event)]

    def waits_at(self, subscription: Naive) -> bool:
        return not self.is_done and subscription in self.gates


class BusAsTheModel(RuleBasedStateMachine):
    """Whatever is called in whatever order, every subscription has what its list has, and nobody is let in wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bus = EventBus()
        self.tasks = TaskScope()
        self.numbers = count()
        self.subscriptions: list[Naive] = []
        self.publishers: list[Publisher] = []  # who waits, the first come first
        self.by_number: dict[int, Publisher] = {}
        self.accepted = 0
        self.record: Subscriber[Any]

    @initialize()
    def begin(self) -> None:
        everything = self.bus.subscribe(Tick, Bell, name="record", capacity=1_000_000, overflow="drop_oldest")
        self.record = self.runner.run(everything)
        self.subscribe((Tick,), 2, "wait")
        self.subscribe((Event,), 3, "wait")

    @rule(
        classes=st.sampled_from([(Tick,), (Tock,), (Bell,), (Bell, Tock), (Event,)]),
        capacity=st.integers(1, 4),
        overflow=st.one_of(st.just("wait"), st.sampled_from(OVERFLOWS)),  # the one with the most to it more often
    )
    def subscribe(self, classes: tuple[type[Any], ...], capacity: int, overflow: Overflow) -> None:
        subscriber = self.runner.run(self.bus.subscribe(*classes, capacity=capacity, overflow=overflow))
        self.subscriptions.append(Naive(subscriber, classes, capacity, overflow))

    @rule(event_class=event_classes)
    def publish(self, event_class: type[Any]) -> None:
        publisher = self.a_publisher([event_class])
        must_wait = any(gate.is_full or self.waiting_at(gate) for gate in publisher.gates)
        is_refused = self.is_refused(publisher.events[0])

        self.play(self.published(publisher, self.bus.publish(publisher.events[0])))

        if not must_wait:
            assert publisher.is_done
            assert (publisher.error is not None) == is_refused

    @rule(classes=st.lists(event_classes, max_size=6))
    def publish_many(self, classes: list[type[Any]]) -> None:
        publisher = self.a_publisher(classes)

        self.play(self.published(publisher, self.bus.publish_many(publisher.events)))

    @rule(event_class=event_classes)
    def publish_nowait(self, event_class: type[Any]) -> None:
        publisher = self.a_publisher([event_class])
        must_wait = any(gate.is_full or self.waiting_at(gate) for gate in publisher.gates)
        is_refused = must_wait or self.is_refused(publisher.events[0])

        async def call() -> None:
            self.bus.publish_nowait(publisher.events[0])

        self.play(self.published(publisher, call()))

        assert publisher.is_done
        assert (publisher.error is not None) == is_refused

    @rule(place=places)
    def cancel_a_publisher(self, place: int) -> None:
        if self.publishers:
            publisher = self.publishers[place % len(self.publishers)]
            assert publisher.task is not None
            publisher.task.cancel()
            self.play()
            assert publisher.is_cancelled

    @rule(place=places)
    def recv(self, place: int) -> None:
        self.read_one_of(place, 1)

    @rule(place=places, limit=st.integers(1, 5))
    def recv_many(self, place: int, limit: int) -> None:
        self.read_one_of(place, limit)

    @rule(place=places)
    def wait_for_one(self, place: int) -> None:
        """Read where there is nothing yet. With a policy that drops, how much depends on when the reader is there."""
        empty = [one for one in self.subscriptions if one.overflow == "wait" and not one.queue and not one.is_closed]
        if empty:
            subscription = empty[place % len(empty)]
            reader = Reader()
            self.play(self.read(subscription.subscriber, reader))
            subscription.readers.append(reader)

    @rule(place=places)
    def cancel_a_reader(self, place: int) -> None:
        with_readers = [one for one in self.subscriptions if one.readers]
        if with_readers:
            subscription = with_readers[place % len(with_readers)]
            reader = subscription.readers[place % len(subscription.readers)]
            subscription.readers.remove(reader)
            assert reader.task is not None
            reader.task.cancel()
            self.play()
            assert reader.got == []

    @rule(place=places)
    def close_a_subscriber(self, place: int) -> None:
        if self.subscriptions:
            subscription = self.subscriptions[place % len(self.subscriptions)]
            self.runner.run(subscription.subscriber.close())
            subscription.is_closed = True
            subscription.readers.clear()
            self.play()

    @invariant()
    def has_what_the_lists_have(self) -> None:
        for subscription in self.subscriptions:
            found = subscription.subscriber.statistics()
            assert found.queued == len(subscription.queue)
            assert found.delivered == subscription.read + len(subscription.queue)
            assert found.dropped == subscription.dropped
            assert found.over_capacity == 0
        total = self.bus.statistics()
        assert total.published == self.accepted
        assert total.delivered == self.accepted + sum(one.read + len(one.queue) for one in self.subscriptions)
        assert total.dropped == sum(one.dropped for one in self.subscriptions)

    @invariant()
    def nobody_waits_where_there_is_room(self) -> None:
        for publisher in self.publishers:
            if publisher.is_in_its_first_run and self.is_first(publisher):
                is_held_back = any(len(gate.queue) * 2 > gate.capacity for gate in publisher.gates)
                assert is_held_back, "a publisher was forgotten"

    def teardown(self) -> None:
        with self.runner:
            waiting = list(self.publishers)
            self.runner.run(self.bus.close())
            self.play()
            assert all(isinstance(publisher.error, ClosedError) for publisher in waiting)
            for subscription in self.subscriptions:
                assert self.runner.run(_rest_of(subscription.subscriber)) == subscription.queue
            assert not len(self.tasks)

    # What is done

    def a_publisher(self, classes: list[type[Any]]) -> Publisher:
        events: list[Numbered] = [event_class(next(self.numbers)) for event_class in classes]
        publisher = Publisher(events, list(self.subscriptions))
        self.by_number |= {event.number: publisher for event in events}
        return publisher

    async def published(self, publisher: Publisher, call: Coroutine[Any, Any, object]) -> None:
        self.publishers.append(publisher)
        publisher.task = asyncio.current_task()
        try:
            await call
        except (SubscriptionFullError, ClosedError) as error:
            publisher.error = error
        except asyncio.CancelledError:
            publisher.is_cancelled = True
        publisher.is_done = True

    async def read(self, subscriber: Subscriber[Any], reader: Reader) -> None:
        reader.task = asyncio.current_task()
        event = await subscriber.recv()
        if event is not None:
            reader.got.append(event)

    def read_one_of(self, place: int, limit: int) -> None:
        readable = [one for one in self.subscriptions if one.queue or one.is_closed]
        if not readable:
            return
        subscription = readable[place % len(readable)]

        async def read() -> list[Numbered]:
            if limit == 1:
                event = await subscription.subscriber.recv()
                return [] if event is None else [event]
            return await subscription.subscriber.recv_many(limit)

        assert self.runner.run(read()) == subscription.take(limit)
        self.play()

    def play(self, call: Coroutine[Any, Any, None] | None = None) -> None:
        """Begin ``call``, let everybody go as far as they come, and bring the lists up to date."""

        async def turn() -> list[Numbered]:
            if call is not None:
                self.tasks.spawn(call, name="model")
            for _ in range(TURNS):
                await asyncio.sleep(0)
            return await self.record.recv_many(1_000_000) if self.record.statistics().queued else []

        accepted = self.runner.run(turn())
        for event in accepted:
            self.accept(event)
        for subscription in self.subscriptions:
            got = [event for reader in subscription.readers for event in reader.got]
            assert sorted(got, key=_number) == sorted(subscription.handed, key=_number)
            subscription.readers = [reader for reader in subscription.readers if not reader.got]
            subscription.handed.clear()
        for publisher in [publisher for publisher in self.publishers if publisher.is_done]:
            self.end(publisher)

    def accept(self, event: Numbered) -> None:
        publisher = self.by_number[event.number]
        assert publisher.events[publisher.accepted] is event, "events of one call come in its order"
        reached = publisher.reached_by(event)
        if publisher.is_in_its_first_run:
            ahead = self.publishers[: self.publishers.index(publisher)]
            assert not any(
                other.waits_at(one) and other.is_in_its_first_run and one.overflow == "wait"
                for other in ahead
                for one in reached
            ), "somebody who came first still waits"
        publisher.accepted += 1
        for subscription in reached:
            subscription.put(event)
        self.accepted += 1

    def end(self, publisher: Publisher) -> None:
        self.publishers.remove(publisher)
        if publisher.error is None and not publisher.is_cancelled:
            assert publisher.accepted == len(publisher.events)

    # What is true now

    def is_first(self, publisher: Publisher) -> bool:
        ahead = self.publishers[: self.publishers.index(publisher)]
        return all(other.is_in_its_first_run for other in ahead) and not any(
            other.waits_at(gate) for other in ahead for gate in publisher.gates
        )

    def waiting_at(self, subscription: Naive) -> int:
        return subscription.subscriber.statistics().waiting_publishers

    def is_refused(self, event: object) -> bool:
        return any(one.takes(event) and one.overflow == "raise" and one.is_full for one in self.subscriptions)


async def _rest_of(subscriber: Subscriber[Any]) -> list[Numbered]:
    return [event async for event in subscriber]


def _number(event: Numbered) -> int:
    return event.number


TestBusAsTheModel = BusAsTheModel.TestCase
TestBusAsTheModel.settings = settings(max_examples=60, stateful_step_count=40)
