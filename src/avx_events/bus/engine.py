"""What every bus is made of: its loop, its consumers, the door to their queues, and its life from start to close.

| state | publish | handlers | subscribers |
|---|---|---|---|
| open | yes, while there are no handlers | wait for ``start`` | read |
| running | yes | run | read |
| closing | from handlers only | run until nothing is left or ``drain_timeout_s`` is over | read |
| closed | no | are gone | read what is queued, then the end |
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from enum import Enum
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

from avx_events.bus.admission import Admission
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.dispatcher import Dispatcher, KeyFunction
from avx_events.bus.endpoints import Threads, endpoint_for
from avx_events.bus.handling import HandlerOptions, HandlerRunner, is_inside_handler_of
from avx_events.bus.statistics import BusStatistics, SubscriptionStatistics, added, lasting, total
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.subscription import AnyEnvelope, Subscription
from avx_events.core.arguments import optional, seconds, text, whole
from avx_events.core.callables import describe
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    ClosedError,
    DuplicateHandlerError,
    EngineFailedError,
    HandlerWaitError,
    InvalidArgumentError,
    NoHandlerError,
    NotStartedError,
    WrongLoopError,
)
from avx_events.core.metadata import EventMetadata, current_message
from avx_events.core.policy import ONE_ATTEMPT, Overflow, Retry
from avx_events.core.tasks import TaskScope

log = logging.getLogger("avx_events")

EventT = TypeVar("EventT")


class State(Enum):
    """Where a bus is in its life."""

    OPEN = "open"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


class Engine:
    """The delivery engine of one bus. It belongs to the event loop that first uses it.

    Attributes:
        name: What errors and logs call the bus.
        clock: Time.
        dead_letters: Where events go that failed for good; None is the log.
        state: Where the bus is in its life.
        thread: The id of the loop's thread; 0 until there is one.
    """

    def __init__(
        self,
        name: str,
        *,
        dead_letters: DeadLetterQueue | None,
        drain_timeout_s: float,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        """Begin open, without consumers.

        Args:
            name: What errors and logs call the bus.
            dead_letters: Where events go that failed for good; None is the log.
            drain_timeout_s: How many seconds ``close`` lets handlers work on.
            clock: Time.
            on_change: Called when what a publish may do has changed: a consumer more or less, another state.

        Raises:
            InvalidArgumentError: The timeout is no number of seconds above 0, or the queue is none.
        """
        optional("dead_letter_queue", dead_letters, DeadLetterQueue)
        self.name = name
        self.clock = clock
        self.dead_letters = dead_letters
        self.state = State.OPEN
        self.thread = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain_timeout_s = seconds("drain_timeout_s", drain_timeout_s)
        self._on_change = on_change
        self._admission = Admission()
        self._runners: dict[str, HandlerRunner] = {}
        self._subscribers: dict[str, Subscriber[Any]] = {}
        self._ended = SubscriptionStatistics()
        self._threads = Threads()
        self._tasks = TaskScope(self._crashed)
        self._context: Context | None = None
        self._idle: set[asyncio.Future[None]] = set()
        self._closed: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._next_number = 1

    # Life

    def start(self) -> None:
        """Run the handlers. Harmless when repeated.

        Raises:
            ClosedError: It was closed.
            WrongLoopError: It belongs to another event loop.
        """
        self.check_usable("start")
        if self.state is State.OPEN:
            self.state = State.RUNNING
            # Workers begin without a message, whoever was handling what when the bus was started.
            context = self._context = copy_context()
            context.run(current_message.set, None)
            for runner in self._runners.values():
                runner.start(context)
            self._on_change()

    async def close(self) -> None:
        """Refuse what comes from outside, let handlers finish, then stop everything. Harmless when repeated.

        Raises:
            HandlerWaitError: A handler of this bus calls it.
            WrongLoopError: It belongs to another event loop.
        """
        if is_inside_handler_of(self) and not self._is_inside_delivery():
            raise HandlerWaitError(self.name, "close")
        self._bind("close")
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closed = asyncio.get_running_loop().create_future()
        was_running = self.state is State.RUNNING
        self.state = State.CLOSING
        self._admission.close()
        self._on_change()
        try:
            if was_running and self._failure is None:
                await self._drain()
        finally:
            await self._stop()
            self._closed.set_result(None)

    async def settled(self) -> None:
        """Return when no event waits for a handler or an open delivery, nor is in one.

        Raises:
            HandlerWaitError: A handler of this bus calls it.
            NotStartedError: There are handlers that nobody runs.
            EngineFailedError: The bus delivers nothing any more.
            WrongLoopError: It belongs to another event loop.
        """
        if is_inside_handler_of(self):
            raise HandlerWaitError(self.name, "settle")
        self._bind("settle")
        if self.state is State.OPEN and self._runners:
            raise NotStartedError(self.name, "settle")
        while not self._is_settled():
            self._raise_failure()
            await self._until_idle()
        self._raise_failure()

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
    ) -> Subscription:
        """Run ``function`` for what its subscription, which is returned, will be given.

        Raises:
            ClosedError: The bus is closed.
            DuplicateHandlerError: Another consumer has its name.
            HandlerDefinitionError: The function cannot be called with an event.
            InvalidArgumentError: An option is outside its range.
            WrongLoopError: The bus runs on another event loop.
        """
        self.check_usable("add a handler", binds=self.state is State.RUNNING)
        if not callable(function):
            raise InvalidArgumentError("handler", function, expected="a function")
        most = whole("concurrency", concurrency, least=1)
        dispatcher = self._new_dispatcher(
            name or describe(function), retry=retry, key=key, capacity=capacity, overflow=overflow
        )
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        endpoint, takes_envelope = endpoint_for(function, self._threads, most=most)
        options = HandlerOptions(concurrency=most, timeout_s=timeout_s, takes_envelope=takes_envelope)
        runner = HandlerRunner(
            dispatcher,
            endpoint,
            options,
            owner=self,
            tasks=self._tasks,
            clock=self.clock,
            on_idle=self._look_idle,
            on_lost=self._crashed,
        )
        self._runners[dispatcher.name] = runner
        if self._context is not None:
            runner.start(self._context)
        self._on_change()
        return dispatcher.subscription

    def add_subscriber(
        self,
        *,
        name: str | None,
        retry: Retry | None,
        key: KeyFunction | None,
        capacity: int,
        overflow: Overflow,
        on_close: Callable[[Subscription], None],
    ) -> Subscriber[Any]:
        """Return a subscriber; ``on_close`` is called with its subscription when its reader closes it.

        Raises:
            ClosedError: The bus is closed.
            DuplicateHandlerError: Another consumer has its name.
            InvalidArgumentError: An option is outside its range.
            WrongLoopError: The bus belongs to another event loop.
        """
        self.check_usable("subscribe")
        if name is None:
            name = f"subscriber-{self._next_number}"
            self._next_number += 1
        dispatcher = self._new_dispatcher(name, retry=retry, key=key, capacity=capacity, overflow=overflow)

        def forget(subscriber: Subscriber[Any]) -> None:
            del self._subscribers[subscriber.name]
            self._ended = added(self._ended, lasting(subscriber.statistics()))
            on_close(subscriber.dispatcher.subscription)
            self._on_change()

        subscriber: Subscriber[Any] = Subscriber(dispatcher, owner=self, on_idle=self._look_idle, on_close=forget)
        self._subscribers[name] = subscriber
        self._on_change()
        return subscriber

    # Publishing

    @property
    def accepts_all(self) -> bool:
        """Whether everything may be published without asking again, until ``on_change`` is called."""
        is_open = self.state is State.RUNNING or (self.state is State.OPEN and not self._runners)
        return is_open and self._failure is None

    def check_can_publish(self, action: str = "publish") -> None:
        """Raise where nothing can be published from here, now.

        Raises:
            ClosedError: The bus is closed, or is closing and the caller is none of its handlers.
            NotStartedError: It has handlers that nobody runs.
            EngineFailedError: It delivers nothing any more.
            WrongLoopError: It belongs to another thread or event loop.
        """
        self._bind(action)
        self._raise_failure()
        if self.state is State.CLOSED or (self.state is State.CLOSING and not is_inside_handler_of(self)):
            raise ClosedError(self.name, action)
        if self.state is State.OPEN and self._runners:
            raise NotStartedError(self.name, action)

    async def deliver(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        """Give ``envelopes`` to ``subscriptions``, waiting for room where the caller is no handler of this bus.

        Raises:
            SubscriptionFullError: One refuses.
            ClosedError: The bus was closed meanwhile.
        """
        if is_inside_handler_of(self):
            self._admission.force(subscriptions, envelopes)
        else:
            await self._admission.deliver(subscriptions, envelopes, self._admission.take_ticket(subscriptions))

    def deliver_now(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        """Give ``envelopes`` to ``subscriptions`` without waiting.

        Raises:
            SubscriptionFullError: There is no room; nobody got anything.
        """
        if is_inside_handler_of(self):
            self._admission.force(subscriptions, envelopes)
        else:
            self._admission.offer(subscriptions, envelopes)

    def deliver_threadsafe(
        self, envelope: AnyEnvelope, *, find: Callable[[AnyEnvelope], Sequence[Subscription]], count: Callable[[], None]
    ) -> "Future[EventMetadata]":
        """Deliver from any thread; the future tells when the envelope is in.

        Args:
            envelope: What to deliver.
            find: Called on the loop, gives the subscriptions.
            count: Called on the loop once it is in.

        Raises:
            NotStartedError: The bus has no event loop yet.
            ClosedError: Its event loop is closed.
        """
        done: Future[EventMetadata] = Future()
        if self._loop is None:
            raise NotStartedError(self.name, "publish from a thread")
        is_own = is_inside_handler_of(self)  # a handler that runs in a thread
        try:
            self._loop.call_soon_threadsafe(partial(self._arrive, envelope, done, find, count, is_own=is_own))
        except RuntimeError as exc:
            raise ClosedError(self.name, "publish") from exc
        return done

    # Dead letters and figures

    async def redrive(self, letter: DeadLetter | str) -> bool:
        """Give a dead letter back to the handler that failed; False where it is being redriven already.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: The bus has no such handler, or no dead letter queue.
            InvalidArgumentError: Its bytes could not be decoded: there is no event to handle.
            NotStartedError: Nobody runs the handlers.
            ClosedError: The bus is closed.
        """
        self.check_can_publish("redrive")
        if self.dead_letters is None:
            raise NoHandlerError("dead letters: the bus has no dead_letter_queue")
        current = await self.dead_letters.get(letter if isinstance(letter, str) else letter.id)
        dispatcher = self._dispatcher_of(current.handler)
        if current.envelope is None:
            raise InvalidArgumentError("letter", current.id, expected="one with an envelope, this one is undecodable")
        claimed = await self.dead_letters.claim(current.id)
        if claimed is None or claimed.envelope is None:
            return False
        if self.state is State.CLOSED:
            await self.dead_letters.release(claimed.id)
            raise ClosedError(self.name, "redrive")
        dispatcher.redrive(claimed, claimed.envelope)
        return True

    def statistics(self, published: int) -> BusStatistics:
        """Return the counts of the bus."""
        consumers: dict[str, SubscriptionStatistics] = {}
        for name, runner in self._runners.items():
            consumers[name] = runner.statistics()
        for name, subscriber in self._subscribers.items():
            consumers[name] = subscriber.statistics()
        return total(published, self._ended, consumers)

    def check_usable(self, action: str, *, binds: bool = True) -> None:
        """Raise where ``action`` cannot be done any more, or not from here.

        Raises:
            ClosedError: The bus is closed or closing.
            WrongLoopError: It belongs to another thread or event loop.
        """
        if binds:
            self._bind(action)
        if self.state in {State.CLOSING, State.CLOSED}:
            raise ClosedError(self.name, action)

    def _bind(self, action: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoopError(self.name, action) from None
        if self._loop is None:
            self._loop, self.thread = loop, get_ident()
            self._on_change()
        elif self._loop is not loop:
            raise WrongLoopError(self.name, action)

    def _new_dispatcher(
        self, name: str, *, retry: Retry | None, key: KeyFunction | None, capacity: int, overflow: Overflow
    ) -> Dispatcher:
        text("name", name)
        if name in self._runners or name in self._subscribers:
            raise DuplicateHandlerError(f"the name {name!r}", existing="another of this bus", new="a second one")
        optional("retry", retry, Retry)
        if key is not None and not callable(key):
            raise InvalidArgumentError("key", key, expected="a function from an event to its key")
        return Dispatcher(
            Subscription(name, capacity=capacity, overflow=overflow),
            retry=ONE_ATTEMPT if retry is None else retry,
            key=key,
            dead_letters=self.dead_letters,
            clock=self.clock,
        )

    def _dispatcher_of(self, name: str) -> Dispatcher:
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
        count: Callable[[], None],
        *,
        is_own: bool,
    ) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            if not is_own:
                self.check_can_publish()
            subscriptions = find(envelope)
            if is_own:
                self._admission.force(subscriptions, [envelope])
            # The place in the gates is taken now, not when a task runs, so that one thread's calls keep their order.
            ticket = None if is_own else self._admission.take_ticket(subscriptions)
            is_in = ticket is None or self._admission.enter(subscriptions, envelope, ticket)
        except Exception as exc:  # noqa: BLE001 - raised in the thread that waits
            done.set_exception(exc)
            return
        if is_in or ticket is None:
            count()
            done.set_result(envelope.metadata)
            return

        async def wait_for_room() -> None:
            try:
                await self._admission.deliver(subscriptions, [envelope], ticket)
            except Exception as exc:  # noqa: BLE001 - raised in the thread that waits
                done.set_exception(exc)
            else:
                count()
                done.set_result(envelope.metadata)

        task = self._tasks.spawn(wait_for_room(), name=f"avx-events {self.name}: publish from a thread")
        task.add_done_callback(lambda _: _refuse(done, self.name))

    # Endings

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                while not self._is_drained():
                    self._raise_failure()
                    await self._until_idle()
        except TimeoutError:
            log.warning("%s: handlers did not finish within %g s", self.name, self._drain_timeout_s)
        except EngineFailedError:
            log.warning("%s: failed while it was closing", self.name)

    async def _stop(self) -> None:
        self.state = State.CLOSED
        self._on_change()
        for subscriber in self._subscribers.values():
            subscriber.dispatcher.subscription.close()
        for runner in self._runners.values():
            runner.dispatcher.subscription.close()
        for runner in self._runners.values():
            runner.begin_stop()
        stuck = await self._tasks.cancel()
        if stuck:
            names = ", ".join(sorted(task.get_name() for task in stuck))
            log.error("%s: handlers swallowed their cancellation and still run: %s", self.name, names)
        for runner in self._runners.values():
            await runner.finish_stop()
        for subscriber in self._subscribers.values():
            await subscriber.open_deliveries.stop()
        self._threads.close()
        self._look_idle()

    def _crashed(self, error: BaseException) -> None:
        if self._failure is None and self.state is not State.CLOSED:
            log.critical("%s delivers nothing any more: %r", self.name, error)
            self._failure = error
            self._admission.close()
            self._on_change()
            self._look_idle()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise EngineFailedError(self.name, repr(self._failure)) from self._failure

    # Idleness

    def _look_idle(self) -> None:
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)

    async def _until_idle(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.add(waiter)
        try:
            await waiter
        finally:
            self._idle.discard(waiter)

    def _is_settled(self) -> bool:
        return all(runner.is_settled() for runner in self._runners.values()) and all(
            subscriber.open_deliveries.is_settled() for subscriber in self._subscribers.values()
        )

    def _is_drained(self) -> bool:
        return all(runner.is_settled() for runner in self._runners.values()) and all(
            open_deliveries.is_settled() or not open_deliveries.can_settle() for open_deliveries in self._all_open()
        )

    def _all_open(self) -> Iterable[Any]:
        return (subscriber.open_deliveries for subscriber in self._subscribers.values())

    def _is_inside_delivery(self) -> bool:
        task = asyncio.current_task()
        return any(open_deliveries.is_in_block(task) for open_deliveries in self._all_open())


def _refuse(done: "Future[EventMetadata]", what: str) -> None:
    if not done.done():
        done.set_exception(ClosedError(what, "publish"))
