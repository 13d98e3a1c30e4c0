"""Statements that a user of the store wrote: run on a connection, and their errors told as the store's own."""

import re
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from avx_events.core.errors import TransactionError
from avx_events.storage.sqlite.failures import is_refused_write, statement_error

ResultT = TypeVar("ResultT")

Answer: TypeAlias = Callable[[sqlite3.Cursor], ResultT]
"""What is made of a statement that was run."""

# Comments may come first. Possessive (*+), so that many of them are looked at once and not in every combination.
_QUERY: Final = re.compile(r"(?:\s|--[^\n]*|/\*.*?\*/)*+(?:SELECT|WITH|VALUES|EXPLAIN)\b", re.IGNORECASE | re.DOTALL)
_ONLY_READS: Final = (
    "fetch() and fetch_one() of the store only read (SELECT, WITH, VALUES, EXPLAIN); "
    "write in a projection or inside of 'async with store.transaction()'"
)


def changed_rows(cursor: sqlite3.Cursor) -> int:
    """Return how many rows the statement changed, 0 for one that changes none."""
    return max(cursor.rowcount, 0)


def all_rows(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """Return all rows."""
    return cursor.fetchall()


def first_row(cursor: sqlite3.Cursor) -> tuple[Any, ...] | None:
    """Return the first row, None where there is none."""
    row: tuple[Any, ...] | None = cursor.fetchone()
    cursor.close()  # what is left of the rows would keep the read open
    return row


def execute(connection: sqlite3.Connection, sql: str, params: tuple[Any, ...]) -> sqlite3.Cursor:
    """Execute ``sql``; everything that is wrong with it or its parameters is a ``sqlite3.Error``."""
    try:
        return connection.execute(sql, params)
    except (TypeError, ValueError, OverflowError) as exc:  # no text, or a parameter that SQLite has no type for
        problem = f"{exc}"
        raise sqlite3.InterfaceError(problem) from exc


def run(
    connection: sqlite3.Connection, answer: Answer[ResultT], sql: str, params: tuple[object, ...], *, url: str
) -> ResultT:
    """Run a statement, and return the ``answer`` to it.

    Raises:
        StatementError: The database refused it, or a parameter.
        StoreUnavailableError: The disk is full, or the file locked or not readable.
        StoreSchemaError: The database is damaged.
    """
    try:
        return answer(execute(connection, sql, params))
    except sqlite3.Error as exc:
        raise statement_error(exc, url, sql) from exc


def check_query(sql: object) -> None:
    """Raise where ``sql`` does not begin as a query; one that begins so and writes is found out by ``run_query``.

    Raises:
        TransactionError: It does not.
    """
    if isinstance(sql, str) and _QUERY.match(sql) is None:
        raise TransactionError(f"{_ONLY_READS}: {sql!r}")


def run_query(
    connection: sqlite3.Connection, answer: Answer[ResultT], sql: str, params: tuple[object, ...], *, url: str
) -> ResultT:
    """Run a query that passed ``check_query``, and return the ``answer`` to it; a write is refused.

    Raises:
        TransactionError: It would write.
        StatementError: The database refused it for another reason, or a parameter.
        StoreUnavailableError: The file is locked or not readable.
        StoreSchemaError: The database is damaged.
    """
    connection.execute("PRAGMA query_only = ON")
    try:
        return answer(execute(connection, sql, params))
    except sqlite3.Error as exc:
        if is_refused_write(exc):
            raise TransactionError(f"{_ONLY_READS}: {sql!r}") from exc
        raise statement_error(exc, url, sql) from exc
    finally:
        connection.execute("PRAGMA query_only = OFF")
