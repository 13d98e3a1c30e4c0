"""The tables of the store and its like, and how an older file gets them.

``avx_schema`` says which version each component of a file is at. A file at a newer version than ours is refused; one at
an older version is brought forward, step by step, in one transaction.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from avx_events.core.errors import StoreSchemaError

Migration: TypeAlias = Sequence[str]
"""The statements from one version to the next."""


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of one component of a file.

    Attributes:
        component: The name that their version is kept under.
        migrations: One entry for each version, in order; what was released is never changed, only followed by another.
        probes: For each table a query of all its columns: what must be there, whatever ``avx_schema`` says.
    """

    component: str
    migrations: Sequence[Migration]
    probes: Mapping[str, str]


MIGRATIONS: Final[Sequence[Migration]] = (
    (
        """
        CREATE TABLE avx_events (
            position INTEGER PRIMARY KEY,
            stream TEXT NOT NULL,
            version INTEGER NOT NULL,
            recorded_at INTEGER NOT NULL,
            event_id TEXT NOT NULL,
            event_type TEXT NOT NULL,
            metadata BLOB NOT NULL,
            data BLOB NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX avx_events_stream ON avx_events (stream, version)",
        "CREATE UNIQUE INDEX avx_events_id ON avx_events (event_id)",
        """
        CREATE TABLE avx_snapshots (
            stream TEXT NOT NULL,
            kind TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            version INTEGER NOT NULL,
            recorded_at INTEGER NOT NULL,
            state BLOB NOT NULL,
            PRIMARY KEY (stream, kind)
        )
        """,
    ),
)
EVENTS: Final = Tables(
    component="events",
    migrations=MIGRATIONS,
    probes={
        "avx_events": (
            "SELECT position, stream, version, recorded_at, event_id, event_type, metadata, data"
            " FROM avx_events LIMIT 0"
        ),
        "avx_snapshots": "SELECT stream, kind, fingerprint, version, recorded_at, state FROM avx_snapshots LIMIT 0",
    },
)


def is_prepared(connection: sqlite3.Connection, url: str, tables: Tables = EVENTS) -> bool:
    """Return whether the file has the tables of the newest version; it is only read.

    Raises:
        StoreSchemaError: The file is at a newer version, or has tables of our names that are not ours.
        sqlite3.Error: It cannot be read.
    """
    version, wanted = _version(connection, url, tables), len(tables.migrations)
    if version > wanted:
        problem = f"its schema of {tables.component} is at version {version}, newer than {wanted}"
        raise StoreSchemaError(url, f"{problem}, the newest that this program knows; upgrade avx-events")
    if version < wanted:
        return False
    for probe in tables.probes.values():
        _ask(connection, url, probe, problem=f"its tables are not as version {wanted} has them")
    return True


def prepare(connection: sqlite3.Connection, url: str, tables: Tables = EVENTS) -> None:
    """Give the file the tables of the newest version, whatever it has of them.

    Two processes may do this at once: the second finds the work done.

    Raises:
        StoreSchemaError: As ``is_prepared``.
        sqlite3.Error: It cannot be read or written.
    """
    if is_prepared(connection, url, tables):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, _version(connection, url, tables), tables)
        is_prepared(connection, url, tables)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, url: str, tables: Tables) -> int:
    names = {
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'avx!_%' ESCAPE '!'")
    }
    if "avx_schema" not in names:
        if names & tables.probes.keys():
            raise StoreSchemaError(url, "it has tables called avx_..., but no avx_schema that says what they are")
        return 0
    rows = _ask(
        connection,
        url,
        "SELECT version FROM avx_schema WHERE component = ?",
        tables.component,
        problem="its table avx_schema is not ours",
    )
    version = rows[0][0] if rows else 0
    if not isinstance(version, int) or version < 0:
        raise StoreSchemaError(url, f"its schema version is {version!r}, which is none of ours")
    return version


def _ask(
    connection: sqlite3.Connection, url: str, sql: str, *parameters: str, problem: str
) -> list[tuple[object, ...]]:
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # locked, say; this one is a missing table or column
            raise
        raise StoreSchemaError(url, f"{problem} ({exc})") from exc


def _migrate(connection: sqlite3.Connection, version: int, tables: Tables) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS avx_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)")
    for migration in tables.migrations[version:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute(
        "INSERT OR REPLACE INTO avx_schema (component, version) VALUES (?, ?)",
        (tables.component, len(tables.migrations)),
    )
