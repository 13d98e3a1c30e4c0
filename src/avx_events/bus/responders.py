"""Who answers requests: responders with their worker tasks, and listeners that are read.

A responder begins in the requester's own turn of the loop, as if its worker's task ran: most answer without waiting for
anything, and then cost no task switch and no future. One that waits goes on in its worker's task, which nobody but the
bus cancels: a requester that gives up does not interrupt it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import TracebackType
from types import coroutine as as_coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar, cast

from avx_events.bus.endpoints import Endpoint
from avx_events.bus.error_text import text_of
from avx_events.bus.handling import Handling, current_handling, is_current, is_inside_handler_of
from avx_events.bus.life import Life
from avx_events.bus.readers import Readers
from avx_events.core.errors import NoResponderError, RemoteError, ReplySentError, StoppedError
from avx_events.core.metadata import EventEnvelope, current_message
from avx_events.core.tasks import wake

if TYPE_CHECKING:
    from avx_events.bus.observer import Observer

# How many requests may wait before somebody looks whether their requesters do.
_FEW: Final = 64

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Pending:
    """A request whose requester waits.

    Attributes:
        envelope: The request and its metadata.
        reply: Ends the wait.
    """

    __slots__ = ("envelope", "reply")

    def __init__(self, envelope: EventEnvelope[Any], reply: "asyncio.Future[Any]") -> None:
        """Let the one who waits for ``reply`` wait."""
        self.envelope = envelope
        self.reply = reply


class Failure:
    """A reply that is an error. A future's own exception would be complained of where its requester has just gone."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        """Raise ``error`` where the request was made."""
        self.error = error


class Line(deque[Pending]):
    """Requests that wait, the oldest first; those whose requester gave up are let go from time to time."""

    __slots__ = ("_look_at",)

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()
        self._look_at = _FEW

    def join(self, pending: Pending) -> None:
        """Put ``pending`` at the end."""
        self.append(pending)
        if len(self) >= self._look_at:
            waiting = [pending for pending in self if not pending.reply.done()]
            self.clear()
            self.extend(waiting)
            self._look_at = max(2 * len(waiting), _FEW)


class Answering(Protocol):
    """What answers requests of one type."""

    @property
    def load(self) -> int:
        """Return how many requests wait for it; below 0 where it waits for one."""
        ...

    @property
    def waiting(self) -> int:
        """Return how many requests wait whose requester waits still."""
        ...

    def ask(self, envelope: EventEnvelope[Any]) -> Any:
        """Take a request.

        Returns:
            The reply, a ``Failure``, or the ``Pending`` of one that is not there yet.
        """
        ...


class ReplyCounts:
    """What became of replies.

    Attributes:
        replied: Requests that were answered in time.
        failed: Requests whose responder raised.
        late: Replies that nobody waited for any more; they were dropped.
    """

    __slots__ = ("failed", "late", "replied")

    def __init__(self) -> None:
        """Begin with none."""
        self.replied = self.failed = self.late = 0

    def give(self, pending: Pending, reply: object) -> None:
        """Answer ``pending`` with a value or a ``Failure``, or drop it where nobody waits."""
        if pending.reply.done():
            self.late += 1
            return
        if isinstance(reply, Failure):
            self.failed += 1
        else:
            self.replied += 1
        pending.reply.set_result(reply)


Serving: TypeAlias = Coroutine[Any, Any, None]


class ResponderWorker:
    """Answers one request after the other, each begun in its requester's turn and ended in a task if it must wait.

    What answers is one coroutine for all requests (``serving``). It yields the worker itself when it has answered, and
    is sent the next request then; anything else it yields is what the responder waits for. So a reply that is there at
    once costs neither a coroutine of ours nor an exception.

    Attributes:
        owner: The life of the bus.
        item: The request that is being answered; None between two.
        reply: What the last one came to: a value, or a ``Failure``.
        pending: Its requester, where it did not get the reply at once.
        task: The task; it sleeps while there is nothing to wait for.
    """

    __slots__ = ("_begun", "_context", "_serving", "_wakeup", "item", "owner", "pending", "reply", "task")

    def __init__(self, owner: object, context: Context) -> None:
        """Begin idle, in ``context``, which is this worker's alone."""
        self.owner = owner
        self.item: EventEnvelope[Any] | None = None
        self.reply: Any = None
        self.pending: Pending | None = None
        self.task: asyncio.Task[None]
        self._context = context
        self._serving: Serving
        self._begun: Any = None
        self._wakeup: asyncio.Future[None] | None = None
        context.run(current_handling.set, self)

    @property
    def is_waited_for(self) -> bool:
        """True: ``close`` lets responders finish."""
        return True

    @property
    def outer(self) -> Handling | None:
        """None: whoever asked may be gone before it is answered."""
        return None

    def __await__(self) -> Generator[Any, Any, EventEnvelope[Any]]:
        """Say that the last request is answered, and wait for the next one."""
        envelope: EventEnvelope[Any] = yield self
        return envelope

    def serve(self, serving: Serving) -> None:
        """Answer with ``serving`` from now on."""
        self._serving = serving
        self._context.run(serving.send, None)

    def begin(self, envelope: EventEnvelope[Any], loop: asyncio.AbstractEventLoop) -> Any:
        """Answer up to the first wait, in the running task's turn but as this worker's task.

        Returns:
            The worker itself where the reply is there, otherwise what it waits for.
        """
        self.item = envelope
        running = asyncio.current_task(loop)
        if running is not None:
            asyncio._leave_task(loop, running)  # noqa: SLF001 - documented for those who run tasks of their own
        asyncio._enter_task(loop, self.task)  # noqa: SLF001
        try:
            return self._context.run(self._serving.send, envelope)
        finally:
            asyncio._leave_task(loop, self.task)  # noqa: SLF001
            if running is not None:
                asyncio._enter_task(loop, running)  # noqa: SLF001

    def go_on(self, waits_for: Any, pending: Pending) -> None:
        """Let the task go on with the answer to ``pending``, which waits for ``waits_for``."""
        self.pending = pending
        self._begun = waits_for
        if self._wakeup is not None:
            wake(self._wakeup)

    async def finish_begun(self) -> None:
        """Wait until there is something to go on with, and go on to the reply."""
        while self.pending is None:
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            except asyncio.CancelledError:
                if self.pending is None:
                    raise
                self.task.cancel()  # once more, where the answer waits: it has something to clean up
        await self._rest(self._begun)

    async def answer(self, pending: Pending) -> None:
        """Answer ``pending``, which waited for a worker, in the task's own turn."""
        self.item, self.pending = pending.envelope, pending
        await self._rest(cast("Any", self._serving).send(pending.envelope))

    def end(self) -> None:
        """Answer nothing any more."""
        self.item = self.pending = None
        self._serving.close()

    @as_coroutine
    def _rest(self, waits_for: Any) -> Generator[Any, Any, None]:
        """Await the rest of an answer that waits for ``waits_for``."""
        serving = self._serving
        while waits_for is not self:
            try:
                value = yield waits_for
            except GeneratorExit:  # the loop is gone
                serving.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - it goes to the responder, whose own it is
                waits_for = serving.throw(exc)
            else:
                waits_for = cast("Any", serving).send(value)


class Responder:
    """Answers requests of one type with a function, up to ``concurrency`` at once.

    What responders of the same bus ask comes on top of that.

    Requests wait in a queue while all workers are busy. It holds one entry for each requester that waits, and those
    that gave up are passed over.
    """

    __slots__ = (
        "_concurrency",
        "_context",
        "_counts",
        "_endpoint",
        "_idle",
        "_life",
        "_queue",
        "_takes_envelope",
        "_workers",
        "name",
        "observer",
    )

    def __init__(
        self, name: str, endpoint: Endpoint, *, takes_envelope: bool, concurrency: int, life: Life, counts: ReplyCounts
    ) -> None:
        """Answer with ``endpoint``.

        Args:
            name: What errors and logs call it.
            endpoint: Called with the request, and with its envelope if it takes it.
            takes_envelope: Whether it does.
            concurrency: How many requests at once, at most.
            life: Of the bus.
            counts: Where replies are counted.
        """
        self.name = name
        self.observer: Observer | None = None
        self._endpoint = endpoint
        self._takes_envelope = takes_envelope
        self._concurrency = concurrency
        self._life = life
        self._counts = counts
        self._context: Context | None = None
        self._queue = Line()
        self._idle: list[ResponderWorker] = []
        self._workers: set[ResponderWorker] = set()

    @property
    def needs_start(self) -> bool:
        """True: it has no tasks before."""
        return True

    @property
    def load(self) -> int:
        """How many requests wait; below 0 while workers are idle."""
        return len(self._queue) - len(self._idle)

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return sum(not pending.reply.done() for pending in self._queue)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return len(self._workers) - len(self._idle)

    def ask(self, envelope: EventEnvelope[Any]) -> Any:
        """Answer at once if a worker is idle, as far as that goes; see ``Answering.ask``."""
        loop = self._life.loop or asyncio.get_running_loop()
        if not self._idle and not self._may_grow():
            pending = Pending(envelope, loop.create_future())
            self._queue.join(pending)
            return pending
        worker = self._idle.pop() if self._idle else self._spawn()
        waits_for = worker.begin(envelope, loop)
        if waits_for is not worker:
            pending = Pending(envelope, loop.create_future())
            worker.go_on(waits_for, pending)
            return pending
        self._idle.append(worker)
        reply = worker.reply
        worker.item = worker.reply = None
        if type(reply) is Failure:
            self._counts.failed += 1
        else:
            self._counts.replied += 1
        return reply

    @property
    def undone(self) -> int:
        """How many requests wait or are being answered."""
        return self.waiting + self.in_flight

    def start(self, context: Context) -> None:
        """Begin with one worker."""
        self._context = context
        self._idle.append(self._spawn())

    def is_settled(self) -> bool:
        """Tell whether no request waits or is being answered."""
        return not self.waiting and not self.in_flight

    def is_drained(self) -> bool:
        """Tell the same: every requester is worth waiting for."""
        return self.is_settled()

    def begin_stop(self) -> None:
        """Take no request from the queue any more."""
        for pending in self._queue:
            self._stop(pending)
        self._queue.clear()

    async def finish_stop(self) -> None:
        """Tell the requesters whose responders swallowed their cancellation."""
        for worker in self._workers:
            if worker.pending is not None:
                self._stop(worker.pending)

    def _may_grow(self) -> bool:
        # A responder that asks its own bus would wait for itself if all were busy, so it is answered in any case.
        return len(self._workers) < self._concurrency or is_inside_handler_of(self._life)

    def _spawn(self) -> ResponderWorker:
        context = Context() if self._context is None else self._context.copy()
        worker = ResponderWorker(self._life, context)
        worker.serve(self._serve(worker))
        worker.task = self._life.tasks.spawn(self._work(worker), name=f"avx-events {self.name}", context=context)
        worker.task.add_done_callback(lambda _: self._ended(worker))
        self._workers.add(worker)
        return worker

    def _ended(self, worker: ResponderWorker) -> None:
        """Answer for a worker whose task was cancelled, before its first turn or by somebody else than the bus."""
        if worker not in self._workers:
            return
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.pending is not None:
            self._stop(worker.pending)
        worker.end()
        self._life.look_idle()

    # Runs in the requester's turn or in the worker's task; see ResponderWorker.
    async def _serve(self, worker: ResponderWorker) -> None:
        endpoint, takes_envelope, set_message = self._endpoint, self._takes_envelope, current_message.set
        envelope: EventEnvelope[Any] | None
        while True:
            envelope = None  # an idle worker keeps nothing of the last one
            envelope = await worker
            set_message(envelope.metadata)
            try:
                if self.observer is not None:
                    with self.observer.processing(self.name, envelope, attempt=1):
                        worker.reply = await (
                            endpoint(envelope.event, envelope) if takes_envelope else endpoint(envelope.event)
                        )
                elif takes_envelope:
                    worker.reply = await endpoint(envelope.event, envelope)
                else:
                    worker.reply = await endpoint(envelope.event)
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) and not is_current(worker.task):  # the loop is gone
                    raise
                worker.reply = self._outcome_of(exc, worker)

    def _outcome_of(self, error: BaseException, worker: ResponderWorker) -> Failure:
        if isinstance(error, asyncio.CancelledError) and worker.task.cancelling():
            return Failure(StoppedError(self.name))
        return _failure_of(error)

    async def _work(self, worker: ResponderWorker) -> None:
        while True:
            await worker.finish_begun()
            self._settle(worker)
            while self._queue and not worker.task.cancelling():
                pending = self._queue.popleft()
                if not pending.reply.done():
                    await worker.answer(pending)
                    self._settle(worker)
            if worker.task.cancelling() or len(self._workers) > self._concurrency:
                self._workers.discard(worker)
                worker.end()
                self._life.look_idle()
                return
            self._idle.append(worker)
            self._life.look_idle()

    def _settle(self, worker: ResponderWorker) -> None:
        pending, reply = worker.pending, worker.reply
        worker.item = worker.pending = worker.reply = None
        if pending is not None:
            self._counts.give(pending, reply)

    def _stop(self, pending: Pending) -> None:
        if not pending.reply.done():
            pending.reply.set_result(Failure(StoppedError(self.name)))


def _failure_of(error: BaseException) -> Failure:
    remote = RemoteError(type(error).__name__, text_of(error))
    remote.__cause__ = error
    return Failure(remote)


class Reply(Generic[ReplyT]):
    """Where the reply to one request goes; ``send`` or ``fail``, once."""

    __slots__ = ("_counts", "_pending")

    def __init__(self, pending: Pending, counts: ReplyCounts) -> None:
        """Answer ``pending``."""
        self._pending: Pending | None = pending
        self._counts = counts

    @property
    def is_awaited(self) -> bool:
        """Whether the requester still waits."""
        return self._pending is not None and not self._pending.reply.done()

    async def send(self, value: ReplyT) -> None:
        """Reply ``value``; it is counted and dropped where nobody waits any more.

        Raises:
            ReplySentError: The request was answered already.
        """
        self._counts.give(self._take(), value)

    async def fail(self, error: BaseException) -> None:
        """Let the request raise ``RemoteError`` with the class name and the text of ``error``.

        Raises:
            ReplySentError: The request was answered already.
        """
        self._counts.give(self._take(), _failure_of(error))

    def _take(self) -> Pending:
        pending, self._pending = self._pending, None
        if pending is None:
            raise ReplySentError
        return pending


class Listener(Generic[RequestT, ReplyT]):
    """Requests of one type, to be read and answered: ``async for request, reply in listener``.

    Several tasks may read from one; each request goes to one of them. It ends when the bus or the listener is closed
    and what was asked before was read. ``async with listener:`` closes it at the end. Requests whose requester gave up
    are not given.
    """

    __slots__ = ("_counts", "_is_closed", "_life", "_on_close", "_queue", "_readers", "name")

    def __init__(
        self, name: str, *, life: Life, counts: ReplyCounts, on_close: Callable[["Listener[Any, Any]"], None]
    ) -> None:
        """Begin with nothing asked.

        Args:
            name: The type of the requests.
            life: Of the bus.
            counts: Where replies are counted.
            on_close: Called once, when the listener is closed by its reader.
        """
        self.name = name
        self._life = life
        self._counts = counts
        self._on_close = on_close
        self._queue = Line()
        self._readers = Readers(f"the listener of {name}")
        self._readers.loop = life.loop
        self._is_closed = False

    @property
    def needs_start(self) -> bool:
        """False: its reader runs already."""
        return False

    @property
    def load(self) -> int:
        """How many requests wait; below 0 while readers do."""
        return len(self._queue) - len(self._readers)

    @property
    def waiting(self) -> int:
        """How many requests wait for a reader."""
        return sum(not pending.reply.done() for pending in self._queue)

    def ask(self, envelope: EventEnvelope[Any]) -> Pending:
        """Put a request in line; see ``Answering.ask``."""
        pending = Pending(envelope, asyncio.get_running_loop().create_future())
        self._queue.join(pending)
        self._readers.wake_one()
        return pending

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[RequestT, Reply[ReplyT]]:
        while True:
            while self._queue:
                pending = self._queue.popleft()
                if not pending.reply.done():
                    return pending.envelope.event, Reply(pending, self._counts)
            if self._is_closed:
                raise StopAsyncIteration
            self._life.look_idle()
            await self._readers.wait()

    async def close(self) -> None:
        """Take no more requests; those not read yet fail with ``NoResponderError``. Harmless when repeated."""
        if not self._is_closed:
            self._on_close(self)
            self.begin_stop()
        for pending in self._queue:
            if not pending.reply.done():
                pending.reply.set_result(Failure(NoResponderError(self.name)))
        self._queue.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def undone(self) -> int:
        """How many requests wait for a reader."""
        return self.waiting

    def start(self, context: Context) -> None:
        """Do nothing: its reader runs already."""

    def is_settled(self) -> bool:
        """Tell whether nothing waits for a reader that is there."""
        return not (self._readers and self.waiting)

    def is_drained(self) -> bool:
        """Tell the same: without a reader, waiting changes nothing."""
        return self.is_settled()

    def begin_stop(self) -> None:
        """Let the readers come to the end."""
        self._is_closed = True
        while self._readers:
            self._readers.wake_one()

    async def finish_stop(self) -> None:
        """Leave what was asked to the reader, who may still answer it."""
