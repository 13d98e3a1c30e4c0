"""One transaction on a connection of its own, for what must change together: projections, outboxes."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import asyncpg

from avx_events.core.errors import CommitUnknownError, StoreUnavailableError, TransactionError
from avx_events.storage.postgres.failures import FAILURES, check_statement, is_lost, said_by, statement_error
from avx_events.storage.postgres.sessions import PooledConnection, Sessions, is_open
from avx_events.store.later_statements import LaterStatements
from avx_events.store.ports import Dialect

Check: TypeAlias = Callable[[str], None]
"""Raises where the store is closed, or belongs to another loop; is given what the caller is about to do."""

Statement: TypeAlias = Callable[..., Awaitable[Any]]
"""A method of the connection, given a statement and its parameters."""

_BEGIN: Final = "begin a transaction"
_USE: Final = "use the connection of a transaction"
_OVER: Final = "the transaction is over; use its connection only inside of 'async with store.transaction()'"
_UNDONE: Final = (
    "an earlier statement failed or was cancelled, and PostgreSQL undid the whole transaction; nothing was written"
)
_ENDS: Final = "it would end the transaction; leave COMMIT and ROLLBACK to its block"
_ENDED: Final = "several statements in one ended the transaction; give them one by one, and leave COMMIT to its block"
_LOST: Final = "the connection of the transaction was lost before it was committed"

# BEGIN, SAVEPOINT and ROLLBACK TO do not end it.
_ENDING: Final = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class PostgresTransaction:
    """The connection inside one transaction; statements run in the order they are awaited in."""

    def __init__(self, sessions: Sessions, connection: PooledConnection, name: str, *, check: Check) -> None:
        self._sessions: Final = sessions
        self._connection: Final = connection
        self._name: Final = name
        self._check: Final = check
        self._turn: Final = asyncio.Lock()
        self._later: Final = LaterStatements()
        self.is_open = True

    @property
    def dialect(self) -> Dialect:
        """PostgreSQL's."""
        return "postgresql"

    def belongs_to(self, sessions: Sessions) -> bool:
        """Return whether it is a transaction of the store with ``sessions``."""
        return self._sessions is sessions

    async def commit(self, *, timeout_s: float) -> None:
        """End it, with everything that it did.

        Raises:
            TransactionError: A statement failed or was cancelled, so that there is nothing to commit, or ended it.
            CommitUnknownError: The connection was lost while it was committed.
            StoreUnavailableError: It cannot be committed; nothing was written.
            StatementError: A constraint that was deferred does not hold; nothing was written.
            ClosedError: The store was closed meanwhile; nothing was written.
        """
        self._check("commit a transaction")
        if not self.is_open:
            raise TransactionError(_OVER)
        self.is_open = False
        if not is_open(self._connection):
            raise StoreUnavailableError(self._name, _LOST)
        try:
            status = await self._connection.execute("COMMIT", timeout=timeout_s)
        except FAILURES as exc:
            if is_lost(exc):
                raise CommitUnknownError(self._name, said_by(exc)) from exc
            raise statement_error(exc, self._name, "COMMIT") from exc
        if status != "COMMIT":  # the server undoes a transaction in which something went wrong, and calls it no error
            raise TransactionError(_UNDONE)

    async def execute(self, sql: str, *params: object) -> int:
        """Run one statement and return how many rows it changed; see ``Connection.execute``."""
        status = await self._run(self._connection.execute, sql, params)
        verb, _, rest = status.partition(" ")
        return int(rest.rpartition(" ")[2]) if verb in {"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"} else 0

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query and return its rows; see ``Connection.fetch``."""
        return [tuple(row) for row in await self._run(self._connection.fetch, sql, params)]

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Run one query and return its first row, or None; see ``Connection.fetch_one``."""
        row = await self._run(self._connection.fetchrow, sql, params)
        return None if row is None else tuple(row)

    async def execute_later(self, sql: str, *params: object) -> None:
        """Run one statement with others; see ``Connection.execute_later``."""
        self._check_statement(sql)
        if self._later.add(sql, params):
            await self.flush()

    async def flush(self) -> None:
        """Send what was put off; see ``Connection.flush``."""
        if self._later.is_waiting:
            async with self._turn:
                await self._send_later()

    async def _run(self, statement: Statement, sql: str, params: tuple[object, ...]) -> Any:
        async with self._turn:  # tasks may share it
            if self._later.is_waiting:
                await self._send_later()
            return await self._answer(statement, sql, *params)

    async def _send_later(self) -> None:
        for sql, rows in self._later.take():
            with self._later.sending((sql, rows)):
                await self._answer(self._connection.executemany, sql, rows)

    async def _answer(self, statement: Statement, sql: str, *params: object) -> Any:
        self._check_statement(sql)
        try:
            with self._sessions.watched(self._connection):
                answer = await statement(sql, *params)
        except asyncpg.InFailedSQLTransactionError as exc:
            raise TransactionError(_UNDONE) from exc
        except (*FAILURES, TypeError, ValueError) as exc:
            raise statement_error(exc, self._name, sql) from exc
        if is_open(self._connection) and not self._connection.is_in_transaction():
            self.is_open = False
            raise TransactionError(f"{_ENDED}: {sql!r}")
        return answer

    def _check_statement(self, sql: str) -> None:
        self._check(_USE)
        if not self.is_open:
            raise TransactionError(_OVER)
        check_statement(sql)
        if _ENDING.match(sql):
            raise TransactionError(f"{_ENDS}: {sql!r}")


# The transaction of the running task and of those that it started. What they append would be committed apart from it.
_current: ContextVar[PostgresTransaction | None] = ContextVar("avx_postgres_transaction", default=None)


def refuse_inside(sessions: Sessions, action: str, *, because: str = "it would be committed apart from it") -> None:
    """Raise where the caller is inside of an open transaction of ``sessions``, where it cannot do ``action``.

    Raises:
        TransactionError: It is.
    """
    current = _current.get()
    if current is not None and current.is_open and current.belongs_to(sessions):
        raise TransactionError(f"cannot {action} inside of 'async with store.transaction()': {because}")


@asynccontextmanager
async def postgres_transaction(
    sessions: Sessions, name: str, *, timeout_s: float, check: Check
) -> AsyncGenerator[PostgresTransaction, None]:
    """Open a transaction on a connection of ``sessions``; the commit may take ``timeout_s``.

    Raises:
        TransactionError: The caller has one open; on leaving: a statement failed or was cancelled.
        ClosedError: The store is closed, perhaps since the caller began to wait.
        WrongLoopError: The caller runs on another loop.
        CommitUnknownError: The connection was lost while it was committed.
        StoreUnavailableError: It cannot be begun or committed now.
    """
    check(_BEGIN)
    refuse_inside(sessions, _BEGIN)
    async with sessions.lend() as connection:
        check(_BEGIN)
        current = PostgresTransaction(sessions, connection, name, check=check)
        token = _current.set(current)
        try:
            yield current
            await current.flush()
        except BaseException:
            current.is_open = False
            raise
        finally:
            _current.reset(token)
        await current.commit(timeout_s=timeout_s)
