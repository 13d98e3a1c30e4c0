"""One step of a process: run a reaction in memory, then write what it did. Both in a transaction of the caller."""

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from avx_events.core import cloudevents
from avx_events.core.clock import Clock
from avx_events.core.errors import DecodeError
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope, EventMetadata, MessageContext, current_message, stamp
from avx_events.core.tasks import is_interrupted
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
from avx_events.store.audited_event import plain
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent

log = logging.getLogger("avx_events.process")

Cause: TypeAlias = MessageContext | EventMetadata
"""What a step is a reaction to: its event id, and the correlation and user ids that commands inherit."""

Call: TypeAlias = tuple[str, tuple[Any, ...]]
"""A method of a process, and what it is called with."""


# What an error says may be long, and is kept with each process that fails of it.
_LONGEST_PROBLEM: Final = 2_000


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

    def numbered(self) -> Iterator[tuple[str, int, str, bytes]]:
        """Give the commands that it sends, with their numbers, which are used up."""
        for wish, _ in self.wishes:
            if isinstance(wish, Order):
                self.row.sent += 1
                yield self.row.id, self.row.sent, wish.command_id, wish.document

    def deadlines(self) -> Iterator[tuple[Row, str, SetDeadline | CancelDeadline, str]]:
        """Give what it wishes for its deadlines, each name once: what it said last."""
        last = {wish.name: (wish, cause) for wish, cause in self.wishes if not isinstance(wish, Order)}
        for name, (wish, cause_id) in last.items():
            yield self.row, name, wish, cause_id


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
        await self._write(connection, courses.values(), now_us)

    async def react_to_deadlines(self, connection: Connection, due: Sequence[DueDeadline], *, now_us: int) -> int:
        """React to deadlines, one of each process, and return to how many: some may have been cancelled meanwhile."""
        # Rows of processes are locked before those of their deadlines, as by all others.
        courses = self._courses(await self._rows.several(connection, ids_in_order(each.process for each in due)))
        fired = 0
        for deadline in due:
            course = courses.get(deadline.process)
            if course is None or course.process is None:
                continue  # it has ended, or waits to be mended
            if await self._rows.take_deadline(connection, deadline):
                fired += 1
                if not self._run_deadline(course, deadline):  # it comes again once the process is mended
                    course.wishes.append((SetDeadline(deadline.name, None, deadline.due_us), deadline.cause))
        await self._write(connection, courses.values(), now_us)
        return fired

    async def react_to_failure(
        self,
        connection: Connection,
        process_id: str,
        failed: EventEnvelope[Any] | None,
        error: str,
        *,
        now_us: int,
    ) -> bool:
        """React to the failure of a command, which nobody can read where it is None.

        Returns:
            False where no method does so, or it fails, too: the process waits to be mended then.
        """
        row = (await self._rows.several(connection, [process_id])).get(process_id)
        if row is None:
            return False
        course = self._course(row)
        command: object = None if failed is None else failed.event
        method = self._definition.failure_method(type(command))
        if course.process is None or failed is None or method is None:
            if row.status != "failed":
                self._fail(row, f"a command failed: {error}")
            course.is_changed = True
        else:
            cause = _cause(row, failed.metadata.event_id)
            event_type = failed.metadata.event_type
            self._run(course, [(method, (command, error))], cause, f"at the failure of {event_type!r}")
        await self._write(connection, [course], now_us)
        return row.status != "failed"

    async def mend(
        self, connection: Connection, process_id: str, events: Sequence[StoredEvent[Any]], *, now_us: int
    ) -> bool:
        """Let a failed process go on with the ``events`` that were set aside; False where it is not a failed one."""
        row = (await self._rows.several(connection, [process_id])).get(process_id)
        if row is None or row.status != "failed":
            return False
        row.status, row.problem = "ended" if row.is_ended else "running", ""
        await self._rows.unpark(connection, process_id)
        await self._rows.unblock(connection, process_id)
        courses = self._courses({process_id: row})
        courses[process_id].is_changed = True
        for stored in events:
            methods = [reaction for reaction, its_id in self._reactions(stored) if its_id == process_id]
            self._react_to_one(courses, process_id, methods, stored, now_us)
        await self._write(connection, courses.values(), now_us)
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
        if row.status != "running":
            return Course(row, None)
        if not row.state:
            return Course(row, self._class(row.id))
        try:
            return Course(row, self._rows.process_of(row))
        except DecodeError as exc:  # this process waits, the others go on
            self._fail(row, said_of(exc))
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
        wanted = _wanted(course, methods)
        if not wanted:
            self.passed_over += 1
            return
        if course is None:
            row = _new_row(process_id, stored.metadata, now_us)
            course = courses[process_id] = Course(row, self._class(process_id))
        where = f"at {stored.metadata.event_type!r}, position {stored.position}"
        calls = [(reaction.method, arguments_of(reaction, stored)) for reaction in wanted]
        if not self._run(course, calls, stored.metadata, where):
            course.parked.append(stored.position)

    def _run_deadline(self, course: Course, deadline: DueDeadline) -> bool:
        method = self._definition.deadlines.get(deadline.name)
        if method is None:
            self._fail(course.row, f"no method is marked @on_deadline({deadline.name!r}) any more")
            course.process, course.is_changed = None, True
            return False
        cause = _cause(course.row, deadline.cause)
        return self._run(course, [(method, ())], cause, f"at the deadline {deadline.name!r}")

    def _run(self, course: Course, calls: Sequence[Call], cause: Cause, where: str) -> bool:
        """Run reactions; what they do to the state and wish for is kept where none of them raises."""
        process = course.process
        if process is None:
            return False
        course.is_changed = True
        try:
            for method, arguments in calls:
                call_reaction(process, method, *arguments)
            state = self._rows.state_of(process)
            wishes = [self._prepared(wish, course.row, cause) for wish in take_wishes(process)]
        except BaseException as exc:  # the boundary of users' code: this process waits, the others go on
            if is_interrupted(exc):
                raise
            course.process = None
            self._fail(course.row, f"{where}: {said_of(exc)}")
            return False
        self.reactions += 1
        course.row.state = state
        course.row.is_ended = process.is_ended
        course.row.status = "ended" if process.is_ended else "running"
        course.wishes += [(wish, cause.event_id or "") for wish in wishes]
        return True

    def _fail(self, row: Row, problem: str) -> None:
        self.failures += 1
        row.status, row.problem = "failed", problem
        log.error("process %r %r waits to be mended: %s", self._definition.name, row.id, problem)

    async def _write(self, connection: Connection, courses: Collection[Course], now_us: int) -> None:
        """Write what became of processes, and what they wish for."""
        parked = [(course.row.id, position) for course in courses for position in course.parked]
        changed = [course for course in courses if course.is_changed]
        for course in changed:
            course.row.changed_us = now_us
        rows = self._rows
        await rows.park(connection, parked)
        await rows.add_commands(connection, [command for course in changed for command in course.numbered()])
        await self._write_deadlines(connection, changed, now_us)
        await rows.write(connection, [course.row for course in changed])

    async def _write_deadlines(self, connection: Connection, courses: Sequence[Course], now_us: int) -> None:
        wanted: list[tuple[str, str, int, str]] = []
        unwanted: list[tuple[str, str]] = []
        for row, name, wish, cause_id in (each for course in courses for each in course.deadlines()):
            if isinstance(wish, SetDeadline):
                wanted.append((row.id, name, _due_us(wish, now_us), cause_id))
            else:
                unwanted.append((row.id, name))
        await self._rows.set_deadlines(connection, wanted)
        await self._rows.cancel_deadlines(connection, unwanted)
        await self._rows.cancel_all_deadlines(connection, [each.row.id for each in courses if each.row.is_ended])

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


def said_of(error: BaseException) -> str:
    """Return what an error says in one line, ``Type: message``, as any database takes it."""
    try:
        text = f"{error}"
    except Exception as exc:  # noqa: BLE001 - a __str__ of theirs
        text = f"its text cannot be had: {type(exc).__name__}"
    return plain(f"{type(error).__name__}: {text}"[:_LONGEST_PROBLEM])


def _wanted(course: Course | None, methods: Sequence[Reaction]) -> list[Reaction]:
    """Return the reactions that are meant: those that start the process, or those of one that is there."""
    if course is not None and course.row.is_ended:
        return []
    if course is not None and not course.row.state and course.process is None:
        return [*methods]  # once it is mended it begins, and reacts to what has come since
    kind = "reacts" if course is not None and course.row.state else "starts"
    return [reaction for reaction in methods if reaction.kind == kind]


def _new_row(process_id: str, cause: EventMetadata, now_us: int) -> Row:
    return Row(
        id=process_id,
        status="running",
        is_ended=False,
        state=b"",
        correlation_id=_writable(cause.correlation_id),
        user_id=None if cause.user_id is None else _writable(cause.user_id),
        sent=0,
        started_us=now_us,
        changed_us=now_us,
    )


def _cause(row: Row, event_id: str) -> MessageContext:
    return MessageContext(correlation_id=row.correlation_id, event_id=event_id, user_id=row.user_id)


def _due_us(wish: SetDeadline, now_us: int) -> int:
    return now_us + round((wish.after_s or 0) * 1_000_000) if wish.at_us is None else wish.at_us


def _writable(text: str) -> str:
    return text.replace("\0", "\\x00")  # PostgreSQL's text has no NUL; an id from outside may
