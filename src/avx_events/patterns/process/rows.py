"""The tables of process managers: their checkpoints, processes, commands that wait, deadlines, and events set aside.

Everything here runs in a transaction of its caller.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from avx_events.core.errors import DecodeError, ProcessDefinitionError
from avx_events.patterns.process.process_manager import ProcessManager
from avx_events.patterns.tables import execute, fetch, fetch_one, prepare
from avx_events.store.ports import Connection

Status: TypeAlias = Literal["running", "ended", "failed"]

_MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        "CREATE TABLE avx_process_managers (name TEXT NOT NULL PRIMARY KEY, position INTEGER NOT NULL)",
        """
        CREATE TABLE avx_processes (
            manager TEXT NOT NULL,
            id TEXT NOT NULL,
            status TEXT NOT NULL,
            is_ended INTEGER NOT NULL,
            state BLOB NOT NULL,
            correlation_id TEXT NOT NULL,
            user_id TEXT,
            sent INTEGER NOT NULL,
            started_us INTEGER NOT NULL,
            changed_us INTEGER NOT NULL,
            problem TEXT NOT NULL,
            PRIMARY KEY (manager, id)
        )
        """,
        "CREATE INDEX avx_processes_status ON avx_processes (manager, status, changed_us)",
        """
        CREATE TABLE avx_process_commands (
            command_id TEXT NOT NULL PRIMARY KEY,
            manager TEXT NOT NULL,
            process TEXT NOT NULL,
            number INTEGER NOT NULL,
            document BLOB NOT NULL,
            attempts INTEGER NOT NULL,
            due_us INTEGER NOT NULL,
            problem TEXT NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX avx_process_commands_order ON avx_process_commands (manager, process, number)",
        """
        CREATE INDEX avx_process_commands_due ON avx_process_commands (manager, due_us, command_id) WHERE problem = ''
        """,
        """
        CREATE TABLE avx_process_deadlines (
            manager TEXT NOT NULL,
            process TEXT NOT NULL,
            name TEXT NOT NULL,
            due_us INTEGER NOT NULL,
            cause TEXT NOT NULL,
            PRIMARY KEY (manager, process, name)
        )
        """,
        "CREATE INDEX avx_process_deadlines_due ON avx_process_deadlines (manager, due_us)",
        """
        CREATE TABLE avx_process_parked (
            manager TEXT NOT NULL,
            process TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (manager, process, position)
        )
        """,
    ),
)
_ENTER: Final = "INSERT INTO avx_process_managers (name, position) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
_POSITION: Final = "SELECT position FROM avx_process_managers WHERE name = ? FOR UPDATE"
_MOVE: Final = "UPDATE avx_process_managers SET position = ? WHERE name = ?"
_COLUMNS: Final = "id, status, is_ended, state, correlation_id, user_id, sent, started_us, changed_us, problem"
_SEVERAL: Final = f"SELECT {_COLUMNS} FROM avx_processes WHERE manager = ? AND id IN ({{marks}}) ORDER BY id FOR UPDATE"  # noqa: S608
_OF_STATUS: Final = f"SELECT {_COLUMNS} FROM avx_processes WHERE manager = ? AND status = ? ORDER BY changed_us LIMIT ?"  # noqa: S608
_WRITE: Final = (
    "INSERT INTO avx_processes (manager, id, status, is_ended, state, correlation_id, user_id, sent, started_us,"
    " changed_us, problem) VALUES {rows} ON CONFLICT (manager, id) DO UPDATE SET"
    " status = excluded.status, is_ended = excluded.is_ended, state = excluded.state, sent = excluded.sent,"
    " changed_us = excluded.changed_us,"
    " problem = excluded.problem"
)
_ADD_COMMANDS: Final = (
    "INSERT INTO avx_process_commands (manager, process, number, command_id, document, attempts, due_us, problem)"
    " VALUES {rows}"
)
# Of each process the first command that is left: the next is not dispatched before it is done.
_IS_FIRST: Final = (
    "NOT EXISTS (SELECT 1 FROM avx_process_commands e WHERE e.manager = c.manager AND e.process = c.process"
    " AND e.number < c.number)"
)
_FIRSTS: Final = (
    "SELECT command_id, process, document, attempts FROM avx_process_commands c WHERE manager = ? AND due_us <= ?"  # noqa: S608
    f" AND problem = '' AND {_IS_FIRST} ORDER BY due_us, command_id LIMIT ?"
)
_NEXT_COMMAND: Final = (
    f"SELECT min(due_us) FROM avx_process_commands c WHERE manager = ? AND due_us > ? AND problem = '' AND {_IS_FIRST}"  # noqa: S608
)
_COUNT_ATTEMPT: Final = "UPDATE avx_process_commands SET attempts = attempts + 1 WHERE command_id IN ({marks})"
_UNCOUNT_ATTEMPT: Final = (
    "UPDATE avx_process_commands SET attempts = attempts - 1 WHERE attempts > 0 AND command_id IN ({marks})"
)
_REMOVE_COMMANDS: Final = "DELETE FROM avx_process_commands WHERE command_id IN ({marks})"
_POSTPONE: Final = "UPDATE avx_process_commands SET due_us = ? WHERE command_id = ?"
_BLOCK: Final = "UPDATE avx_process_commands SET problem = ? WHERE command_id = ?"
_UNBLOCK: Final = (
    "UPDATE avx_process_commands SET problem = '', attempts = 0, due_us = 0"
    " WHERE manager = ? AND process = ? AND problem <> ''"
)
_WAITING: Final = (
    "SELECT command_id, document, attempts, due_us, problem FROM avx_process_commands"
    " WHERE manager = ? AND process = ? ORDER BY number LIMIT ?"
)
# What stands behind a blocked one waits for somebody to mend the process, and for nobody else.
_COUNT_WAITING: Final = (
    "SELECT count(*) FROM avx_process_commands c WHERE manager = ? AND NOT EXISTS (SELECT 1 FROM avx_process_commands e"
    " WHERE e.manager = c.manager AND e.process = c.process AND e.number <= c.number AND e.problem <> '')"
)
_SET_DEADLINES: Final = (
    "INSERT INTO avx_process_deadlines (manager, process, name, due_us, cause) VALUES {rows}"
    " ON CONFLICT (manager, process, name) DO UPDATE SET due_us = excluded.due_us, cause = excluded.cause"
)
_CANCEL_DEADLINES: Final = "DELETE FROM avx_process_deadlines WHERE (manager, process, name) IN (VALUES {rows})"
_CANCEL_ALL: Final = "DELETE FROM avx_process_deadlines WHERE (manager, process) IN (VALUES {rows})"
_OF_RUNNING: Final = (
    " FROM avx_process_deadlines d WHERE manager = ? AND EXISTS (SELECT 1 FROM avx_processes p"
    " WHERE p.manager = d.manager AND p.id = d.process AND p.status = 'running')"
)
_DUE: Final = f"SELECT process, name, due_us, cause{_OF_RUNNING} AND due_us <= ? ORDER BY due_us LIMIT ?"
_NEXT_DEADLINE: Final = f"SELECT min(due_us){_OF_RUNNING} AND due_us > ?"
_TAKE_DEADLINE: Final = (
    "DELETE FROM avx_process_deadlines WHERE manager = ? AND process = ? AND name = ? AND due_us = ?"
)
_DEADLINES: Final = "SELECT name, due_us FROM avx_process_deadlines WHERE manager = ? AND process = ? ORDER BY due_us"
_PARK: Final = (
    "INSERT INTO avx_process_parked (manager, process, position) VALUES {rows}"
    " ON CONFLICT (manager, process, position) DO NOTHING"
)
_PARKED: Final = "SELECT position FROM avx_process_parked WHERE manager = ? AND process = ? ORDER BY position"
_UNPARK: Final = "DELETE FROM avx_process_parked WHERE manager = ? AND process = ?"
# One that began anew under its id would number its commands as those that are still to be dispatched.
_FORGET: Final = (
    "DELETE FROM avx_processes WHERE manager = ? AND status = 'ended' AND changed_us < ? AND NOT EXISTS"
    " (SELECT 1 FROM avx_process_commands c WHERE c.manager = avx_processes.manager AND c.process = avx_processes.id)"
)

# Both engines take some ten thousand placeholders in one statement; a batch may be larger.
_MOST_MARKS: Final = 1_000

# In one statement: a power of two.
_MOST_ROWS: Final = 64

_encode_state: Final = msgspec.msgpack.Encoder().encode


class Row(msgspec.Struct, kw_only=True):
    """A process as it is kept.

    Attributes:
        id: Which.
        status: ``running``; ``ended``; or ``failed``, where it waits for somebody to mend it.
        is_ended: Whether it has ended, also where what it sent last has failed since.
        state: Its fields, encoded; nothing where its first reaction failed, so that it has not begun.
        correlation_id: That of the event that started it.
        user_id: Likewise.
        sent: How many commands it has sent.
        started_us: When it was started, in Unix microseconds.
        changed_us: When it was changed last.
        problem: What it failed of.
    """

    id: str
    status: Status
    is_ended: bool
    state: bytes
    correlation_id: str
    user_id: str | None
    sent: int
    started_us: int
    changed_us: int
    problem: str = ""


class WaitingCommand(msgspec.Struct, frozen=True):
    """A command that waits to be dispatched."""

    command_id: str
    process: str
    document: bytes
    attempts: int


class DueDeadline(msgspec.Struct, frozen=True):
    """A deadline whose time has come; ``cause`` is the id of the event or command that led to it."""

    process: str
    name: str
    due_us: int
    cause: str


class Rows:
    """The rows of one process manager."""

    def __init__(self, name: str, process_class: type[ProcessManager]) -> None:
        """Keep processes of ``process_class`` under ``name``.

        Raises:
            ProcessDefinitionError: Its fields have types that cannot be read back.
        """
        self._name: Final = name
        self._class: Final = process_class
        try:
            self._decode: Final = msgspec.msgpack.Decoder(process_class).decode
        except (TypeError, NameError, ValueError) as exc:
            raise ProcessDefinitionError(process_class.__qualname__, f"its state cannot be kept: {exc}") from exc

    async def enter(self, connection: Connection, *, position: int) -> None:
        """Make the tables, and the checkpoint at ``position`` where it is not there."""
        await prepare(connection, "processes", _MIGRATIONS)
        await execute(connection, _ENTER, self._name, position)

    async def position(self, connection: Connection) -> int:
        """Return the checkpoint, locked."""
        row = await fetch_one(connection, _POSITION, self._name)
        return 0 if row is None else int(row[0])

    async def move(self, connection: Connection, position: int) -> None:
        """Set the checkpoint."""
        await execute(connection, _MOVE, position, self._name)

    async def several(self, connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
        """Return those processes that are there, locked; whoever locks several does so in one order."""
        found: dict[str, Row] = {}
        for first in range(0, len(ids), _MOST_MARKS):
            some = ids[first : first + _MOST_MARKS]
            rows = await fetch(connection, _SEVERAL.format(marks=_marks(some)), self._name, *some)
            found.update((row[0], _row(row)) for row in rows)
        return found

    async def of_status(self, connection: Connection, status: Status, limit: int) -> list[Row]:
        """Return processes of ``status``, those first that were not changed for longest."""
        return [_row(row) for row in await fetch(connection, _OF_STATUS, self._name, status, limit)]

    async def write(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Keep processes."""
        await self._execute_rows(connection, _WRITE, [_columns(row) for row in rows])

    def process_of(self, row: Row) -> ProcessManager:
        """Return the process that a row keeps.

        Raises:
            DecodeError: Its state does not fit the class.
        """
        try:
            process: ProcessManager = self._decode(row.state)
        except Exception as exc:  # msgspec's, and what a __post_init__ of theirs raises
            problem = f"the state of process {row.id!r} does not fit the class: {exc}"
            raise DecodeError(f"process {self._name}", problem) from exc
        identified: ProcessManager = self._class(row.id)
        process.__avx_course__ = identified.__avx_course__
        process.__avx_course__.is_ended = row.is_ended
        return process

    def state_of(self, process: ProcessManager) -> bytes:
        """Return the state of a process encoded.

        Raises:
            TypeError: A field holds what cannot be encoded, or would not come back.
            ValueError: Likewise.
        """
        state = _encode_state(process)
        self._decode(state)
        return state

    # Commands

    async def add_commands(self, connection: Connection, commands: Sequence[tuple[str, int, str, bytes]]) -> None:
        """Have commands wait: of which process, their numbers in it, their ids, and their documents."""
        await self._execute_rows(connection, _ADD_COMMANDS, [(*command, 0, 0, "") for command in commands])

    async def first_commands(self, connection: Connection, now_us: int, limit: int) -> list[WaitingCommand]:
        """Return the commands that may be dispatched now, one of each process."""
        return [WaitingCommand(*row) for row in await fetch(connection, _FIRSTS, self._name, now_us, limit)]

    async def count_attempts(self, connection: Connection, command_ids: Sequence[str]) -> None:
        """Say that an attempt begins."""
        if command_ids:
            await execute(connection, _COUNT_ATTEMPT.format(marks=_marks(command_ids)), *command_ids)

    async def uncount_attempts(self, connection: Connection, command_ids: Sequence[str]) -> None:
        """Say that attempts did not come to an end of their own."""
        if command_ids:
            await execute(connection, _UNCOUNT_ATTEMPT.format(marks=_marks(command_ids)), *command_ids)

    async def remove_commands(self, connection: Connection, command_ids: Sequence[str]) -> None:
        """Forget commands that are done."""
        if command_ids:
            await execute(connection, _REMOVE_COMMANDS.format(marks=_marks(command_ids)), *command_ids)

    async def postpone(self, connection: Connection, command_id: str, due_us: int) -> None:
        """Have a command wait until then."""
        await execute(connection, _POSTPONE, due_us, command_id)

    async def block(self, connection: Connection, command_id: str, problem: str) -> None:
        """Have a command, and those behind it, wait until somebody mends its process."""
        await execute(connection, _BLOCK, problem, command_id)

    async def unblock(self, connection: Connection, process: str) -> None:
        """Have the commands of a process tried again."""
        await execute(connection, _UNBLOCK, self._name, process)

    async def waiting(self, connection: Connection, process: str, limit: int) -> list[tuple[str, bytes, int, int, str]]:
        """Return id, document, attempts, due instant and problem of each command of a process that waits."""
        found = await fetch(connection, _WAITING, self._name, process, limit)
        return [(command_id, doc, attempts, due_us, problem) for command_id, doc, attempts, due_us, problem in found]

    async def count_waiting(self, connection: Connection) -> int:
        """Count the commands that wait, and neither are blocked nor stand behind one that is."""
        row = await fetch_one(connection, _COUNT_WAITING, self._name)
        return 0 if row is None else int(row[0])

    # Deadlines

    async def set_deadlines(self, connection: Connection, deadlines: Sequence[tuple[str, str, int, str]]) -> None:
        """Set deadlines, or move them: of which process, their names, their instants and causes; each name once."""
        await self._execute_rows(connection, _SET_DEADLINES, deadlines)

    async def cancel_deadlines(self, connection: Connection, deadlines: Sequence[tuple[str, str]]) -> None:
        """Forget deadlines: of which process, and their names."""
        await self._execute_rows(connection, _CANCEL_DEADLINES, deadlines)

    async def cancel_all_deadlines(self, connection: Connection, processes: Sequence[str]) -> None:
        """Forget all deadlines of processes."""
        await self._execute_rows(connection, _CANCEL_ALL, [(process,) for process in processes])

    async def due_deadlines(self, connection: Connection, now_us: int, limit: int) -> list[DueDeadline]:
        """Return the deadlines of running processes whose time has come, the earliest first."""
        return [DueDeadline(*row) for row in await fetch(connection, _DUE, self._name, now_us, limit)]

    async def take_deadline(self, connection: Connection, due: DueDeadline) -> bool:
        """Forget a deadline that is reacted to now; False where it was moved, cancelled or reacted to meanwhile."""
        return await execute(connection, _TAKE_DEADLINE, self._name, due.process, due.name, due.due_us) == 1

    async def deadlines(self, connection: Connection, process: str) -> dict[str, int]:
        """Return the deadlines of a process that are to come: the instants by name."""
        return dict(await fetch(connection, _DEADLINES, self._name, process))

    async def next_us(self, connection: Connection, now_us: int) -> int | None:
        """Return when the next command or deadline is due that is not due yet, None where there is none."""
        found: list[int] = []
        for sql in (_NEXT_COMMAND, _NEXT_DEADLINE):
            row = await fetch_one(connection, sql, self._name, now_us)
            if row is not None and row[0] is not None:
                found.append(int(row[0]))
        return min(found, default=None)

    # Events set aside

    async def park(self, connection: Connection, events: Sequence[tuple[str, int]]) -> None:
        """Set events aside for processes that have failed: for which, and their positions in the log."""
        await self._execute_rows(connection, _PARK, events)

    async def parked(self, connection: Connection, process: str) -> list[int]:
        """Return the positions of the events that are set aside, ascending."""
        return [int(row[0]) for row in await fetch(connection, _PARKED, self._name, process)]

    async def unpark(self, connection: Connection, process: str) -> None:
        """Forget what was set aside."""
        await execute(connection, _UNPARK, self._name, process)

    async def forget_ended(self, connection: Connection, before_us: int) -> int:
        """Forget processes that ended before an instant, and return how many they were."""
        return await execute(connection, _FORGET, self._name, before_us)

    async def _execute_rows(self, connection: Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement over ``rows``, each with the manager's name before it."""
        for portion in _portions(rows):
            marks = f"({_marks([self._name, *portion[0]])})"
            params = [value for row in portion for value in (self._name, *row)]
            await execute(connection, sql.format(rows=", ".join([marks] * len(portion))), *params)


def ids_in_order(ids: Iterable[str]) -> list[str]:
    """Return each id once, in the order in which rows are locked."""
    return sorted(set(ids))


def _portions(rows: Sequence[tuple[object, ...]]) -> Iterator[Sequence[tuple[object, ...]]]:
    """Give the rows in portions of few sizes, so that a database is given few statements to prepare."""
    while rows:
        size = min(1 << (len(rows).bit_length() - 1), _MOST_ROWS)
        yield rows[:size]
        rows = rows[size:]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _row(columns: tuple[Any, ...]) -> Row:
    row = Row(**dict(zip(Row.__struct_fields__, columns, strict=True)))
    row.is_ended = bool(row.is_ended)
    return row


def _columns(row: Row) -> tuple[object, ...]:
    status, is_ended = row.status, int(row.is_ended)
    dates = (row.started_us, row.changed_us)
    return (row.id, status, is_ended, row.state, row.correlation_id, row.user_id, row.sent, *dates, row.problem)
