"""Our tables beside the events, in any database that a store may have: how they are made, and how they are spoken to.

Our statements are written once, as SQLite takes them; ``in_dialect`` says them in PostgreSQL's words.

| here | in PostgreSQL | in SQLite |
|---|---|---|
| ``?`` | ``$1``, ``$2`` and so on | as it is |
| ``INTEGER`` · ``BLOB`` | ``BIGINT`` · ``BYTEA`` | as it is |
| ``WITHOUT ROWID`` | nothing | as it is |
| ``FOR UPDATE`` · ``SKIP LOCKED`` | as it is | nothing: it has one writer |
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final

from avx_events.core.errors import StoreSchemaError
from avx_events.store.ports import Connection, Dialect

_IN_POSTGRESQL: Final = {"INTEGER": "BIGINT", "BLOB": "BYTEA", " WITHOUT ROWID": ""}
_OTHERWISE_IN_POSTGRESQL: Final = re.compile(r"\?|\bINTEGER\b|\bBLOB\b| WITHOUT ROWID")
_NOT_IN_SQLITE: Final = re.compile(r" FOR UPDATE\b| SKIP LOCKED\b")
_MOST_STATEMENTS: Final = 256

_VERSION: Final = "SELECT version FROM avx_schema WHERE component = ?"
_SET_VERSION: Final = (
    "INSERT INTO avx_schema (component, version) VALUES (?, ?)"
    " ON CONFLICT (component) DO UPDATE SET version = excluded.version"
)
# Even with IF NOT EXISTS, two transactions that make one table at once fail in PostgreSQL; the number says "avx_tabl".
_ONE_AT_A_TIME: Final = f"SELECT pg_advisory_xact_lock({int.from_bytes(b'avx_tabl', 'big')})"


@lru_cache(_MOST_STATEMENTS)
def in_dialect(sql: str, dialect: Dialect) -> str:
    """Return a statement of ours as ``dialect`` takes it; see the table above."""
    if dialect == "sqlite":
        return _NOT_IN_SQLITE.sub("", sql)
    numbers = count(1)

    def word(found: re.Match[str]) -> str:
        return f"${next(numbers)}" if found[0] == "?" else _IN_POSTGRESQL[found[0]]

    return _OTHERWISE_IN_POSTGRESQL.sub(word, sql)


async def execute(connection: Connection, sql: str, *params: object) -> int:
    """Run a statement of ours, and return how many rows it changed; see ``Connection.execute``."""
    return await connection.execute(in_dialect(sql, connection.dialect), *params)


async def fetch(connection: Connection, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Run a query of ours, and return its rows; see ``Connection.fetch``."""
    return await connection.fetch(in_dialect(sql, connection.dialect), *params)


async def fetch_one(connection: Connection, sql: str, *params: object) -> tuple[Any, ...] | None:
    """Run a query of ours, and return its first row, or None; see ``Connection.fetch_one``."""
    return await connection.fetch_one(in_dialect(sql, connection.dialect), *params)


async def prepare(connection: Connection, component: str, migrations: Sequence[Sequence[str]]) -> None:
    """Give the database the newest tables of ``component``, whatever it has of them.

    Only one transaction at a time does so; others wait here until it has ended.

    Args:
        connection: A transaction of the store; ``avx_schema``, where versions are kept, is the store's own table.
        component: The name that the version is kept under.
        migrations: For each version in order, the statements that lead to it from the one before. What was released
            is never changed, only followed by another.

    Raises:
        StoreSchemaError: The tables are at a version newer than the last of ``migrations``.
        StoreUnavailableError: The database cannot be read or written now.
    """
    if connection.dialect == "postgresql":
        await connection.fetch(_ONE_AT_A_TIME)
    row = await fetch_one(connection, _VERSION, component)
    version: int = 0 if row is None else row[0]
    wanted = len(migrations)
    if version > wanted:
        problem = f"its tables for {component} are at version {version}, newer than {wanted}; upgrade avx-events"
        raise StoreSchemaError("the store's database", problem)
    if version == wanted:
        return
    for migration in migrations[version:]:
        for statement in migration:
            await execute(connection, statement)
    await execute(connection, _SET_VERSION, component, wanted)
