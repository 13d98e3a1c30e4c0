"""Statements that a user of the store wrote: run on a connection, and their errors told as the store's own."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from avx_events.core.errors import TransactionError
from avx_events.storage.sqlite.failures import is_refused_write, statement_error

ResultT = TypeVar("ResultT")

Answer: TypeAlias = Callable[[sqlite3.Cursor], ResultT]
"""What is made of a statement that was run."""

REFUSALS: Final = (sqlite3.Error, TypeError, ValueError, OverflowError)
"""What sqlite3 raises for a statement: all that is a ``Failure``."""

# Comments may come first. Possessive (*+), so that many of them are looked at once and not in every combination.
_BEFORE: Final = r"(?:\s|--[^\n]*|/\*.*?\*/)*+"
_QUERY: Final = re.compile(rf"{_BEFORE}(?:SELECT|WITH|VALUES|EXPLAIN)\b", re.IGNORECASE | re.DOTALL)
_CHANGES: Final = re.compile(rf"{_BEFORE}(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE | re.DOTALL)
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


def execute_many(connection: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> sqlite3.Cursor:
    """Execute ``sql`` for each of ``rows``, at least one."""
    if _CHANGES.match(sql):  # Python's own takes no other ones
        return connection.executemany(sql, rows)
    cursor = connection.cursor()
    for params in rows:
        cursor.execute(sql, params)
    return cursor


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
        return answer(connection.execute(sql, params))
    except REFUSALS as exc:
        if is_refused_write(exc):
            raise TransactionError(f"{_ONLY_READS}: {sql!r}") from exc
        raise statement_error(exc, url, sql) from exc
    finally:
        connection.execute("PRAGMA query_only = OFF")
