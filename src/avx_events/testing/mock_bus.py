"""An event bus for tests: the real one, which also remembers what was published on it, and can be made to fail."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast, overload

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus, refuse_other_messages
from avx_events.bus.life import State
from avx_events.bus.subscription import AnyEnvelope, Subscription
from avx_events.core.arguments import seconds, whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import NotAnEventError
from avx_events.core.event import Event, schema_of
from avx_events.core.metadata import EventEnvelope, EventMetadata, stamp
from avx_events.testing.differences import one_line
from avx_events.testing.faults import Faults

EventT = TypeVar("EventT")

_MOST_LISTED: Final = 10


class MockEventBus(EventBus):
    """An ``EventBus`` that also remembers.

    It is the real one in all things: what it refuses, how it retries, in which order it delivers. So it publishes as
    soon as it exists, and once it has handlers only after ``start`` (``NotStartedError``), as in production. Nothing is
    remembered of a publish that was refused, or cancelled while it waited for room; what handlers publish is. The
    record is no subscription of yours: statistics do not count it, it never makes a publisher wait, and it holds
    everything until ``clear`` is called.

    Publishes fail where that was planned::

        bus.faults.refuse(SubscriptionFullError("orders", 1024), OrderPlaced)

    Each event is a call of its own, those of ``publish_many`` too. ``publish_threadsafe`` tells through its future.

    Attributes:
        faults: What is to fail.
    """

    __slots__ = ("_record", "faults")

    def __init__(
        self,
        *,
        name: str = "mock event bus",
        dead_letter_queue: DeadLetterQueue | None = None,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        faults: Faults | None = None,
    ) -> None:
        """Make an open bus on which nothing was published.

        ``faults`` is a plan to share with others; the rest are the arguments of ``EventBus``.
        """
        super().__init__(name=name, dead_letter_queue=dead_letter_queue, drain_timeout_s=drain_timeout_s, clock=clock)
        self.faults = Faults() if faults is None else faults
        self._record = _Record()
        # Every class, also one that is decorated and does not derive from Event.
        self._add((object,), self._record)

    @property
    def is_running(self) -> bool:
        """Whether handlers run: from ``start`` until ``close`` is called."""
        return self._engine.life.state is State.RUNNING

    @overload
    def published_events(self) -> list[Any]: ...

    @overload
    def published_events(self, event_class: type[EventT], /, *more: type[EventT]) -> list[EventT]: ...

    def published_events(self, *event_classes: type[Any]) -> list[Any]:
        """Return the events that were published, in order: those of the classes given, or all without any.

        Raises:
            NotAnEventError: One of the classes is no event class.
        """
        return [envelope.event for envelope in self._published_of(event_classes)]

    @overload
    def published_envelopes(self) -> list[EventEnvelope[Any]]: ...

    @overload
    def published_envelopes(self, event_class: type[EventT], /, *more: type[EventT]) -> list[EventEnvelope[EventT]]: ...

    def published_envelopes(self, *event_classes: type[Any]) -> list[EventEnvelope[Any]]:
        """Return the same in their envelopes: with metadata, headers and topic.

        Raises:
            NotAnEventError: One of the classes is no event class.
        """
        return self._published_of(event_classes)

    def clear(self) -> None:
        """Forget what was published so far; events that wait for subscribers and handlers stay."""
        self._record.queue.clear()

    async def wait_for(
        self,
        event_class: type[EventT],
        *more: type[EventT],
        count: int = 1,
        where: Callable[[EventT], bool] | None = None,
        timeout_s: float = 5.0,
    ) -> list[EventT]:
        """Wait until ``count`` events of the classes were published, and return the first ``count`` of them, in order.

        What was published before the call counts, back to the last ``clear``.

        Args:
            event_class: Their class, or a base of it.
            more: Further classes.
            count: How many, 1 or more.
            where: Tells which of them count; all if not given.
            timeout_s: How many seconds of real time to wait at most.

        Raises:
            AssertionError: They were not published in time; the text says what was.
            NotAnEventError: One of the classes is no event class.
            InvalidArgumentError: The count or the time is outside its range.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        classes = (event_class, *more)
        whole("count", count, least=1)
        seconds("timeout_s", timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while len(found := self._matching(classes, where)) < count:
                    await self._record.wait()
        except TimeoutError:
            raise AssertionError(self._complaint(classes, count, where, timeout_s)) from None
        return found[:count]

    async def publish(self, event: object, headers: Mapping[str, str] | None = None) -> EventMetadata:
        """Publish, or fail as planned; see ``EventBus.publish``.

        Raises:
            AvxEventsError: As there.
            Exception: What was planned.
        """
        if not len(self.faults):
            return await super().publish(event, headers)
        envelope = self._acceptable(event, headers)
        with self.faults.carried_out([_class_of(envelope)]):
            return await super().publish(envelope)

    async def publish_many(
        self, events: Iterable[object], *, headers: Mapping[str, str] | None = None
    ) -> list[EventMetadata]:
        """Publish in order, up to the first that fails as planned; see ``EventBus.publish_many``.

        Raises:
            AvxEventsError: As there.
            Exception: What was planned.
        """
        if not len(self.faults):
            return await super().publish_many(events, headers=headers)
        try:
            listed = list(events)
        except TypeError:
            return await super().publish_many(events, headers=headers)  # which says what is wrong
        classes = [_class_of(self._acceptable(event, headers)) for event in listed]
        for number, event_class in enumerate(classes):
            fault = self.faults.next_of([event_class])
            if fault is not None:
                done = number + 1 if fault.is_confirmation_lost else number
                await super().publish_many(listed[:done], headers=headers)
                raise fault.error
        return await super().publish_many(listed, headers=headers)

    def publish_nowait(self, event: object, *, headers: Mapping[str, str] | None = None) -> EventMetadata:
        """Publish, or fail as planned; see ``EventBus.publish_nowait``.

        Raises:
            AvxEventsError: As there.
            Exception: What was planned.
        """
        if not len(self.faults):
            return super().publish_nowait(event, headers=headers)
        envelope = self._acceptable(event, headers)
        with self.faults.carried_out([_class_of(envelope)]):
            return super().publish_nowait(envelope)

    def publish_threadsafe(self, event: object, *, headers: Mapping[str, str] | None = None) -> "Future[EventMetadata]":
        """Publish from any thread; the future fails as planned. See ``EventBus.publish_threadsafe``.

        Raises:
            AvxEventsError: As there.
        """
        if not len(self.faults):
            return super().publish_threadsafe(event, headers=headers)
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers)
        refuse_other_messages(envelope)
        lost: list[Exception] = []

        def find(envelope: AnyEnvelope) -> Sequence[Subscription]:
            # On the loop, where the bus says whether it takes the event: a fault is no excuse for a wrong call.
            fault = self.faults.next_of([_class_of(envelope)])
            if fault is not None:
                if not fault.is_confirmation_lost:
                    raise fault.error
                lost.append(fault.error)
            return self._subscriptions_of(envelope)

        return _Confirmation(self._engine.deliver_threadsafe(envelope, find), lost)

    def _acceptable(self, event: object, headers: Mapping[str, str] | None) -> AnyEnvelope:
        """Return ``event`` in its envelope, or raise what ``publish`` would, whatever is planned."""
        self._engine.life.check_takes("publish")
        envelope = stamp(event, clock=self._engine.life.clock, headers=headers)
        refuse_other_messages(envelope)
        return envelope

    def _matching(self, classes: tuple[type[EventT], ...], where: Callable[[EventT], bool] | None) -> list[EventT]:
        events = self.published_events(*classes)
        return events if where is None else [event for event in events if where(event)]

    def _published_of(self, event_classes: tuple[type[Any], ...]) -> list[EventEnvelope[Any]]:
        for event_class in event_classes:
            _check_class(event_class)
        wanted = event_classes or object
        return [envelope for envelope in self._record.queue if isinstance(envelope.event, wanted)]

    def _complaint(
        self,
        classes: tuple[type[EventT], ...],
        count: int,
        where: Callable[[EventT], bool] | None,
        timeout_s: float,
    ) -> str:
        wanted = " or ".join(event_class.__name__ for event_class in classes) + (
            "" if where is None else " with where="
        )
        found = len(self._matching(classes, where))
        return (
            f"{count} {wanted} expected within {timeout_s:g} s, {found} published; {_listed(self.published_events())}"
        )


class _Record(Subscription):
    """A queue that nobody reads from, so that it is the record of all that was put into it."""

    __slots__ = ()

    def __init__(self) -> None:
        # "drop_oldest" at a capacity that is never reached: with "wait" a publisher that waits for somebody else would
        # stand in this gate too, and every publisher behind it, whatever its event.
        super().__init__("record", capacity=1 << 62, overflow="drop_oldest")

    def wake(self) -> None:
        """Wake all that wait: each looks for an event of its own."""
        for _ in range(len(self.receivers)):
            super().wake()


class _Confirmation(Future[EventMetadata]):
    """Ends as ``sent`` does, and can be cancelled as long; but of what is in ``lost`` where that succeeds."""

    def __init__(self, sent: Future[EventMetadata], lost: Sequence[Exception]) -> None:
        super().__init__()
        self._sent = sent
        self._lost = lost
        sent.add_done_callback(self._tell)

    def cancel(self) -> bool:
        return self._sent.cancel()

    def running(self) -> bool:
        return self._sent.running()

    def _tell(self, sent: Future[EventMetadata]) -> None:
        if sent.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        error = sent.exception() or next(iter(self._lost), None)
        if error is None:
            self.set_result(sent.result())
        else:
            self.set_exception(error)


def _class_of(envelope: AnyEnvelope) -> type:
    event: object = envelope.event
    return type(event)


def _check_class(event_class: object) -> None:
    if event_class is Event:
        return
    if not isinstance(event_class, type):
        raise NotAnEventError(event_class)
    schema_of(cast("type", event_class))  # type: ignore[redundant-cast]  # pyright knows only that it is some type


def _listed(events: Sequence[object]) -> str:
    if not events:
        return "nothing was published"
    lines = [f"  {number}. {one_line(event)}" for number, event in enumerate(events, start=1)][-_MOST_LISTED:]
    what = (
        f"the last {_MOST_LISTED} of {len(events)} events" if len(events) > _MOST_LISTED else "all that was published"
    )
    return "\n".join([f"{what}:", *lines])
