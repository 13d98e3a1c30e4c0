"""One transaction on the connection that writes, for what must change together with the store: projections."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

from avx_events.core.errors import TransactionError
from avx_events.storage.sqlite.brief_statements import BriefStatements
from avx_events.storage.sqlite.failures import statement_error, store_error
from avx_events.storage.sqlite.interruption import run_while_awaited
from avx_events.storage.sqlite.location import OpenFile
from avx_events.storage.sqlite.statements import REFUSALS, Answer, all_rows, changed_rows, execute_many, first_row
from avx_events.storage.sqlite.writers import Work, Writer
from avx_events.store.later_statements import Group, LaterStatements
from avx_events.store.ports import Dialect

ResultT = TypeVar("ResultT")

Check: TypeAlias = Callable[[str], None]
"""Raises where the store is closed, or belongs to another loop; is given what the caller is about to do."""

Execute: TypeAlias = Callable[[sqlite3.Connection, str, Any], sqlite3.Cursor]
"""Runs a statement on a connection, with one row of parameters or with several."""

_BEGIN: Final = "begin a transaction"
_USE: Final = "use the connection of a transaction"
_OVER: Final = "the transaction is over; use its connection only inside of 'async with store.transaction()'"
_UNDONE: Final = (
    "an earlier statement failed, or was given up, and the database undid the whole transaction; nothing was written"
)
_ENDED: Final = "a statement ended the transaction; leave COMMIT and ROLLBACK to its block"
# The longest that statements run on the loop one after the other, in seconds, before it has a turn.
_BREATH_S: Final = 0.001


class SqliteTransaction:
    """The connection inside one transaction; statements run in the order they are awaited in.

    Those that are brief run on the loop itself: to be handed to a thread and back costs twenty times what they take.
    """

    _connection: sqlite3.Connection  # of the writer, once it has begun

    def __init__(self, writer: Writer, brief: BriefStatements, file: OpenFile, *, check: Check) -> None:
        self._writer = writer
        self._brief = brief
        self._file = file
        self._check = check
        self._later = LaterStatements()
        self._breathes_at = monotonic() + _BREATH_S
        self.is_open = True

    @property
    def dialect(self) -> Dialect:
        """SQLite's."""
        return "sqlite"

    def belongs_to(self, writer: Writer) -> bool:
        """Return whether it is a transaction on ``writer``."""
        return self._writer is writer

    async def begin(self) -> None:
        """Begin it, and hold appends up.

        Raises:
            StoreUnavailableError: It cannot be begun now.
            StoreSchemaError: The database is damaged.
        """

        def begin(connection: sqlite3.Connection) -> None:
            self._file.check()
            connection.execute("BEGIN IMMEDIATE")
            self._writer.hold()
            self._brief.begin(connection)
            self._connection = connection

        if not self._has_begun_here():
            await self._run_or_undo(begin, run=self._writer.run)

    def _has_begun_here(self) -> bool:
        """Begin on the loop, where that takes microseconds: nobody uses the connection, and nobody has the lock."""
        self._file.check()
        connection = self._writer.hold_at_once()
        if connection is None:
            return False
        (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("BEGIN IMMEDIATE")
            self._brief.begin(connection)
        except sqlite3.Error:  # the thread waits for the lock, or says what is wrong
            _end(connection, self._writer)
            return False
        finally:
            connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        self._connection = connection
        return True

    async def commit(self) -> None:
        """End it, with everything that it did.

        Raises:
            TransactionError: A statement has ended it.
            StoreUnavailableError: It cannot be committed; nothing was written.
            StoreSchemaError: The database is damaged.
        """
        self.is_open = False

        def commit(connection: sqlite3.Connection) -> None:
            try:
                if not connection.in_transaction:
                    raise TransactionError(_UNDONE)
                self._file.check()  # it may have gone meanwhile
                connection.execute("COMMIT")
            finally:
                _end(connection, self._writer)

        await self._run_or_undo(commit, run=self._writer.run_at_once)

    def abandon(self) -> None:
        """End it, with nothing of what it did."""
        self.is_open = False
        undo(self._writer)

    async def execute(self, sql: str, *params: object) -> int:
        """Run one statement and return how many rows it changed; see ``Connection.execute``."""
        if self._later.is_waiting:
            await self.flush()
        if self._is_for_here(sql):
            return self._result(self._connection, changed_rows, sql, params)
        return await self._run(changed_rows, sql, params)

    async def execute_later(self, sql: str, *params: object) -> None:
        """Run one statement with others; see ``Connection.execute_later``."""
        self._check(_USE)
        if not self.is_open:
            raise TransactionError(_OVER)
        if self._later.add(sql, params):
            await self.flush()

    async def flush(self) -> None:
        """Send what was put off; see ``Connection.flush``."""
        groups = self._later.take()
        if groups and self._writer.is_at_rest and all(self._is_brief(sql) for sql, _ in groups):
            self._check(_USE)
            self._run_groups(self._connection, groups)  # without a pause, so that no other task comes in between
        elif groups:
            await self._run_groups_there(groups)

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query and return its rows; see ``Connection.fetch``."""
        if self._later.is_waiting:
            await self.flush()
        if self._is_for_here(sql):
            return self._result(self._connection, all_rows, sql, params)
        return await self._run(all_rows, sql, params)

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Run one query and return its first row, or None; see ``Connection.fetch_one``."""
        if self._later.is_waiting:
            await self.flush()
        if self._is_for_here(sql):
            return self._result(self._connection, first_row, sql, params)
        return await self._run(first_row, sql, params)

    async def _run_or_undo(self, work: Work[None], *, run: Callable[[Work[None]], Awaitable[None]]) -> None:
        try:
            self._check("begin or end a transaction")
            await run(work)
        except BaseException as exc:  # cancelled, or the store is being closed: nobody else would end what is begun
            self.abandon()
            if isinstance(exc, sqlite3.Error):
                raise store_error(exc, self._file.url) from exc
            raise

    def _is_brief(self, sql: object) -> bool:
        return isinstance(sql, str) and sql in self._brief.texts

    def _is_for_here(self, sql: object) -> bool:
        # Asked for each statement: only the first question is written out (bench/projections.py).
        if isinstance(sql, str) and sql in self._brief.texts and self._writer.is_at_rest:
            self._check(_USE)
            return monotonic() <= self._breathes_at
        return False

    async def _run(self, answer: Answer[ResultT], sql: str, params: tuple[object, ...]) -> ResultT:
        if monotonic() > self._breathes_at:
            await asyncio.sleep(0)
            self._breathes_at = monotonic() + _BREATH_S
            if self._is_for_here(sql):
                return self._result(self._connection, answer, sql, params)
        self._check(_USE)

        def work(connection: sqlite3.Connection) -> ResultT:
            result = self._result(connection, answer, sql, params)
            self._brief.has_run(connection, sql, params)
            return result

        return await run_while_awaited(self._writer, work)

    async def _run_groups_there(self, groups: Sequence[Group]) -> None:
        with self._later.sending(groups[0]):  # where all of it is cancelled before it begins
            await run_while_awaited(self._writer, lambda connection: self._run_groups(connection, groups))

    def _run_groups(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> None:
        for sql, rows in groups:
            with self._later.sending((sql, rows)):
                self._result(connection, changed_rows, sql, rows, execute=execute_many)
            self._brief.has_run(connection, sql, rows[0])

    def _result(
        self,
        connection: sqlite3.Connection,
        answer: Answer[ResultT],
        sql: str,
        params: Sequence[Any],
        *,
        execute: Execute = sqlite3.Connection.execute,
    ) -> ResultT:
        if not self.is_open:
            raise TransactionError(_OVER)
        if not connection.in_transaction:
            raise TransactionError(_UNDONE)
        try:
            result = answer(execute(connection, sql, params))
        except REFUSALS as exc:
            raise statement_error(exc, self._file.url, sql) from exc
        if not connection.in_transaction:
            raise TransactionError(f"{_ENDED}: {sql!r}")
        return result


# The transaction of the running task and of those that it started. An append of theirs would wait for the end of the
# block, and the block for the append.
_current: ContextVar[SqliteTransaction | None] = ContextVar("avx_sqlite_transaction", default=None)


def refuse_inside(writer: Writer, action: str, *, because: str = "it would wait for itself") -> None:
    """Raise where the caller is inside of an open transaction of ``writer``, where it cannot do ``action``.

    Raises:
        TransactionError: It is.
    """
    current = _current.get()
    if current is not None and current.is_open and current.belongs_to(writer):
        raise TransactionError(f"cannot {action} inside of 'async with store.transaction()': {because}")


@asynccontextmanager
async def sqlite_transaction(
    writer: Writer, brief: BriefStatements, file: OpenFile, *, turn: asyncio.Lock, check: Check
) -> AsyncGenerator[SqliteTransaction, None]:
    """Open a transaction on ``writer``'s connection when it is this caller's ``turn``.

    Raises:
        TransactionError: The caller has one open.
        ClosedError: The store is closed, perhaps since the caller began to wait.
        WrongLoopError: The caller runs on another loop.
        StoreUnavailableError: It cannot be begun or committed now, or the file is not in its place any more.
        StoreSchemaError: The database is damaged.
    """
    check(_BEGIN)
    refuse_inside(writer, _BEGIN)
    async with turn:
        check(_BEGIN)
        current = SqliteTransaction(writer, brief, file, check=check)
        await current.begin()
        token = _current.set(current)
        try:
            yield current
            await current.flush()
        except BaseException:
            current.abandon()
            raise
        finally:
            _current.reset(token)
        await current.commit()


def undo(writer: Writer) -> None:
    """Undo the transaction that is open on ``writer``, if there is one."""
    writer.post(lambda connection: _end(connection, writer))


def _end(connection: sqlite3.Connection, writer: Writer) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
    writer.release()
