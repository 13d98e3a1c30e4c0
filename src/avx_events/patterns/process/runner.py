"""Runs the processes of one process manager.

| state | what it does |
|---|---|
| ``standby`` | reacts to events; another runner dispatches commands and fires deadlines |
| ``active`` | does all of it |
| ``failed`` | nothing more: an event cannot be read; the error is kept |
| ``stopped`` | nothing more: it was left, or the store is closed |
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self, TypeAlias

import msgspec

from avx_events.core import arguments, cloudevents
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    NotRunningError,
    ProcessFailedError,
    ProcessLagError,
    RetryableError,
)
from avx_events.core.metadata import EPOCH
from avx_events.core.policy import ONE_ATTEMPT, Retry
from avx_events.core.tasks import CLEANUP_GRACE_S, Changes, TaskScope, is_interrupted
from avx_events.patterns.cqrs import CommandBus
from avx_events.patterns.lease import Lease, LeaseLostError
from avx_events.patterns.process.dispatcher import Dispatcher
from avx_events.patterns.process.process_manager import ProcessManager, definition_of, fields_of
from avx_events.patterns.process.reader import Reader
from avx_events.patterns.process.rows import Row, Rows, Status
from avx_events.patterns.process.steps import Steps
from avx_events.patterns.shared_time import shared_now_us
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent, microseconds_of

State: TypeAlias = Literal["standby", "active", "failed", "stopped"]
Start: TypeAlias = Literal["earliest", "latest"]

log = logging.getLogger("avx_events.process")

DEFAULT_RETRY: Final = Retry()
STATUSES: Final[tuple[Status, ...]] = ("running", "ended", "failed")
_MOST_COMMANDS: Final = 1_000
# How often somebody who waits looks whether another runner was the one that did it, in seconds.
_LOOK_S: Final = 0.05


class PendingCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a process has sent, and that is not done.

    Attributes:
        command_id: Its event id, and its idempotency key.
        command: The command; None where it can no longer be decoded.
        attempts: How many attempts have begun.
        due_at: When the next one may begin.
        problem: What it failed of for good; empty where it is still tried.
    """

    command_id: str
    command: Any
    attempts: int
    due_at: datetime
    problem: str


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """A process as it is kept.

    Attributes:
        id: Which.
        status: ``running``, ``ended``, or ``failed``: it waits to be mended, see ``ProcessRunner.retry``.
        state: Its fields by name; none where they can no longer be decoded.
        problem: What it failed of.
        correlation_id: That of the event that started it, and of everything that it sends.
        user_id: On whose behalf, if known.
        started_at: When it was started.
        changed_at: When it was changed last.
        commands: What it has sent and is not done, in order; 1,000 at most.
        deadlines: Those that are to come, by name.
        parked: Positions in the log of events that wait until it is mended.
    """

    id: str
    status: Status
    state: dict[str, Any]
    problem: str
    correlation_id: str
    user_id: str | None
    started_at: datetime
    changed_at: datetime
    commands: tuple[PendingCommand, ...]
    deadlines: dict[str, datetime]
    parked: tuple[int, ...]


class ProcessStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one runner did since it was entered, in this process.

    Attributes:
        state: ``standby``, ``active``, ``failed`` or ``stopped``.
        position: The position in the log up to which all is reacted to.
        reactions: Events, deadlines and failures that were reacted to; again where their transaction was undone.
        passed_over: Events of no process: not started, ended, or without an id.
        failures: Reactions that failed; their processes wait to be mended.
        dispatched: Commands that were carried out.
        failed_attempts: Attempts of commands that failed.
        fired: Deadlines that were reacted to.
        running: Commands that run now.
    """

    state: State
    position: int
    reactions: int
    passed_over: int
    failures: int
    dispatched: int
    failed_attempts: int
    fired: int
    running: int


class ProcessRunner:
    """Keeps the processes of one manager going, as ``async with ProcessRunner(store, OrderProcess, commands=bus):``.

    Events are reacted to in the order of the log; the state of processes, the commands that they send, their deadlines
    and the place in the log are written in one transaction of the store's database, so that each event is reacted to
    exactly once, whatever crashes when. Commands are then dispatched through the command bus: for each process in
    order, for several processes side by side, at least once, each with its id as ``idempotency-key``. Several runners,
    in one process or many, may run one manager on one database: all react to events, and one of them, which has a
    lease, dispatches and fires deadlines; where it dies another one takes over after ``lease_s``.

    A deadline comes when its instant has passed and all that was in the log by then is reacted to: after a pause of the
    runners, what came in time counts first.

    A command that fails is tried again as ``retry`` says, unless its error is a ``UsageError``, a ``PermanentError`` or
    a ``Reject``. Where it fails for good the method marked ``@on_failure`` of its class is called. Without one, and
    where a method of the process itself raises, the process is ``failed``: that is logged as an error, its events and
    deadlines wait, all other processes go on, and ``retry`` lets it continue from there.
    """

    def __init__(
        self,
        store: EventStore,
        process: type[ProcessManager],
        *,
        commands: CommandBus,
        retry: Retry | None = DEFAULT_RETRY,
        concurrency: int = 16,
        batch_events: int = 100,
        start: Start = "earliest",
        lease_s: float = 30.0,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Run ``process`` on ``store``, once entered.

        Args:
            store: Whose log, and whose database; one in memory without a database will not do.
            process: The process manager class.
            commands: Carries out what processes send.
            retry: How often a command that fails is tried, and after which pauses; None is one attempt.
            concurrency: Commands that run at once, each of another process, 1 or more.
            batch_events: The most events in one transaction, 1 or more.
            start: Where in the log a manager begins that is new: ``earliest`` or ``latest``.
            lease_s: After how many seconds another runner takes over from one that died.
            drain_timeout_s: How many seconds commands that run have when the runner is left.
            clock: Time.

        Raises:
            InvalidArgumentError: An argument is not acceptable.
        """
        definition = definition_of(process)
        _check(store, commands, retry, start)
        arguments.whole("concurrency", concurrency, least=1)
        arguments.whole("batch_events", batch_events, least=1)
        arguments.seconds("lease_s", lease_s)
        self._store: Final = store
        self._name: Final = definition.name
        self._clock: Final = clock
        self._start: Final = start
        self._drain_timeout_s: Final = arguments.seconds("drain_timeout_s", drain_timeout_s)
        self._changes: Final = Changes()
        self._rows: Final = Rows(definition.name, process)
        self._steps: Final = Steps(process, definition, self._rows, clock=clock)
        self._lease: Final = Lease(store, f"process:{definition.name}", lease_s=lease_s, clock=clock)
        self._reader: Final = Reader(
            store, definition, self._rows, self._steps, batch_events=batch_events, clock=clock, changes=self._changes
        )
        self._dispatcher: Final = Dispatcher(
            store,
            definition.name,
            self._rows,
            self._steps,
            commands,
            lease=self._lease,
            retry=ONE_ATTEMPT if retry is None else retry,
            concurrency=concurrency,
            reached=lambda: self._reader.position,
            clock=clock,
            changes=self._changes,
        )
        self._scope: Final = TaskScope()
        self._reading_trouble: Final = Trouble(f"process {definition.name!r}: the log", log=log, clock=clock)
        self._leasing_trouble: Final = Trouble(f"process {definition.name!r}: the store", log=log, clock=clock)
        self._reading: asyncio.Task[None] | None = None
        self._dispatching: asyncio.Task[None] | None = None
        self._state: State = "stopped"
        self._error: BaseException | None = None
        self._is_entered = False
        self._is_leaving = False

    async def __aenter__(self) -> Self:
        """Make the tables where they are not there, and begin.

        Raises:
            NotRunningError: It was entered before; make a new one.
            TransactionError: The store is in memory without a database.
            StoreUnavailableError: The store cannot be written now.
            StoreSchemaError: The database has such tables of a newer version.
            ClosedError: The store is closed.
        """
        if self._is_entered:
            raise NotRunningError(self._what, "enter it a second time")
        self._is_entered = True
        begin_at = 0 if self._start == "earliest" else await self._store.last_position()
        async with self._store.transaction() as connection:
            await self._rows.enter(connection, position=begin_at)
            await self._lease.enter(connection, position=0)
        self._state = "standby"
        self._reading = self._scope.spawn(self._read(), name=f"avx-events {self._what}: react")
        self._dispatching = self._scope.spawn(self._dispatch(), name=f"avx-events {self._what}: dispatch")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Begin nothing more, wait for the commands that run, and let another runner take over at once."""
        self._is_leaving = True
        self._dispatcher.leave()
        try:
            await self._drain()
        finally:
            # What is cancelled then cancels its own and writes what came of that.
            for task in await self._scope.cancel(grace_s=3 * CLEANUP_GRACE_S):
                log.error("%s swallowed its cancellation and still runs", task.get_name())
            await self._lease.give_up(self._what, log)
            if self._state != "failed":
                self._state = "stopped"
            self._changes.tell()

    @property
    def is_active(self) -> bool:
        """Whether this is the runner that dispatches commands and fires deadlines."""
        return self._state == "active" and self._lease.is_held

    def statistics(self) -> ProcessStatistics:
        """Return what was done so far, by this runner."""
        return ProcessStatistics(
            state=self._state,
            position=self._reader.position,
            reactions=self._steps.reactions,
            passed_over=self._steps.passed_over,
            failures=self._steps.failures,
            dispatched=self._dispatcher.dispatched,
            failed_attempts=self._dispatcher.failed,
            fired=self._dispatcher.fired,
            running=self._dispatcher.running,
        )

    async def process(self, process_id: str) -> ProcessView | None:
        """Return a process, or None where there is none of that id.

        Raises:
            InvalidArgumentError: The id is no text.
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        arguments.text("process_id", process_id)
        async with self._store.transaction() as connection:
            row = (await self._rows.several(connection, [process_id])).get(process_id)
            return None if row is None else await self._view(connection, row)

    async def processes(self, *, status: Status = "failed", limit: int = 100) -> list[ProcessView]:
        """Return processes of a status, those first that were not changed for longest.

        Args:
            status: ``running``, ``ended`` or ``failed``.
            limit: At most so many, 1 or more.

        Raises:
            InvalidArgumentError: The status is none, or the limit below 1.
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        if status not in STATUSES:
            raise InvalidArgumentError("status", status, expected=f"one of {', '.join(STATUSES)}")
        arguments.whole("limit", limit, least=1)
        async with self._store.transaction() as connection:
            rows = await self._rows.of_status(connection, status, limit)
            return [await self._view(connection, row) for row in rows]

    async def retry(self, process_id: str) -> bool:
        """Let a failed process go on: with the events that waited for it, and the command that failed.

        Returns:
            False where it is not there, or is not a failed one.

        Raises:
            InvalidArgumentError: The id is no text.
            UnknownEventTypeError: No class has the type of an event that waits.
            DecodeError: One of them does not fit its class.
            StoreUnavailableError: Nothing was changed.
            ClosedError: The store is closed.
        """
        arguments.text("process_id", process_id)
        while True:
            async with self._store.transaction() as connection:
                positions = await self._rows.parked(connection, process_id)
            events = [await self._event_at(position) for position in positions]
            async with self._store.transaction() as connection:
                if await self._rows.parked(connection, process_id) != positions:
                    continue  # one more came meanwhile
                now_us = await shared_now_us(connection, self._clock)
                is_mended = await self._steps.mend(connection, process_id, events, now_us=now_us)
            self._changes.tell()
            return is_mended

    async def forget_ended(self, *, older_than: timedelta) -> int:
        """Forget the processes that ended so long ago, and return how many they were.

        One that is forgotten begins anew when an event that starts it comes again.

        Raises:
            InvalidArgumentError: It is no time.
            StoreUnavailableError: Nothing was forgotten.
            ClosedError: The store is closed.
        """
        _check_age(older_than)
        async with self._store.transaction() as connection:
            now_us = await shared_now_us(connection, self._clock)
            before_us = now_us - microseconds_of(EPOCH + older_than)
            return await self._rows.forget_ended(connection, before_us)

    async def settled(self, *, timeout_s: float = 5.0) -> None:
        """Return when all that is in the log is reacted to, and all that processes sent because of it is carried out.

        Deadlines that are to come are not waited for, nor what waits behind a process that has failed.

        Args:
            timeout_s: The longest wait, in seconds of real time.

        Raises:
            ProcessFailedError: It stopped before.
            ProcessLagError: It takes longer; safe to call again.
            NotRunningError: It was not entered, or was left, or the store was closed.
            StoreUnavailableError: The database cannot be read now.
            InvalidArgumentError: The time is none.
        """
        arguments.seconds("timeout_s", timeout_s)
        left = "not begun to look"
        try:
            async with asyncio.timeout(timeout_s):
                while left := await self._left():
                    await self._next_look()
        except ClosedError as exc:
            raise NotRunningError(self._what, "settle") from exc
        except TimeoutError as exc:
            raise ProcessLagError(self._name, timeout_s=timeout_s, problem=left) from exc

    @property
    def _is_over(self) -> bool:
        return self._is_leaving or self._state in {"failed", "stopped"}

    @property
    def _what(self) -> str:
        return f"process manager {self._name!r}"

    async def _left(self) -> str:
        """Return what is left to do, empty where nothing is."""
        if self._state == "failed":
            raise ProcessFailedError(self._name, problem=f"{self._error}") from self._error
        if self._state == "stopped" or self._is_leaving:
            raise NotRunningError(self._what, "settle")
        last = await self._store.last_position()
        if self._reader.position < last:
            return f"it is at position {self._reader.position} of {last}"
        async with self._store.transaction() as connection:
            waiting = await self._rows.count_waiting(connection)
        if waiting:
            return f"{waiting} commands wait"
        # What a command appended meanwhile has not been reacted to.
        return "" if await self._store.last_position() == last else "more was appended"

    async def _next_look(self) -> None:
        heard = self._changes.told
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._changes.wait(since=heard)
        except TimeoutError:
            return

    async def _view(self, connection: Connection, row: Row) -> ProcessView:
        try:
            process = self._rows.process_of(row)
            state = {field: getattr(process, field) for field in fields_of(process)}
        except AvxEventsError:
            state = {}
        waiting = await self._rows.waiting(connection, row.id, _MOST_COMMANDS)
        deadlines = await self._rows.deadlines(connection, row.id)
        return ProcessView(
            id=row.id,
            status=row.status,
            state=state,
            problem=row.problem,
            correlation_id=row.correlation_id,
            user_id=row.user_id,
            started_at=_instant(row.started_us),
            changed_at=_instant(row.changed_us),
            commands=tuple(self._pending(*command) for command in waiting),
            deadlines={name: _instant(due_us) for name, due_us in deadlines.items()},
            parked=tuple(await self._rows.parked(connection, row.id)),
        )

    def _pending(self, command_id: str, document: bytes, attempts: int, due_us: int, problem: str) -> PendingCommand:
        try:
            command: Any = cloudevents.decode(document, clock=self._clock).event
        except AvxEventsError:
            command = None
        due_at = _instant(due_us)
        return PendingCommand(command_id=command_id, command=command, attempts=attempts, due_at=due_at, problem=problem)

    async def _event_at(self, position: int) -> StoredEvent[Any]:
        async for stored in self._store.read_all(position - 1, until=position):
            return stored
        raise ProcessFailedError(self._name, problem=f"there is no event at position {position} any more")

    async def _read(self) -> None:
        attempt = 1
        try:
            while not self._is_leaving:
                before = self._reader.position
                try:
                    await self._reader.begin()
                    self._reading_trouble.end()
                    await self._reader.follow()
                except ClosedError:
                    self._state = "stopped"
                    return
                except RetryableError as exc:
                    attempt = 2 if self._reader.position > before else attempt + 1
                    await self._reading_trouble.wait(exc, attempt)
        except BaseException as exc:  # the boundary: kept, logged, raised by settled()
            if is_interrupted(exc):
                raise
            self._state, self._error = "failed", exc
            log.exception("%s stopped after position %d", self._what, self._reader.position)
            self._dispatcher.leave()  # another runner may be of a version that can read it
        finally:
            self._changes.tell()

    async def _dispatch(self) -> None:
        try:
            while not self._is_over and await self._stand_by():
                self._state = "active" if self._state == "standby" else self._state
                try:
                    await self._dispatcher.run()
                    await self._lease.give_up(self._what, log)
                except LeaseLostError:
                    log.warning("%s has lost its lease: another runner may be the active one", self._what)
                    self._state = "standby" if self._state == "active" else self._state
                except ClosedError:
                    self._state = "stopped"
                    return
        except BaseException as exc:  # the boundary
            if is_interrupted(exc):
                raise
            self._state, self._error = "failed", exc
            log.exception("%s dispatches nothing any more", self._what)
            if self._reading is not None:
                self._reading.cancel()
            await self._lease.give_up(self._what, log)
        finally:
            self._changes.tell()

    async def _stand_by(self) -> bool:
        """Return True when this is the active one, False when the store is closed."""
        return await self._lease.obtain(self._leasing_trouble) is not None

    async def _drain(self) -> None:
        if self._dispatching is None or not self._dispatcher.is_at_work:
            return
        _, late = await asyncio.wait({self._dispatching}, timeout=self._drain_timeout_s)
        if late:
            log.warning("%s: %d commands were not done in time", self._what, self._dispatcher.running)


def _check(store: object, commands: object, retry: object, start: object) -> None:
    if not isinstance(store, EventStore):
        raise InvalidArgumentError("store", store, expected="an EventStore")
    if not isinstance(commands, CommandBus):
        raise InvalidArgumentError("commands", commands, expected="a CommandBus")
    arguments.optional("retry", retry, Retry)
    if start not in {"earliest", "latest"}:
        raise InvalidArgumentError("start", start, expected="'earliest' or 'latest'")


def _check_age(older_than: object) -> None:
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise InvalidArgumentError("older_than", older_than, expected="a timedelta, 0 or more")


def _instant(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)
