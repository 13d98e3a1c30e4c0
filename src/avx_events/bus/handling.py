"""Runs a handler over its subscription: worker tasks, deadlines, and what is known to code inside of a handler.

A worker takes events until there are none, so that a busy handler costs no task, no future and no turn of the loop for
each event. Workers are as many as suspend at once, up to ``concurrency``.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.bus.work import Work
from avx_events.core.clock import Clock, Timer
from avx_events.core.errors import HandlerTimeoutError
from avx_events.core.metadata import current_message
from avx_events.core.tasks import CLEANUP_GRACE_S, OwnedTask, TaskScope

if TYPE_CHECKING:
    from avx_events.bus.subscription import AnyEnvelope

log = logging.getLogger("avx_events")

Endpoint = Callable[..., Awaitable[object]]


class Handling(Protocol):
    """One place where events are handled one after the other: a worker, or a delivery block.

    Attributes:
        owner: The life of the bus whose events they are.
        item: The event that is being handled; None between two.
        is_waited_for: Whether closing the bus waits for it, so that it cannot close the bus itself.
        outer: What its code was called by, where that is a handler or delivery block too.
    """

    @property
    def owner(self) -> object:
        """Return the life of the bus."""
        ...

    @property
    def item(self) -> object | None:
        """Return what is being handled."""
        ...

    @property
    def is_waited_for(self) -> bool:
        """Return whether ``close`` waits for it."""
        ...

    @property
    def outer(self) -> "Handling | None":
        """Return what it is inside of."""
        ...


current_handling: ContextVar[Handling | None] = ContextVar("avx_current_handling", default=None)


def is_inside_handler_of(owner: object) -> bool:
    """Tell whether the running code was called by a handler or delivery block of ``owner``'s bus."""
    handling = current_handling.get()
    while handling is not None:
        if handling.owner is owner and handling.item is not None:
            return True
        handling = handling.outer
    return False


def is_waited_for_by(owner: object) -> bool:
    """Tell whether closing ``owner``'s bus would wait for the running code."""
    handling = current_handling.get()
    while handling is not None:
        if handling.owner is owner and handling.item is not None and handling.is_waited_for:
            return True
        handling = handling.outer
    return False


def is_current(task: asyncio.Task[Any]) -> bool:
    """Tell whether the running code is that of ``task``; a coroutine that is closed because its loop is gone is not."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run.

    Attributes:
        concurrency: How many events at once, at most.
        timeout_s: How many seconds one attempt may take; None is for ever.
        takes_envelope: Whether the handler takes the envelope as its second argument.
    """

    concurrency: int = 1
    timeout_s: float | None = None
    takes_envelope: bool = False


class Worker:
    """One task that handles events of one subscription, one after the other.

    Attributes:
        owner: The life of the bus.
        task: The task; None until its first turn.
        cancelling: Tells how often somebody wanted the task to end, whatever its handler made of that.
        item: What is being handled, or what was being handled when the task was cancelled.
        deadline: When the attempt must be over, in the clock's monotonic seconds.
        grace: Runs out when an attempt that was cancelled for being late does not end; None for others.
        is_abandoned: The handler swallowed its cancellation; what it still does is of no interest any more.
    """

    __slots__ = ("cancelling", "deadline", "grace", "is_abandoned", "item", "owner", "task")

    def __init__(self, owner: object) -> None:
        """Begin idle."""
        self.owner = owner
        self.task: OwnedTask | None = None
        self.cancelling: Callable[[], int] = int
        self.item: AnyEnvelope | Work | None = None
        self.deadline = math.inf
        self.grace: Timer | None = None
        self.is_abandoned = False

    @property
    def is_waited_for(self) -> bool:
        """True: ``close`` lets handlers finish."""
        return True

    @property
    def outer(self) -> Handling | None:
        """None: a task of the bus is inside of nothing."""
        return None

    def enter(self) -> None:
        """Be the running task."""
        task = asyncio.current_task()
        if isinstance(task, OwnedTask):
            self.task, self.cancelling = task, task.cancelling
        current_handling.set(self)

    def leave(self) -> None:
        """End the task's part in this bus, whatever it still does."""
        self.is_abandoned = True
        self.item = None
        if self.grace is not None:
            self.grace.cancel()

    def end_lateness(self) -> bool:
        """Return whether the attempt was cancelled because it was late; it is over now."""
        self.deadline = math.inf
        if self.grace is None or self.task is None:
            return False
        self.grace.cancel()
        self.grace = None
        self.task.uncancel()
        return True


class HandlerRunner:
    """Runs one handler for the events that a dispatcher gives out."""

    __slots__ = (
        "_clock",
        "_context",
        "_endpoint",
        "_is_stopping",
        "_left",
        "_on_idle",
        "_on_lost",
        "_options",
        "_owner",
        "_tasks",
        "_watch",
        "_workers",
        "dispatcher",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        endpoint: Endpoint,
        options: HandlerOptions,
        *,
        owner: object,
        tasks: TaskScope,
        clock: Clock,
        on_idle: Callable[[], None],
        on_lost: Callable[[BaseException], None],
    ) -> None:
        """Prepare to run ``endpoint``.

        Args:
            dispatcher: Whose events.
            endpoint: Called with the event, and with its envelope where ``options`` says so.
            options: How it is run.
            owner: The life of the bus.
            tasks: Owns the workers.
            clock: Gives the deadlines.
            on_idle: Called when a worker found nothing to do.
            on_lost: Called when a worker was cancelled by somebody else than the bus.
        """
        self.dispatcher = dispatcher
        self._endpoint = endpoint
        self._options = options
        self._owner = owner
        self._clock = clock
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._tasks = tasks
        self._workers: set[Worker] = set()
        self._watch: Timer | None = None
        self._context: Context | None = None
        self._is_stopping = False
        self._left: list[Work | AnyEnvelope] = []

    @property
    def needs_start(self) -> bool:
        """True: nobody else takes its events."""
        return True

    @property
    def in_flight(self) -> int:
        """How many events are being handled now."""
        return sum(worker.item is not None for worker in self._workers)

    @property
    def undone(self) -> int:
        """How many events wait or are being handled."""
        return self.statistics().queued + self.in_flight

    def start(self, context: Context) -> None:
        """Run, on the running loop; every worker begins in a copy of ``context``."""
        self._context = context
        self._spawn()

    def is_settled(self) -> bool:
        """Tell whether no event waits or is being handled."""
        return self.dispatcher.is_empty() and not self.in_flight

    def is_drained(self) -> bool:
        """Tell the same: everything is worth waiting for."""
        return self.is_settled()

    def statistics(self) -> SubscriptionStatistics:
        """Return the counts of the handler and its queue."""
        return self.dispatcher.statistics(in_flight=self.in_flight)

    def begin_stop(self) -> None:
        """Plan no attempt any more; the tasks are cancelled by their owner next."""
        self._is_stopping = True
        if self._watch is not None:
            self._watch.cancel()
        self.dispatcher.subscription.close()
        queue = self.dispatcher.subscription.queue
        self._left += [*self.dispatcher.take_waiting(), *queue]
        queue.clear()

    async def finish_stop(self) -> None:
        """Make dead letters of what is not done, now that the tasks were cancelled.

        The event of a handler that swallowed its cancellation counts as not done.
        """
        interrupted = [_attempted(worker.item) for worker in self._workers if worker.item is not None]
        for worker in self._workers:
            worker.leave()
        self._workers.clear()
        # An attempt that ended while it was cancelled may have planned another.
        left = [*interrupted, *self.dispatcher.take_waiting(), *self._left]
        self._left.clear()
        await self.dispatcher.stop(left)

    def _spawn(self, failed: tuple[Work, HandlerTimeoutError] | None = None) -> None:
        worker = Worker(self._owner)
        worker.item = None if failed is None else failed[0]
        self._workers.add(worker)
        context = None if self._context is None else self._context.copy()
        name = f"avx-events {self.dispatcher.name}"
        self._tasks.spawn(self._work(worker, failed), name=name, context=context)

    async def _work(self, worker: Worker, failed: tuple[Work, HandlerTimeoutError] | None) -> None:
        """Handle events until stopped; settle first the attempt that ``failed`` and whose own worker is lost."""
        worker.enter()
        subscription = self.dispatcher.subscription
        try:
            if failed is not None:
                await self.dispatcher.fail(*failed)
                worker.item = None
            while not self._is_over(worker):
                # One idle worker more than are busy: who else would see an event that comes while all are?
                if not subscription.receivers and len(self._workers) < self._options.concurrency:
                    self._spawn()
                await self._handle_what_is_there(worker)
                if not self._is_over(worker):
                    self._on_idle()
                    if worker.cancelling():
                        await self._go_on_or_end(worker)
                    else:
                        await subscription.wait()
        except asyncio.CancelledError:
            if not (self._is_stopping or worker.is_abandoned):
                name = self.dispatcher.name
                self._on_lost(RuntimeError(f"a worker of {name} was cancelled; did the loop end before the bus?"))
            raise

    async def _go_on_or_end(self, worker: Worker) -> None:
        """Go on where it was only the handler that cancelled its own task, and not somebody who wants it to end."""
        if worker.task is None or not worker.task.forgive():
            raise asyncio.CancelledError
        with suppress(asyncio.CancelledError):  # a task that takes its wish back may be told of it still
            await asyncio.sleep(0)
        if worker.cancelling():
            raise asyncio.CancelledError

    def _is_over(self, worker: Worker) -> bool:
        return worker.is_abandoned or self._is_stopping

    # The hot path: bench/handlers.py. Without keys to keep apart and with nothing waiting, an event goes from the queue
    # to the handler; everything else is _attempt's.
    async def _handle_what_is_there(self, worker: Worker) -> None:  # noqa: C901, PLR0912 - the hot path: no calls
        dispatcher, endpoint, options = self.dispatcher, self._endpoint, self._options
        subscription, ready, lanes = dispatcher.subscription, dispatcher.ready, dispatcher.lanes
        queue = subscription.queue
        has_lanes, takes_envelope, has_deadline = (
            options.concurrency > 1 or dispatcher.gives_works or dispatcher.observer is not None,
            options.takes_envelope,
            options.timeout_s is not None,
        )
        set_message, pop, cancelling = current_message.set, queue.popleft, worker.cancelling
        while queue or ready:
            if cancelling():  # its handler went on all the same
                await self._go_on_or_end(worker)
            if has_lanes or ready or lanes:
                work = dispatcher.take()
                if work is None:
                    return
                await self._attempt(worker, work)
                if worker.is_abandoned:
                    return
                continue
            envelope = pop()
            if len(queue) <= subscription.wake_at:
                subscription.admit_waiting()
            worker.item = envelope
            set_message(envelope.metadata)
            if has_deadline:
                self._set_deadline(worker)
            try:
                if takes_envelope:
                    await endpoint(envelope.event, envelope)
                else:
                    await endpoint(envelope.event)
            except BaseException as exc:  # noqa: BLE001 - the handler boundary
                work = worker.item = Work(envelope)
                work.attempts = 1
                await self._raised(worker, work, exc)
                if worker.is_abandoned:
                    return
            else:
                if has_deadline and worker.end_lateness():
                    await self._went_on(worker, Work(envelope))
                elif not worker.is_abandoned:
                    dispatcher.handled += 1
                if worker.is_abandoned:
                    return
            worker.item = None

    async def _attempt(self, worker: Worker, work: Work) -> None:
        dispatcher, envelope = self.dispatcher, work.envelope
        worker.item = work
        if work.burial is not None:
            await dispatcher.bury(work)
            worker.item = None
            return
        if work.must_count and not await work.count(may_wait=True):
            dispatcher.drop(work)
            worker.item = None
            return
        work.attempts += 1
        current_message.set(envelope.metadata)
        if self._options.timeout_s is not None:
            self._set_deadline(worker)
        try:
            work.raise_key_error()
            if dispatcher.observer is not None:
                with dispatcher.observer.processing(dispatcher.name, envelope, attempt=work.attempts):
                    await self._call(envelope)
            elif self._options.takes_envelope:
                await self._endpoint(envelope.event, envelope)
            else:
                await self._endpoint(envelope.event)
        except BaseException as exc:  # noqa: BLE001 - the handler boundary
            await self._raised(worker, work, exc)
        else:
            if worker.end_lateness():
                await self._went_on(worker, work)
            elif not worker.is_abandoned:
                await dispatcher.succeed(work)
        worker.item = None

    async def _call(self, envelope: "AnyEnvelope") -> None:
        if self._options.takes_envelope:
            await self._endpoint(envelope.event, envelope)
        else:
            await self._endpoint(envelope.event)

    async def _raised(self, worker: Worker, work: Work, error: BaseException) -> None:
        """Settle an attempt that raised, unless it was the task that was cancelled and not the attempt."""
        task = worker.task
        if worker.is_abandoned:
            return
        if task is None or not is_current(task):  # the loop is gone: nothing can be awaited
            raise error
        if worker.end_lateness():
            error = self._too_late(error)
        if isinstance(error, asyncio.CancelledError) and task.cancelling() and not task.forgive():
            raise error
        await self.dispatcher.fail(work, error)

    async def _went_on(self, worker: Worker, work: Work) -> None:
        """Settle an attempt that was cut off for being late, though its handler made nothing of that."""
        if not worker.is_abandoned:
            worker.item = _attempted(work)
            await self.dispatcher.fail(work, self._too_late(RuntimeError("the handler swallowed its cancellation")))

    def _too_late(self, cause: BaseException) -> HandlerTimeoutError:
        error = HandlerTimeoutError(self.dispatcher.name, self._options.timeout_s or 0.0)
        error.__cause__ = cause  # its traceback says where the handler was
        return error

    # Deadlines: one timer for all workers, set when there is none and for the earliest. A handler that is done before
    # it fires costs a reading of the clock.

    def _set_deadline(self, worker: Worker) -> None:
        timeout_s = self._options.timeout_s or 0.0
        worker.deadline = self._clock.monotonic() + timeout_s
        if self._watch is None:
            self._watch = self._clock.call_later(timeout_s, self._look_for_late)

    def _look_for_late(self) -> None:
        self._watch = None
        now = self._clock.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            if worker.task is not None and is_current(worker.task):  # it moves its clock itself
                worker.deadline = now + (self._options.timeout_s or 0.0)
            else:
                self._interrupt(worker)
        next_deadline = min((worker.deadline for worker in self._workers), default=math.inf)
        if next_deadline < math.inf:
            self._watch = self._clock.call_later(max(next_deadline - now, 0.0), self._look_for_late)

    def _interrupt(self, worker: Worker) -> None:
        if worker.item is None or worker.task is None:
            worker.deadline = math.inf
            return
        worker.deadline = math.inf
        worker.grace = self._clock.call_later(CLEANUP_GRACE_S, partial(self._abandon, worker))
        worker.task.cancel()

    def _abandon(self, worker: Worker) -> None:
        """Go on without a worker whose handler swallowed its cancellation; its attempt failed."""
        item, task = worker.item, worker.task
        if item is None or task is None or self._is_stopping:
            return
        log.error("%s swallowed its cancellation and still runs; it is left to itself", self.dispatcher.name)
        worker.leave()
        self._workers.discard(worker)
        self._tasks.release(task)
        work = _attempted(item)
        self._spawn((work, self._too_late(RuntimeError("the handler swallowed its cancellation"))))


def _attempted(item: "AnyEnvelope | Work") -> Work:
    """Return ``item`` with the attempt that runs counted, which the hot path leaves out."""
    work = item if isinstance(item, Work) else Work(item)
    work.attempts = max(work.attempts, 1)
    return work
