"""Connections of other libraries, told apart by what they can do: none of these libraries is imported.

| connection | what it is known by |
|---|---|
| the store's own | ``dialect`` |
| asyncpg | ``is_in_transaction()`` |
| sqlite3 | ``in_transaction``, and a ``commit()`` that is plain |
| aiosqlite | ``in_transaction``, and a ``commit()`` that is awaited |

What a client library raises comes out as it is: the transaction is its user's, who knows these errors.
"""

from typing import Any, Final, Protocol

from avx_events.core.callables import is_async
from avx_events.core.errors import InvalidArgumentError, TransactionError
from avx_events.patterns.tables import in_dialect
from avx_events.store.ports import Connection, Dialect

_EXPECTED: Final = (
    "the connection of store.transaction(), or an asyncpg, sqlite3 or aiosqlite connection, inside of a transaction"
)
_EXPECTED_NOW: Final = "a sqlite3 connection inside of a transaction; the others are awaited"
_NO_TRANSACTION: Final = (
    "the connection is not in a transaction, so this would be committed apart from your own changes; begin one first"
)


class Writer(Protocol):
    """A connection, whosever it is, as outbox and inbox use it."""

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it takes."""
        ...

    async def execute(self, sql: str, *params: object) -> int:
        """Run one statement, written with ``?``, and return how many rows it changed."""
        ...


class SqliteWriter:
    """A connection of sqlite3, which the caller's thread writes to at once."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute_now(self, sql: str, *params: object) -> int:
        """Run one statement, and return how many rows it changed."""
        rows: int = self._connection.execute(sql, params).rowcount
        return rows

    async def execute(self, sql: str, *params: object) -> int:
        """Do the same, where others are awaited."""
        return self.execute_now(sql, *params)


class _StoreWriter:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, sql: str, *params: object) -> int:
        return await self._connection.execute(in_dialect(sql, self.dialect), *params)


class _AsyncpgWriter:
    dialect: Dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, *params: object) -> int:
        status: str = await self._connection.execute(in_dialect(sql, "postgresql"), *params)
        rows = status.rpartition(" ")[2]
        return int(rows) if rows.isdecimal() else 0  # "INSERT 0 1", "DELETE 3", "CREATE TABLE"


class _AiosqliteWriter:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, *params: object) -> int:
        async with self._connection.execute(sql, params) as cursor:
            rows: int = cursor.rowcount
            return rows


def writer_on(connection: object) -> Writer:
    """Return ``connection`` as one that can be written to, if it is one we know and is in a transaction.

    Raises:
        InvalidArgumentError: It is none that we know.
        TransactionError: It is in no transaction, and would not begin one by itself.
    """
    given: Any = connection
    if hasattr(connection, "dialect") and hasattr(connection, "fetch_one"):
        return _StoreWriter(given)
    if hasattr(connection, "is_in_transaction") and hasattr(connection, "fetchrow"):
        if not given.is_in_transaction():
            raise TransactionError(_NO_TRANSACTION)
        return _AsyncpgWriter(given)
    if not _is_like_sqlite3(connection):
        raise InvalidArgumentError("connection", connection, expected=_EXPECTED)
    _check_in_transaction(connection)
    return _AiosqliteWriter(connection) if _is_awaited(connection) else SqliteWriter(connection)


def writer_now_on(connection: object) -> SqliteWriter:
    """Return a connection of sqlite3 as one that is written to without awaiting anything.

    Raises:
        InvalidArgumentError: It is another one.
        TransactionError: As ``writer_on``.
    """
    if not _is_like_sqlite3(connection) or _is_awaited(connection):
        raise InvalidArgumentError("connection", connection, expected=_EXPECTED_NOW)
    _check_in_transaction(connection)
    return SqliteWriter(connection)


def _is_like_sqlite3(connection: object) -> bool:
    return all(hasattr(connection, name) for name in ("in_transaction", "isolation_level", "execute", "commit"))


def _is_awaited(connection: Any) -> bool:
    return is_async(connection.commit)


def _check_in_transaction(connection: Any) -> None:
    """Raise where a statement would be committed by itself: sqlite3's own default begins a transaction before it."""
    begins_one = connection.isolation_level is not None or getattr(connection, "autocommit", -1) is False
    if not connection.in_transaction and not begins_one:
        raise TransactionError(_NO_TRANSACTION)
