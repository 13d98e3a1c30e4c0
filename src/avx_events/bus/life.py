"""The life of a bus: which loop it belongs to, what may be done when, and how it ends without losing anything.

| state | from outside | from its own handlers | handlers | pull readers |
|---|---|---|---|---|
| open | taken, while there are no handlers | - | wait for ``start`` | read |
| running | taken | taken | run | read |
| closing | refused | taken | run until nothing is left or ``drain_timeout_s`` is over | read |
| closed | refused | refused | are gone | read what is queued, then the end |
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from enum import Enum
from threading import get_ident
from typing import Any, Final, Protocol, cast

from avx_events.bus.endpoints import Threads
from avx_events.bus.handling import is_inside_handler_of, is_waited_for_by
from avx_events.core.arguments import seconds, text
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    ClosedError,
    EngineFailedError,
    HandlerWaitError,
    NotStartedError,
    WrongLoopError,
)
from avx_events.core.metadata import current_message
from avx_events.core.tasks import Changes, TaskScope, wake

log = logging.getLogger("avx_events")

_LEAVES_WITHIN_S: Final = 1.0
"""How long others are told that nothing more is taken; whoever does not hear it in that time is away."""


class Whereabouts(Protocol):
    """Tells a hot path in one look-up whether it runs where it should; an event loop, mostly.

    Attributes:
        _thread_id: The id of the thread in which the loop of the bus runs now. It is the running thread's just where
            that loop is the running one: a thread runs one loop at a time.
    """

    @property
    def _thread_id(self) -> int | None: ...


class Nowhere:
    """Where a bus is that no event loop has used yet."""

    _thread_id = None


class AskedLoop:
    """An event loop that does not say where it runs, as asyncio's own does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask ``loop``."""
        self._loop = loop

    @property
    def _thread_id(self) -> int | None:
        return get_ident() if self._loop is asyncio._get_running_loop() else None  # noqa: SLF001 - None where none runs


class State(Enum):
    """Where a bus is in its life."""

    OPEN = "open"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


class Member(Protocol):
    """A part of a bus that lives with it: a handler with its queue, a subscriber, a responder."""

    @property
    def needs_start(self) -> bool:
        """Whether what is sent to it would lie there until the bus is started."""
        ...

    @property
    def undone(self) -> int:
        """Return how many events or requests wait for it or are with it now."""
        ...

    def start(self, context: Context) -> None:
        """Begin to work, each task in a copy of ``context``."""
        ...

    def is_settled(self) -> bool:
        """Tell whether it has nothing left to do."""
        ...

    def is_drained(self) -> bool:
        """Tell whether waiting for it would change nothing any more."""
        ...

    def begin_stop(self) -> None:
        """Begin nothing new; the tasks are cancelled next."""
        ...

    async def finish_stop(self) -> None:
        """Settle what was not done; the tasks were cancelled."""
        ...


class Life:
    """The life of one bus. It belongs to the event loop that first uses it.

    Attributes:
        name: What errors and logs call the bus.
        clock: Time.
        state: Where the bus is in its life.
        loop: The event loop; None until there is one.
        whereabouts: The same, for hot paths.
        tasks: Owns everything that runs until it is stopped.
        errands: Owns what ends by itself soon, and is given the time for it.
        threads: Where plain functions run.
    """

    __slots__ = (
        "_closed",
        "_context",
        "_drain_timeout_s",
        "_enders",
        "_failure",
        "_idle",
        "_is_late",
        "_leaving",
        "_members",
        "_on_change",
        "_on_refuse",
        "_on_stopped",
        "clock",
        "errands",
        "loop",
        "name",
        "state",
        "tasks",
        "threads",
        "whereabouts",
    )

    def __init__(
        self,
        name: str,
        *,
        drain_timeout_s: float,
        clock: Clock,
        on_change: Callable[[], None],
        on_refuse: Callable[[], None],
        on_stopped: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begin open, without members.

        Args:
            name: What errors and logs call the bus.
            drain_timeout_s: How many seconds ``close`` lets handlers work on.
            clock: Time.
            on_change: Called when what may be done has changed.
            on_refuse: Called when nothing is taken from outside any more.
            on_stopped: Awaited when all members have stopped.

        Raises:
            InvalidArgumentError: The name is no text, or the timeout is no number of seconds above 0.
        """
        self.name = text("name", name)
        self.clock = clock
        self.state = State.OPEN
        self.loop: asyncio.AbstractEventLoop | None = None
        self.whereabouts: Whereabouts = Nowhere()
        self.tasks = TaskScope(self.fail)
        self.errands = TaskScope(self.fail)
        self.threads = Threads()
        self._drain_timeout_s = seconds("drain_timeout_s", drain_timeout_s)
        self._on_change = on_change
        self._on_refuse = on_refuse
        self._on_stopped = on_stopped
        self._members: dict[Member, None] = {}
        self._context: Context | None = None
        self._idle = Changes()
        self._closed: asyncio.Future[None] | None = None
        self._enders = TaskScope(self.fail)
        self._is_late = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    # What may be done

    @property
    def takes_all(self) -> bool:
        """Whether everything is taken from everybody on the loop's thread, until ``on_change`` is called."""
        is_taking = self.state is State.RUNNING or (self.state is State.OPEN and not self._waits_for_start())
        return is_taking and self._failure is None

    def check_takes(self, action: str) -> None:
        """Raise where ``action``, which gives the bus something to do, cannot be done from here, now.

        Raises:
            ClosedError: The bus is closed, or is closing and the caller is none of its handlers.
            NotStartedError: It has handlers that nobody runs.
            EngineFailedError: It does nothing any more.
            WrongLoopError: It belongs to another thread or event loop.
        """
        self.bind(action)
        self.check_lives(action)
        if self.state is State.CLOSING and not is_inside_handler_of(self):
            raise ClosedError(self.name, action)
        if self.state is State.OPEN and self._waits_for_start():
            raise NotStartedError(self.name, action)

    def check_lives(self, action: str) -> None:
        """Raise where not even the bus's own handlers can do ``action`` any more.

        Raises:
            ClosedError: The bus is closed.
            EngineFailedError: It does nothing any more.
        """
        self.raise_failure()
        if self.state is State.CLOSED:
            raise ClosedError(self.name, action)

    def check_open(self, action: str) -> None:
        """Raise where ``action``, which changes the bus, cannot be done any more.

        Raises:
            ClosedError: The bus is closed or closing.
            WrongLoopError: It runs on another thread or event loop.
        """
        if self.state is State.RUNNING:
            self.bind(action)
        if self.state in {State.CLOSING, State.CLOSED}:
            raise ClosedError(self.name, action)

    def bind(self, action: str) -> None:
        """Make the running loop the bus's own, or check that it is.

        Raises:
            WrongLoopError: It belongs to another one, or no loop runs in this thread.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoopError(self.name, action) from None
        if self.loop is None:
            self.loop = loop
            self.whereabouts = cast("Whereabouts", loop) if hasattr(loop, "_thread_id") else AskedLoop(loop)
            self._on_change()
        elif self.loop is not loop:
            raise WrongLoopError(self.name, action)

    # Members

    def add(self, member: Member) -> None:
        """Let ``member`` live with the bus; it starts at once where the bus runs."""
        self._members[member] = None
        if self._context is not None:
            member.start(self._context)
        self._on_change()

    def remove(self, member: Member) -> None:
        """Forget ``member``, which ended by itself."""
        if member in self._members:
            del self._members[member]
            self._on_change()

    # Life

    def start(self) -> None:
        """Run the members. Harmless when repeated.

        Raises:
            ClosedError: It was closed.
            WrongLoopError: It belongs to another event loop.
        """
        self.check_open("start")
        self.bind("start")
        if self.state is State.OPEN:
            self.state = State.RUNNING
            # Workers begin without a message, whoever was handling what when the bus was started.
            context = self._context = copy_context()
            context.run(current_message.set, None)
            for member in self._members:
                member.start(context)
            self._on_change()

    async def close(self) -> None:
        """Refuse what comes from outside, let members finish, then stop everything. Harmless when repeated.

        Where it is cancelled it waits for members no longer, but still stops everything and settles what is left.

        Raises:
            HandlerWaitError: A handler of this bus calls it.
            WrongLoopError: It belongs to another event loop.
        """
        if is_waited_for_by(self):
            raise HandlerWaitError(self.name, "close")
        self.bind("close")
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closed = asyncio.get_running_loop().create_future()
        was_running = self.state is State.RUNNING
        self.state = State.CLOSING
        self._on_refuse()
        self._on_change()
        try:
            if was_running and self._failure is None:
                if self._leaving:  # until that is known elsewhere, something may come from there
                    await asyncio.wait(set(self._leaving), timeout=_LEAVES_WITHIN_S)
                await self._drain()
        finally:
            # A task of its own, so that a second cancellation leaves nothing half stopped.
            await asyncio.shield(self._enders.spawn(self._stop(), name=f"avx-events {self.name}: stop"))

    async def settled(self) -> None:
        """Return when no member has anything left to do.

        Raises:
            HandlerWaitError: A handler or delivery block of this bus calls it.
            NotStartedError: There are handlers that nobody runs.
            EngineFailedError: The bus does nothing any more.
            WrongLoopError: It belongs to another event loop.
        """
        if is_inside_handler_of(self):
            raise HandlerWaitError(self.name, "settle")
        self.bind("settle")
        if self.state is State.OPEN and self._waits_for_start():
            raise NotStartedError(self.name, "settle")
        while not all(member.is_settled() for member in self._members):
            self.raise_failure()
            await self._idle.wait()
        self.raise_failure()

    def leave(self, telling: Coroutine[Any, Any, None], *, what: str) -> None:
        """Have it told elsewhere that the bus takes nothing more; members finish what comes until then."""
        task = self.errands.spawn(telling, name=f"avx-events {self.name}: {what}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def look_idle(self) -> None:
        """Let those look again who wait until nothing is left to do. Members call it when they have nothing."""
        self._idle.tell()

    def fail(self, error: BaseException) -> None:
        """End by an error that is no handler's: from now on everybody is told so."""
        if self._failure is None and self.state is not State.CLOSED:
            undone = sum(member.undone for member in self._members)
            log.critical("%s does nothing any more, %d things are left undone: %r", self.name, undone, error)
            self._failure = error
            self._on_refuse()
            self._on_change()
            self.look_idle()

    def raise_failure(self) -> None:
        """Raise if the bus failed.

        Raises:
            EngineFailedError: It did.
        """
        if self._failure is not None:
            raise EngineFailedError(self.name, repr(self._failure)) from self._failure

    def refusal(self, action: str) -> Exception:
        """Return what those get who wait to do ``action`` when nothing is taken any more."""
        try:
            self.raise_failure()
        except EngineFailedError as failed:
            return failed
        return ClosedError(self.name, action)

    def _waits_for_start(self) -> bool:
        return any(member.needs_start for member in self._members)

    async def _drain(self) -> None:
        timer = self.clock.call_later(self._drain_timeout_s, self._be_late)
        try:
            while not (self._is_late or all(member.is_drained() for member in self._members)):
                self.raise_failure()
                await self._idle.wait()
        except EngineFailedError:
            log.warning("%s: failed while it was closing", self.name)
        finally:
            timer.cancel()
        if self._is_late:
            log.warning("%s: handlers did not finish within %g s", self.name, self._drain_timeout_s)

    def _be_late(self) -> None:
        self._is_late = True
        self.look_idle()

    async def _stop(self) -> None:
        self.state = State.CLOSED
        self._on_change()
        members = list(self._members)
        for member in members:
            member.begin_stop()
        try:
            stuck = await self.tasks.cancel() + await self.errands.finish()
            if stuck:
                names = ", ".join(sorted(task.get_name() for task in stuck))
                log.error("%s: handlers swallowed their cancellation and still run: %s", self.name, names)
        finally:  # the loop may end, and cancel this too
            for member in members:
                await member.finish_stop()
            if self._on_stopped is not None:
                await self._on_stopped()
            self.threads.close()
            self.look_idle()
            if self._closed is not None:
                wake(self._closed)
