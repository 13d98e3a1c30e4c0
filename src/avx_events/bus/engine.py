"""What buses of events share: handlers and subscribers, the door to their queues, and dead letters."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from weakref import WeakSet, finalize

import msgspec

from avx_events.bus.admission import Admission, Ticket
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, id_of
from avx_events.bus.dispatcher import Dispatcher, KeyFunction
from avx_events.bus.endpoints import endpoint_for
from avx_events.bus.handling import HandlerOptions, HandlerRunner, is_inside_handler_of
from avx_events.bus.life import Life, State
from avx_events.bus.observer import Observer, Observers
from avx_events.bus.remote.group_subscriber import GroupSubscriber
from avx_events.bus.remote.intake import Wants
from avx_events.bus.remote.link import Link, LinkOptions
from avx_events.bus.remote.ports import Transport
from avx_events.bus.remote.redrives import RedriveRequest
from avx_events.bus.statistics import BusStatistics, SubscriptionStatistics, added, lasting, total
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.subscription import AnyEnvelope, Subscription
from avx_events.core.arguments import optional, seconds, text, whole
from avx_events.core.callables import describe
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    ClosedError,
    DuplicateHandlerError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NotStartedError,
)
from avx_events.core.metadata import refuse_in_replay
from avx_events.core.policy import ONE_ATTEMPT, Overflow, Retry

if TYPE_CHECKING:
    from avx_events.bus.deliveries import OpenDeliveries
    from avx_events.core.metadata import EventMetadata

log = logging.getLogger("avx_events")

Remote: TypeAlias = tuple[Transport, LinkOptions]
"""What makes a bus a connected one."""

_MOST_ASKED: Final = 1000
"""So many letters that others ask to have redriven are looked for at once; whoever asks for more is not heard."""


class Engine:
    """The delivery engine of one bus.

    Attributes:
        life: Its event loop, and its life from start to close.
        dead_letters: Where events go that failed for good; None is the log.
        link: The transport; None is memory.
        observer: Is told of all that happens; None is nobody.
        outlet: Stands for the broker where those stand who get an event: it never has room, so that everything goes
            through ``deliver``. None is memory.
    """

    def __init__(
        self,
        name: str,
        *,
        dead_letters: DeadLetterQueue | None,
        drain_timeout_s: float,
        clock: Clock,
        on_change: Callable[[], None],
        remote: Remote | None = None,
    ) -> None:
        """Begin open, without consumers.

        Args:
            name: What errors and logs call the bus.
            dead_letters: Where events go that failed for good; None is the log.
            drain_timeout_s: How many seconds ``close`` lets handlers work on.
            clock: Time.
            on_change: Called when what a publish may do has changed: a consumer more or less, another state.
            remote: The transport of a connected bus, and how it is used; None is memory.

        Raises:
            InvalidArgumentError: The timeout is no number of seconds above 0, or the queue is none.
        """
        optional("dead_letter_queue", dead_letters, DeadLetterQueue)
        self._on_change = on_change
        self._admission = Admission(lambda: self.life.refusal("publish"))
        self.life = Life(
            name,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
            on_change=on_change,
            on_refuse=self._refuse,
            on_stopped=None if remote is None else self._disconnect,
        )
        self.link = None if remote is None else Link(*remote, self.life)
        self.outlet = None if remote is None else _outlet(name)
        if dead_letters is None and self.link is not None:
            dead_letters = DeadLetterQueue(store=self.link.dead_letters())
        self.dead_letters = dead_letters
        self.observer: Observer | None = None
        self._runners: dict[str, HandlerRunner] = {}
        self._subscribers: dict[str, Subscriber[Any]] = {}
        # Those that were closed: while somebody may still read from them, and after that.
        self._leaving: WeakSet[OpenDeliveries] = WeakSet()
        self._ended = SubscriptionStatistics()
        self._next_number = 1
        self._asked: set[str] = set()  # letters that others ask to have redriven, until they are in line

    # Consumers

    def add_handler(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        retry: Retry | None,
        concurrency: int,
        timeout_s: float | None,
        key: KeyFunction | None,
        capacity: int,
        overflow: Overflow,
        wants: Wants,
    ) -> Subscription:
        """Run ``function`` for what its subscription, which is returned, will be given.

        Raises:
            ClosedError: The bus is closed.
            DuplicateHandlerError: Another consumer has its name.
            HandlerDefinitionError: The function cannot be called with an event.
            InvalidArgumentError: An option is outside its range.
            UnsupportedError: The broker cannot do what an option says.
            WrongLoopError: The bus runs on another event loop.
        """
        self.life.check_open("add a handler")
        if not callable(function):
            raise InvalidArgumentError("handler", function, expected="a function")
        most = whole("concurrency", concurrency, least=1)
        dispatcher = self._new_dispatcher(
            describe(function) if name is None else name, retry=retry, key=key, capacity=capacity, overflow=overflow
        )
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        endpoint, takes_envelope = endpoint_for(function, self.life.threads, most=most)
        options = HandlerOptions(concurrency=most, timeout_s=timeout_s, takes_envelope=takes_envelope)
        runner = HandlerRunner(
            dispatcher,
            endpoint,
            options,
            owner=self.life,
            tasks=self.life.tasks,
            clock=self.life.clock,
            on_idle=self.life.look_idle,
            on_lost=self.life.fail,
        )
        self._runners[dispatcher.name] = runner
        self.life.add(runner)
        if self.link is not None:
            self._receive(self.link, dispatcher, wants=wants, capacity=capacity)
        return dispatcher.subscription

    async def add_subscriber(
        self,
        *,
        name: str | None,
        retry: Retry | None,
        key: KeyFunction | None,
        capacity: int,
        overflow: Overflow,
        what: str,
        wants: Wants,
        on_close: Callable[[Subscription], None],
    ) -> Subscriber[Any]:
        """Return a subscriber.

        Args:
            name: Its name; None is a free one.
            retry: What follows a failed delivery block.
            key: Gives the key of an event; None is the aggregate id.
            capacity: How many unread events it holds.
            overflow: What happens when they are that many.
            what: What it subscribed to: its name in a group, the same in all members and after each start.
            wants: Which events of a broker it gets.
            on_close: Called with its subscription when its reader closes it.

        Raises:
            ClosedError: The bus is closed.
            DuplicateHandlerError: Another consumer has its name.
            InvalidArgumentError: An option is outside its range.
            UnsupportedError: The broker cannot do what an option says.
            TransportUnavailableError: The broker is away.
            WrongLoopError: The bus belongs to another event loop.
        """
        self.life.check_open("subscribe")
        self.life.bind("subscribe")
        link = self.link
        is_shared = link is not None and link.options.group is not None
        if name is None:
            name = self._free_name(what if is_shared else "subscriber")
        dispatcher = self._new_dispatcher(name, retry=retry, key=key, capacity=capacity, overflow=overflow)
        dispatcher.subscription.receivers.loop = self.life.loop

        def forget(subscriber: Subscriber[Any]) -> None:
            del self._subscribers[subscriber.name]
            on_close(subscriber.dispatcher.subscription)
            self._leaving.add(subscriber.open_deliveries)
            finalize(subscriber.open_deliveries, self._forget_reader, subscriber.dispatcher).atexit = False
            self._look_idle()

        kind = cast("type[Subscriber[Any]]", GroupSubscriber if is_shared else Subscriber)
        subscriber = kind(
            dispatcher,
            owner=self.life,
            on_idle=self._look_idle,
            on_close=forget,
            on_stopped=None if link is None else partial(link.end, dispatcher),
        )
        self._subscribers[name] = subscriber
        self.life.add(subscriber.open_deliveries)
        if link is not None:
            self._receive(link, dispatcher, wants=wants, capacity=capacity)
            try:
                await link.begin(dispatcher)
            except BaseException:
                await subscriber.close()
                raise
        return subscriber

    # Life

    async def start(self) -> None:
        """Run the handlers, whom the broker knows by then. Harmless when repeated.

        Raises:
            ClosedError: It was closed.
            TransportUnavailableError: The broker is away.
            WrongLoopError: It belongs to another event loop.
        """
        if self.link is not None:
            self.life.check_open("start")
            self.life.bind("start")
            await self.link.open()
        self.life.start()

    async def close(self, *, is_in_good_order: bool) -> None:
        """Stop; what readers of a group have read counts as done where this is ``is_in_good_order``.

        Raises:
            HandlerWaitError: One of its own handlers calls it.
            WrongLoopError: It belongs to another event loop.
        """
        if is_in_good_order:
            for subscriber in self._subscribers.values():
                if isinstance(subscriber, GroupSubscriber):
                    subscriber.acknowledge_read()
        await self.life.close()

    def observe(self, observer: Observer) -> None:
        """Tell ``observer``, too, of all that happens from now on.

        Raises:
            ClosedError: The bus is closed.
        """
        self.life.check_open("be observed")
        self.observer = observer if self.observer is None else Observers(self.observer, observer)
        for dispatcher in chain(
            (runner.dispatcher for runner in self._runners.values()),
            (subscriber.dispatcher for subscriber in self._subscribers.values()),
        ):
            dispatcher.observer = self.observer
        self._on_change()

    # Publishing

    async def deliver(
        self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]
    ) -> Sequence[AnyEnvelope]:
        """Give ``envelopes`` to ``subscriptions``, waiting for room where the caller is no handler of this bus.

        Returns:
            What was delivered: an observer may have added headers.

        Raises:
            SubscriptionFullError: One refuses.
            ClosedError: The bus was closed meanwhile.
            EngineFailedError: The bus failed meanwhile.
            EncodeError: An event cannot be written for the broker.
            EventTooLargeError: An event is larger than the limit.
            TransportUnavailableError: The broker is away. Of several, some may have been accepted.
            PublishUnknownError: An event was sent and not confirmed.
        """
        if self.observer is not None:
            with self.observer.publishing(envelopes) as observed:
                await self._deliver(subscriptions, observed)
            return observed
        await self._deliver(subscriptions, envelopes)
        return envelopes

    def deliver_now(
        self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]
    ) -> Sequence[AnyEnvelope]:
        """Give ``envelopes`` to ``subscriptions`` without waiting, and return what was delivered.

        Raises:
            SubscriptionFullError: There is no room; nobody got anything.
            EncodeError: An event cannot be written for the broker.
            EventTooLargeError: An event is larger than the limit.
        """
        if self.observer is not None:
            with self.observer.publishing(envelopes) as observed:
                self._deliver_now(subscriptions, observed)
            return observed
        self._deliver_now(subscriptions, envelopes)
        return envelopes

    def deliver_threadsafe(
        self, envelope: AnyEnvelope, find: Callable[[AnyEnvelope], Sequence[Subscription]]
    ) -> "Future[EventMetadata]":
        """Deliver from any thread; the future tells when the envelope is in.

        Args:
            envelope: What to deliver.
            find: Called on the loop, gives the subscriptions.

        Raises:
            NotStartedError: The bus has no event loop yet.
            ClosedError: It is closed, or its event loop is.
        """
        done: Future[EventMetadata] = Future()
        if self.life.loop is None:
            raise NotStartedError(self.life.name, "publish from a thread")
        if self.life.state is State.CLOSED:  # for good; its loop may stand still for ever
            raise ClosedError(self.life.name, "publish")
        is_own = is_inside_handler_of(self.life)  # a handler that runs in a thread
        try:
            self.life.loop.call_soon_threadsafe(partial(self._arrive, envelope, done, find, is_own=is_own))
        except RuntimeError as exc:
            raise ClosedError(f"the event loop of {self.life.name}", "publish") from exc
        return done

    async def _deliver(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        if self.link is not None:
            await self.link.publish(envelopes)
        elif is_inside_handler_of(self.life):
            self._admission.force(subscriptions, envelopes)
        else:
            await self._admission.deliver(subscriptions, envelopes, self._admission.take_ticket(subscriptions))

    def _deliver_now(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        if self.link is not None:
            self.link.publish_nowait(envelopes)
        elif is_inside_handler_of(self.life):
            self._admission.force(subscriptions, envelopes)
        else:
            self._admission.offer(subscriptions, envelopes)

    # Dead letters and figures

    async def redrive(self, letter: DeadLetter | str, *, redrives: int | None = None) -> bool:
        """Give a dead letter back to the handler that failed; False where it is being redriven already.

        Cancelled before it is in line, it leaves the letter as it was.

        Args:
            letter: The letter, or its id.
            redrives: Only where it was redriven so often, and not more; None is however often.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: The bus has no such handler, or belongs to another group.
            NoDeadLetterQueueError: It has no dead letter queue.
            InvalidArgumentError: It is neither, or its bytes could not be decoded: there is no event to handle.
            NotStartedError: Nobody runs the handlers.
            ClosedError: The bus is closed.
            ReplayedMessageError: A message of the past is being replayed.
        """
        self.life.check_takes("redrive")
        refuse_in_replay()
        if self.dead_letters is None:
            raise NoDeadLetterQueueError(self.life.name)
        current = await self.dead_letters.get(id_of(letter))
        self._dispatcher_of(current)
        if redrives not in (None, current.redrives):
            return False
        if current.envelope is None:
            raise InvalidArgumentError("letter", current.id, expected="one with an envelope, this one is undecodable")
        # A task of its own: cancelled while the claim comes back, nobody would know whose it is.
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        claiming = self._claim(self.dead_letters, current, outcome)
        task = self.life.errands.spawn(claiming, name=f"avx-events {self.life.name}: redrive")
        task.add_done_callback(lambda _: _refuse(outcome, self.life.name, "redrive"))
        return await outcome

    def take_redrive(self, request: RedriveRequest) -> None:
        """Redrive a letter that somebody asks for through the broker, if it is here and as it was then."""
        if request.letter in self._asked or len(self._asked) >= _MOST_ASKED:
            return
        self._asked.add(request.letter)
        name = f"avx-events {self.life.name}: redrive what was asked for"
        self.life.errands.spawn(self._redrive_asked(request), name=name)

    def statistics(self, in_line: int) -> BusStatistics:
        """Return the counts of the bus; ``in_line`` is how many events it published past the door."""
        consumers: dict[str, SubscriptionStatistics] = {}
        for name, runner in self._runners.items():
            consumers[name] = runner.statistics()
        for name, subscriber in self._subscribers.items():
            consumers[name] = subscriber.statistics()
        leaving = [lasting(deliveries.statistics()) for deliveries in self._leaving]
        sent = 0 if self.link is None else self.link.published
        sums = total(in_line + self._admission.admitted + sent, [self._ended, *leaving], consumers)
        # One publisher may stand at several gates.
        return msgspec.structs.replace(sums, waiting_publishers=self._admission.waiting)

    def _refuse(self) -> None:
        self._admission.close()
        if self.link is not None:
            self.link.begin_drain()

    async def _disconnect(self) -> None:
        if self.link is not None:
            await self.link.close()

    def _look_idle(self) -> None:
        for deliveries in [deliveries for deliveries in self._leaving if deliveries.is_done]:
            self.life.remove(deliveries)
        self.life.look_idle()

    def _forget_reader(self, dispatcher: Dispatcher) -> None:
        self._ended = added(self._ended, lasting(dispatcher.statistics(in_flight=0)))

    def _free_name(self, what: str) -> str:
        if what != "subscriber":
            taken = {*self._runners, *self._subscribers}
            return next(name for name in chain((what,), (f"{what}-{n}" for n in count(2))) if name not in taken)
        while (name := f"subscriber-{self._next_number}") in self._runners or name in self._subscribers:
            self._next_number += 1
        self._next_number += 1
        return name

    def _new_dispatcher(
        self, name: str, *, retry: Retry | None, key: KeyFunction | None, capacity: int, overflow: Overflow
    ) -> Dispatcher:
        text("name", name)
        if name in self._runners or name in self._subscribers:
            raise DuplicateHandlerError(f"the name {name!r}", existing="another consumer of this bus", new="this one")
        optional("retry", retry, Retry)
        if key is not None and not callable(key):
            raise InvalidArgumentError("key", key, expected="a function from an event to its key")
        if self.link is not None:
            self.link.check_consumer(name, has_key=key is not None, overflow=overflow)
        dispatcher = Dispatcher(
            Subscription(name, capacity=capacity, overflow=overflow),
            retry=ONE_ATTEMPT if retry is None else retry,
            key=key,
            dead_letters=self.dead_letters,
            errands=self.life.errands,
            clock=self.life.clock,
            group=self._group,
        )
        dispatcher.observer = self.observer
        return dispatcher

    @property
    def _group(self) -> str:
        return "" if self.link is None else self.link.options.group or ""

    def _receive(self, link: Link, dispatcher: Dispatcher, *, wants: Wants, capacity: int) -> None:
        on_redrive = None if self.dead_letters is None else self.take_redrive
        link.add(dispatcher, wants=wants, capacity=capacity, on_redrive=on_redrive)

    async def _redrive_asked(self, request: RedriveRequest) -> None:
        try:
            await self.redrive(request.letter, redrives=request.redrives)
        except Exception as exc:  # noqa: BLE001 - who asked looks at the letter; another member may do it
            log.info("%s was asked to redrive %s, and does not: %s", self.life.name, request.letter, exc)
        finally:
            self._asked.discard(request.letter)

    async def _claim(self, queue: DeadLetterQueue, letter: DeadLetter, outcome: "asyncio.Future[bool]") -> None:
        try:
            claimed = await queue.claim(letter.id)
            if claimed is not None and claimed.redrives != letter.redrives:  # somebody was faster, and has failed
                await queue.release(letter.id)
                claimed = None
            if claimed is not None and (outcome.cancelled() or not self._put_in_line(claimed)):
                await queue.release(letter.id)
                self._dispatcher_of(letter)  # which says so where it is gone
                return
        except Exception as exc:  # noqa: BLE001 - raised where it was called
            if not outcome.done():
                outcome.set_exception(exc)
            return
        if not outcome.done():
            outcome.set_result(claimed is not None)

    def _put_in_line(self, letter: DeadLetter) -> bool:
        consumer = self._runners.get(letter.handler) or self._subscribers.get(letter.handler)
        if (
            consumer is None
            or letter.group != self._group
            or letter.envelope is None
            or self.life.state is State.CLOSED
        ):
            return False
        consumer.dispatcher.redrive(letter, letter.envelope)
        return True

    def _dispatcher_of(self, letter: DeadLetter) -> Dispatcher:
        name = letter.handler
        if letter.group != self._group:
            whose = f"group {letter.group!r}" if letter.group else "a bus without a group"
            raise NoHandlerError(f"{name} of {whose}", known=[*self._runners, *self._subscribers])
        if name in self._runners:
            return self._runners[name].dispatcher
        if name in self._subscribers:
            return self._subscribers[name].dispatcher
        raise NoHandlerError(name, known=[*self._runners, *self._subscribers])

    def _arrive(
        self,
        envelope: AnyEnvelope,
        done: "Future[EventMetadata]",
        find: Callable[[AnyEnvelope], Sequence[Subscription]],
        *,
        is_own: bool,
    ) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            if is_own:
                self.life.check_lives("publish")
            else:
                self.life.check_takes("publish")
            subscriptions = find(envelope)
            if self.link is not None or self.observer is not None:
                self._publish_for(done, self.deliver(subscriptions, [envelope]))
                return
            if is_own:
                self._admission.force(subscriptions, [envelope])
            # The place in the gates is taken now, not when a task runs, so that one thread's calls keep their order.
            ticket = None if is_own else self._admission.take_ticket(subscriptions)
            is_in = ticket is None or self._admission.enter(subscriptions, envelope, ticket)
        except Exception as exc:  # noqa: BLE001 - raised in the thread that waits
            done.set_exception(exc)
            return
        if is_in or ticket is None:
            done.set_result(envelope.metadata)
            return

        self._publish_for(done, self._enter(subscriptions, [envelope], ticket))

    async def _enter(
        self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope], ticket: Ticket
    ) -> Sequence[AnyEnvelope]:
        await self._admission.deliver(subscriptions, envelopes, ticket)
        return envelopes

    def _publish_for(
        self, done: "Future[EventMetadata]", publishing: Coroutine[Any, Any, Sequence[AnyEnvelope]]
    ) -> None:
        """Let ``done`` tell what becomes of ``publishing``."""

        async def publish() -> None:
            try:
                (delivered,) = await publishing
            except Exception as exc:  # noqa: BLE001 - raised in the thread that waits
                done.set_exception(exc)
            else:
                done.set_result(delivered.metadata)

        task = self.life.tasks.spawn(publish(), name=f"avx-events {self.life.name}: publish from a thread")
        task.add_done_callback(lambda _: _refuse(done, self.life.name, "publish"))


def _outlet(name: str) -> Subscription:
    outlet = Subscription(name)
    outlet.close()
    return outlet


def _refuse(done: "Future[Any] | asyncio.Future[Any]", what: str, action: str) -> None:
    """Tell who waits for ``done`` that the bus was closed, if nobody told anything else."""
    if not done.done():
        done.set_exception(ClosedError(what, action))
