"""Two ways to run what blocks on the one connection that writes: on a thread of its own, or on the loop itself.

Both take appends in groups, one commit for all that wait, and other work between the groups. While a transaction is
open (``hold`` to ``release``) no group is written.
"""

import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from avx_events.core.errors import ClosedError
from avx_events.storage.sqlite.log_writer import LogWriter, Member, Outcome
from avx_events.storage.sqlite.starvation import StarvationGuard, cpu_clock_of
from avx_events.store.ports import AppendResult, NewRecordTuple

ResultT = TypeVar("ResultT")

Work: TypeAlias = Callable[[sqlite3.Connection], ResultT]
Waiting: TypeAlias = tuple["asyncio.Future[AppendResult]", str, Sequence[NewRecordTuple], int | None]
"""An append whose caller waits for the future."""

Announce: TypeAlias = Callable[[int], None]

# Appends in one commit. More are no faster, and the first of them would wait for the last.
_MOST_MEMBERS: Final = 2_000
_MOST_RECORDS: Final = 10_000
# How often a thread that has nothing to do looks whether its loop is still there, in seconds.
_LONGEST_SLEEP_S: Final = 1.0
# Of the loop, for a thread that does not get the processor.
_LONGEST_STANDSTILL_S: Final = 0.001


class Writer(Protocol):
    """Runs what blocks on the writing connection, one thing at a time, in order."""

    @property
    def name(self) -> str:
        """``"thread"`` or ``"inline"``."""
        ...

    @property
    def standstills(self) -> int:
        """How often the loop stood still for a moment, so that the thread got on; see ``StarvationGuard``."""
        ...

    def submit(self, waiting: Waiting) -> None:
        """Write an append with the next group; its future tells the outcome."""
        ...

    async def run(self, work: Work[ResultT]) -> ResultT:
        """Do ``work`` between two groups, or in the transaction that is open, and return what it returns.

        Once begun it is done to its end, also when the caller is cancelled.
        """
        ...

    async def run_at_once(self, work: Work[ResultT]) -> ResultT:
        """Do ``work`` as ``run`` does, and let the loop stand still until a thread has begun: some 50 microseconds.

        For work that waits for the disk: a loop that is busy would do its own work first, and then wait.
        """
        ...

    def post(self, work: Work[object]) -> None:
        """Do ``work`` as ``run`` does; nobody waits for it, and it must not raise."""
        ...

    @property
    def is_at_rest(self) -> bool:
        """Whether groups are held, and all other work is done: the connection is free for use on the loop."""
        ...

    def hold_at_once(self) -> sqlite3.Connection | None:
        """Where there is nothing to do, write no groups for now, and return the connection; None where there is."""
        ...

    def hold(self) -> None:
        """Write no groups for now; called by work, on the writer."""
        ...

    def release(self) -> None:
        """Write groups again; called by work, on the writer."""
        ...

    async def close(self) -> None:
        """Write what waits, then close the connection."""
        ...


class ThreadWriter:
    """A thread that writes. The loop never waits for the disk, but to let the thread get on where it is busy."""

    name = "thread"

    def __init__(self, connection: sqlite3.Connection, log: LogWriter, *, announce: Announce) -> None:
        """Start the thread, for the running loop; ``announce`` is called on it with each new last position."""
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._log = log
        self._announce = announce
        self._appends: deque[Waiting] = deque()
        self._work: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._unfinished = 0
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_asleep = False
        self._is_wake_due = False
        self._is_held = False
        self._is_closing = False
        # A daemon: a process whose main thread ends without closing the store must be able to end.
        self._thread = threading.Thread(target=self._run, name="avx-events sqlite writer", daemon=True)
        self._thread.start()
        self._guard = StarvationGuard(self._loop, is_at_rest=lambda: self._is_asleep, cpu_s=cpu_clock_of(self._thread))

    @property
    def standstills(self) -> int:
        """How often the loop stood still for the thread."""
        return self._guard.standstills

    def submit(self, waiting: Waiting) -> None:
        """Write an append with the next group; see ``Writer.submit``."""
        # Woken at the end of this turn of the loop: all appends of the turn are one group then, and the thread does not
        # fight for the GIL with those who are still at it.
        self._appends.append(waiting)
        if self._is_asleep and not self._is_wake_due:
            self._is_wake_due = True
            self._loop.call_soon(self._wake)

    async def run(self, work: Work[ResultT]) -> ResultT:
        """Do ``work`` on the thread; see ``Writer.run``."""
        if self._is_closing:
            raise ClosedError("the event store", "use its database")
        return await self._hand_over(work)

    async def run_at_once(self, work: Work[ResultT]) -> ResultT:
        """Do ``work`` on the thread, which begins at once; see ``Writer.run_at_once``."""
        has_begun = threading.Event()

        def begun(connection: sqlite3.Connection) -> ResultT:
            has_begun.set()
            return work(connection)

        if self._is_closing:
            raise ClosedError("the event store", "use its database")
        done = self._hand_over(begun)
        has_begun.wait(_LONGEST_STANDSTILL_S)
        return await done

    def post(self, work: Work[object]) -> None:
        """Do ``work`` on the thread; see ``Writer.post``."""
        self._hand_over(work)

    @property
    def is_at_rest(self) -> bool:
        """Whether the thread leaves the connection alone; see ``Writer.is_at_rest``."""
        return self._is_held and not self._unfinished and not self._is_closing

    def hold_at_once(self) -> sqlite3.Connection | None:
        """Take the connection from the thread that sleeps; see ``Writer.hold_at_once``."""
        # Asleep and without anything to do, it does not touch the connection before it is given something.
        if not self._is_asleep or self._unfinished or self._appends or self._is_closing:
            return None
        self._is_held = True
        return self._connection

    def hold(self) -> None:
        """Write no groups for now."""
        self._is_held = True

    def release(self) -> None:
        """Write groups again."""
        self._is_held = False

    async def close(self) -> None:
        """Write what waits, close the connection, end the thread."""
        self._is_closing = True
        self._wake()
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self, work: Work[ResultT]) -> "asyncio.Future[ResultT]":
        done: asyncio.Future[ResultT] = self._loop.create_future()
        self._unfinished += 1
        self._work.append((work, done))
        self._wake()
        return done

    def _wake(self) -> None:
        # A token too many wakes the thread once in vain, one too few would leave it asleep for ever.
        self._is_asleep = self._is_wake_due = False
        self._wakeups.put(None)
        self._guard.handed_over()

    def _run(self) -> None:
        try:
            while not self._is_done():
                if self._work:
                    self._do_work()
                elif self._appends and not self._is_held:
                    self._write_group()
                else:
                    self._sleep()
        finally:
            self._connection.close()
            self._is_asleep = True

    def _is_done(self) -> bool:
        return self._is_closing and not self._work and not self._appends

    def _sleep(self) -> None:
        self._is_asleep = True
        if self._work or (self._appends and not self._is_held) or self._is_done():
            self._is_asleep = False
            return
        try:
            self._wakeups.get(timeout=_LONGEST_SLEEP_S)
        except queue.Empty:
            if self._loop.is_closed():  # nobody will close the store
                self._is_closing, self._is_held = True, False

    def _do_work(self) -> None:
        work, done = self._work.popleft()
        try:
            result = work(self._connection)
        except BaseException as exc:  # noqa: BLE001 - raised where the work is awaited
            self._tell(self._finish, _fail, done, exc)
        else:
            self._tell(self._finish, _succeed, done, result)

    def _finish(self, tell: Callable[..., object], done: "asyncio.Future[Any]", outcome: object) -> None:
        self._unfinished -= 1
        tell(done, outcome)

    def _write_group(self) -> None:
        futures, members = _next_group(self._appends)
        self._tell(_settle, futures, _written(self._log, members), self._announce)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
            self._guard.progress()
        except RuntimeError:  # the loop was closed before the store: nobody waits any more, so stop
            self._is_closing = True


class InlineWriter:
    """Writes on the loop itself: no thread to win the GIL, but the loop stands still while the disk works."""

    name = "inline"
    standstills = 0  # for a thread: it has none

    def __init__(self, connection: sqlite3.Connection, log: LogWriter, *, announce: Announce) -> None:
        """Write for the running loop; ``announce`` is called with each new last position."""
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._log = log
        self._announce = announce
        self._appends: deque[Waiting] = deque()
        self._is_due = False
        self._is_held = False
        self._is_closed = False

    def submit(self, waiting: Waiting) -> None:
        """Write an append together with the others of this turn of the loop; see ``Writer.submit``."""
        self._appends.append(waiting)
        self._plan()

    async def run(self, work: Work[ResultT]) -> ResultT:
        """Do ``work`` at once; see ``Writer.run``."""
        if self._is_closed:
            raise ClosedError("the event store", "use its database")
        return work(self._connection)

    async def run_at_once(self, work: Work[ResultT]) -> ResultT:
        """Do ``work``, as ``run`` does."""
        return await self.run(work)

    def post(self, work: Work[object]) -> None:
        """Do ``work`` at once; see ``Writer.post``."""
        if not self._is_closed:
            work(self._connection)

    @property
    def is_at_rest(self) -> bool:
        """Whether a transaction is open; see ``Writer.is_at_rest``."""
        return self._is_held and not self._is_closed

    def hold_at_once(self) -> sqlite3.Connection | None:
        """None: ``run`` is no detour here."""
        return None

    def hold(self) -> None:
        """Write no groups for now."""
        self._is_held = True

    def release(self) -> None:
        """Write groups again."""
        self._is_held = False
        self._plan()

    async def close(self) -> None:
        """Write what waits, close the connection."""
        while self._appends:
            self._write_group()
        self._is_closed = True
        self._connection.close()

    def _plan(self) -> None:
        if self._appends and not self._is_due and not self._is_held:
            self._is_due = True
            self._loop.call_soon(self._write_due)

    def _write_due(self) -> None:
        self._is_due = False
        if self._appends and not self._is_held and not self._is_closed:
            self._write_group()
        self._plan()

    def _write_group(self) -> None:
        futures, members = _next_group(self._appends)
        _settle(futures, _written(self._log, members), self._announce)


def _next_group(appends: deque[Waiting]) -> tuple[list["asyncio.Future[AppendResult]"], list[Member]]:
    futures: list[asyncio.Future[AppendResult]] = []
    members: list[Member] = []
    room = _MOST_RECORDS
    while appends and room > 0 and len(members) < _MOST_MEMBERS:
        future, stream, records, expected = appends.popleft()
        if future.cancelled():  # before it was begun: it is not done at all
            continue
        futures.append(future)
        members.append((stream, records, expected))
        room -= len(records)
    return futures, members


def _written(log: LogWriter, members: Sequence[Member]) -> Sequence[Outcome]:
    try:
        return log.write(members)
    except BaseException as exc:  # noqa: BLE001 - a bug, or a clock that raises: said where the appends are awaited
        return [exc] * len(members)


def _settle(futures: Sequence["asyncio.Future[AppendResult]"], outcomes: Sequence[Outcome], announce: Announce) -> None:
    # Tells the callers of a group what became of their appends, and the readers how far the log goes. Written out: the
    # loop does it for each append (bench/store_append.py).
    last = 0
    for future, outcome in zip(futures, outcomes, strict=True):
        if isinstance(outcome, AppendResult):
            if outcome.position > last:  # noqa: PLR1730 - max() takes 70 ns
                last = outcome.position
            if not future.done():
                future.set_result(outcome)
        else:
            _fail(future, outcome)
    if last:
        announce(last)


def _succeed(future: "asyncio.Future[ResultT]", result: ResultT) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
