"""One step of a process: run a reaction in memory, then write what it did. Both in a transaction of the caller."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from avx_events.core import cloudevents
from avx_events.core.clock import Clock
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope, EventMetadata, MessageContext, current_message, stamp
from avx_events.patterns.cqrs.idempotency import IDEMPOTENCY_HEADER
from avx_events.patterns.process.definition import Definition, Reaction, arguments_of
from avx_events.patterns.process.process_manager import (
    CancelDeadline,
    ProcessManager,
    Send,
    SetDeadline,
    Wish,
    call_reaction,
    take_wishes,
)
from avx_events.patterns.process.rows import DueDeadline, Row, Rows, ids_in_order
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent

log = logging.getLogger("avx_events.process")

Cause = MessageContext | EventMetadata
"""What a step is a reaction to: its event id, and the correlation and user ids that commands inherit."""


class Order(msgspec.Struct, frozen=True):
    """A command as it is kept: its id, and the document with its metadata."""

    command_id: str
    document: bytes


class Course:
    """A process while a transaction is at work on it."""

    def __init__(self, row: Row, process: ProcessManager | None) -> None:
        self.row = row
        self.process = process
        self.wishes: list[tuple[Order | SetDeadline | CancelDeadline, str]] = []
        self.parked: list[int] = []
        self.is_changed = False


class Steps:
    """Runs the reactions of one process manager."""

    def __init__(
        self, process_class: type[ProcessManager], definition: Definition, rows: Rows, *, clock: Clock
    ) -> None:
        """React as ``definition`` says, on ``rows``."""
        self._class: Final = process_class
        self._definition: Final = definition
        self._rows: Final = rows
        self._clock: Final = clock
        self._source: Final = f"/processes/{quote(definition.name)}"
        self.reactions = self.passed_over = self.failures = 0

    async def react(self, connection: Connection, events: Sequence[StoredEvent[Any]], *, now_us: int) -> None:
        """React to ``events`` in order, and write what comes of it."""
        wanted = [(stored, [*self._reactions(stored)]) for stored in events]
        ids = ids_in_order(process_id for _, reactions in wanted for _, process_id in reactions)
        courses = self._courses(await self._rows.several(connection, ids))
        for stored, reactions in wanted:
            for process_id in dict.fromkeys(process_id for _, process_id in reactions):
                methods = [reaction for reaction, its_id in reactions if its_id == process_id]
                self._react_to_one(courses, process_id, methods, stored, now_us)
        for course in courses.values():
            await self._write(connection, course, now_us)

    async def react_to_deadline(self, connection: Connection, due: DueDeadline, *, now_us: int) -> None:
        """React to a deadline that was taken."""
        cause = due.cause
        method = self._definition.deadlines.get(due.name)

        def run(process: ProcessManager) -> None:
            if method is None:
                message = f"no method is marked @on_deadline({due.name!r}) any more"
                raise LookupError(message)
            call_reaction(process, method)

        course = await self._step(connection, due.process, cause, run, now_us=now_us)
        if course is not None and course.row.status == "failed":  # so that it comes again once the process is mended
            await self._rows.set_deadline(connection, due.process, due.name, due.due_us, due.cause)

    async def react_to_failure(
        self,
        connection: Connection,
        process_id: str,
        failed: EventEnvelope[Any],
        error: str,
        *,
        now_us: int,
    ) -> bool:
        """React to the failure of a command; False where no method does, or it fails, too: nothing is reacted to."""
        command: object = failed.event
        method = self._definition.failure_method(type(command))
        if method is None:
            return False

        def run(process: ProcessManager) -> None:
            call_reaction(process, method, command, error)

        course = await self._step(connection, process_id, failed.metadata.event_id, run, now_us=now_us)
        return course is not None and course.row.status != "failed"

    async def fail(self, connection: Connection, process_id: str, problem: str, *, now_us: int) -> None:
        """Have a process wait until somebody mends it."""
        found = await self._rows.several(connection, [process_id])
        row = found.get(process_id)
        if row is not None:
            self._fail(row, problem)
            row.changed_us = now_us
            await self._rows.write(connection, row)

    async def mend(
        self, connection: Connection, process_id: str, events: Sequence[StoredEvent[Any]], *, now_us: int
    ) -> bool:
        """Let a failed process go on with the ``events`` that were set aside; False where it is not a failed one."""
        row = (await self._rows.several(connection, [process_id])).get(process_id)
        if row is None or row.status != "failed":
            return False
        row.status, row.problem = "running", ""
        await self._rows.unpark(connection, process_id)
        await self._rows.unblock(connection, process_id)
        courses = self._courses({process_id: row})
        courses[process_id].is_changed = True
        for stored in events:
            methods = [reaction for reaction, its_id in self._reactions(stored) if its_id == process_id]
            self._react_to_one(courses, process_id, methods, stored, now_us)
        await self._write(connection, courses[process_id], now_us)
        return True

    def _reactions(self, stored: StoredEvent[Any]) -> Iterator[tuple[Reaction, str]]:
        event: object = stored.event
        for reaction in self._definition.of_class(type(event)):
            try:
                process_id = reaction.id_of(stored.event)
            except Exception:  # whatever a user's function raises
                log.exception("process %r: by= of %s fails for %r", self._definition.name, reaction.method, stored)
                self.failures += 1
                continue
            if process_id:
                yield reaction, process_id
            else:
                self.passed_over += 1

    def _courses(self, rows: dict[str, Row]) -> dict[str, Course]:
        return {process_id: self._course(row) for process_id, row in rows.items()}

    def _course(self, row: Row) -> Course:
        if row.status == "failed":
            return Course(row, None)
        try:
            return Course(row, self._rows.process_of(row))
        except Exception as exc:  # noqa: BLE001 - its state; this process waits, the others go on
            self._fail(row, f"{type(exc).__name__}: {exc}")
            course = Course(row, None)
            course.is_changed = True
            return course

    def _react_to_one(
        self,
        courses: dict[str, Course],
        process_id: str,
        methods: Sequence[Reaction],
        stored: StoredEvent[Any],
        now_us: int,
    ) -> None:
        course = courses.get(process_id)
        kind = "starts" if course is None else "reacts"
        wanted = [reaction for reaction in methods if reaction.kind == kind]
        if not wanted or (course is not None and course.row.status == "ended"):
            self.passed_over += 1
            return
        if course is None:
            metadata = stored.metadata
            row = Row(process_id, "running", b"", metadata.correlation_id, metadata.user_id, 0, now_us, now_us)
            course = courses[process_id] = Course(row, self._class(process_id))
        if course.process is None:
            course.parked.append(stored.position)
            return

        def run(process: ProcessManager) -> None:
            for reaction in wanted:
                call_reaction(process, reaction.method, *arguments_of(reaction, stored))

        where = f"at {stored.metadata.event_type!r}, position {stored.position}"
        if not self._run(course, run, stored.metadata, where):
            course.parked.append(stored.position)

    async def _step(
        self,
        connection: Connection,
        process_id: str,
        cause_id: str,
        run: Callable[[ProcessManager], None],
        *,
        now_us: int,
    ) -> Course | None:
        row = (await self._rows.several(connection, [process_id])).get(process_id)
        if row is None or row.status != "running":
            return None
        course = self._course(row)
        if course.process is not None:
            cause = MessageContext(correlation_id=row.correlation_id, user_id=row.user_id, event_id=cause_id)
            self._run(course, run, cause, f"after {cause_id}")
        await self._write(connection, course, now_us)
        return course

    def _run(self, course: Course, run: Callable[[ProcessManager], None], cause: Cause, where: str) -> bool:
        """Run a reaction; what one that raises has done to the state and wished is not kept."""
        process = course.process
        if process is None:
            return False
        course.is_changed = True
        try:
            run(process)
            state = self._rows.state_of(process)
            wishes = [self._prepared(wish, course.row, cause) for wish in take_wishes(process)]
        except Exception as exc:  # noqa: BLE001 - the boundary of users' code: this process waits, the others go on
            take_wishes(process)
            course.process = None
            self._fail(course.row, f"{where}: {type(exc).__name__}: {exc}")
            return False
        self.reactions += 1
        course.row.state = state
        course.row.status = "ended" if process.is_ended else "running"
        course.wishes += [(wish, cause.event_id or "") for wish in wishes]
        return True

    def _fail(self, row: Row, problem: str) -> None:
        self.failures += 1
        row.status, row.problem = "failed", problem
        log.error("process %r %r waits to be mended: %s", self._definition.name, row.id, problem)

    async def _write(self, connection: Connection, course: Course, now_us: int) -> None:
        row, rows = course.row, self._rows
        for position in course.parked:
            await rows.park(connection, row.id, position)
        if not course.is_changed:
            return
        if not row.state:  # it failed in its first step
            row.state = rows.state_of(self._class(row.id))
        for wish, cause_id in course.wishes:
            await self._grant(connection, row, wish, cause_id, now_us)
        if row.status == "ended":
            await rows.cancel_deadlines(connection, row.id)
        row.changed_us = now_us
        await rows.write(connection, row)

    async def _grant(
        self,
        connection: Connection,
        row: Row,
        wish: Order | SetDeadline | CancelDeadline,
        cause_id: str,
        now_us: int,
    ) -> None:
        if isinstance(wish, Order):
            row.sent += 1
            await self._rows.add_command(connection, row.id, row.sent, wish.command_id, wish.document)
        elif isinstance(wish, SetDeadline):
            due_us = now_us + round((wish.after_s or 0) * 1_000_000) if wish.at_us is None else wish.at_us
            await self._rows.set_deadline(connection, row.id, wish.name, due_us, cause_id)
        else:
            await self._rows.cancel_deadline(connection, row.id, wish.name)

    def _prepared(self, wish: Wish, row: Row, cause: Cause) -> Order | SetDeadline | CancelDeadline:
        if not isinstance(wish, Send):
            return wish
        command_id = new_id(self._clock.time_ns())
        inherited = MessageContext(row.correlation_id, cause.event_id, cause.user_id)
        headers = {IDEMPOTENCY_HEADER: command_id, **wish.headers}
        token = current_message.set(inherited)
        try:
            envelope = stamp(wish.command, clock=self._clock, headers=headers, new_id=lambda _: command_id)
        finally:
            current_message.reset(token)
        return Order(command_id, cloudevents.encode(envelope, source=self._source))
