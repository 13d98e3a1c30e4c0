"""The tables and functions of the store and its like, and how an older database gets them.

``avx_schema`` says which version each component of a database is at. One at a newer version than ours is refused; one
at an older version is brought forward, step by step, in one transaction.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import asyncpg
import msgspec

from avx_events.core.errors import StoreSchemaError

Migration: TypeAlias = Sequence[str]
"""The statements from one version to the next."""


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of one component of a database.

    Attributes:
        component: The name that their version is kept under.
        migrations: One entry for each version, in order; what was released is never changed, only followed by another.
        probes: For each table a query of all its columns: what must be there, whatever ``avx_schema`` says.
    """

    component: str
    migrations: Sequence[Migration]
    probes: Sequence[str]


# Appends take this lock before they look at the log's end and keep it until they are committed: what is at position n
# is visible before anything has position n + 1. One store of a database has one of its own, by the id of its table.
LOCK: Final = "pg_advisory_xact_lock((1098270832::bigint << 32) | 'avx_events'::regclass::oid::bigint)"

# Another process may prepare the same database; the number is arbitrary.
_LOCK_SCHEMA: Final = "SELECT pg_advisory_xact_lock(4717036302894424)"

_APPEND: Final = f"""
CREATE FUNCTION avx_append(
    now_us bigint, streams text[], versions bigint[], turns bigint[], event_ids text[], event_types text[],
    metadata bytea[], data bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    last_position bigint;
    last_us bigint;
BEGIN
    PERFORM {LOCK};
    SELECT position, recorded_at INTO last_position, last_us FROM avx_events ORDER BY position DESC LIMIT 1;
    last_position := coalesce(last_position, 0);
    last_us := greatest(now_us - 1, coalesce(last_us, 0));
    INSERT INTO avx_events
        SELECT last_position + number, stream, version, last_us + turn, event_id, event_type, one_metadata, one_data
        FROM unnest(streams, versions, turns, event_ids, event_types, metadata, data) WITH ORDINALITY
            AS new(stream, version, turn, event_id, event_type, one_metadata, one_data, number);
    RETURN last_position;
EXCEPTION WHEN unique_violation THEN
    RETURN -1;
END
$function$
"""  # noqa: S608 - made of our own constants
_APPEND_ONE: Final = f"""
CREATE FUNCTION avx_append_one(
    now_us bigint, stream text, version bigint, event_id text, event_type text, metadata bytea, data bytea
) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    last_position bigint;
    last_us bigint;
BEGIN
    PERFORM {LOCK};
    SELECT position, recorded_at INTO last_position, last_us FROM avx_events ORDER BY position DESC LIMIT 1;
    last_position := coalesce(last_position, 0);
    INSERT INTO avx_events VALUES (
        last_position + 1, stream, version, greatest(now_us, coalesce(last_us, 0) + 1), event_id, event_type, metadata,
        data
    );
    RETURN last_position;
EXCEPTION WHEN unique_violation THEN
    RETURN -1;
END
$function$
"""  # noqa: S608 - made of our own constants

MIGRATIONS: Final[Sequence[Migration]] = (
    (
        """
        CREATE TABLE avx_events (
            position bigint PRIMARY KEY,
            stream text COLLATE "C" NOT NULL,
            version bigint NOT NULL,
            recorded_at bigint NOT NULL,
            event_id text COLLATE "C" NOT NULL,
            event_type text COLLATE "C" NOT NULL,
            metadata bytea NOT NULL,
            data bytea NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX avx_events_stream ON avx_events (stream, version)",
        "CREATE UNIQUE INDEX avx_events_id ON avx_events (event_id)",
        """
        CREATE TABLE avx_snapshots (
            stream text COLLATE "C" NOT NULL,
            kind text COLLATE "C" NOT NULL,
            fingerprint text NOT NULL,
            version bigint NOT NULL,
            recorded_at bigint NOT NULL,
            state bytea NOT NULL,
            PRIMARY KEY (stream, kind)
        )
        """,
        _APPEND,
        _APPEND_ONE,
    ),
)
EVENTS: Final = Tables(
    component="events",
    migrations=MIGRATIONS,
    probes=(
        "SELECT position, stream, version, recorded_at, event_id, event_type, metadata, data FROM avx_events LIMIT 0",
        "SELECT stream, kind, fingerprint, version, recorded_at, state FROM avx_snapshots LIMIT 0",
    ),
)
_MAKE_VERSIONS: Final = "CREATE TABLE IF NOT EXISTS avx_schema (component text PRIMARY KEY, version integer NOT NULL)"
_SET_VERSION: Final = (
    "INSERT INTO avx_schema (component, version) VALUES ('{component}', {version})"
    " ON CONFLICT (component) DO UPDATE SET version = excluded.version"
)
# to_regclass() would tell what this session saw before it waited for the lock.
_HAS_VERSIONS: Final = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'avx_schema' AND relkind <> 'i' AND pg_table_is_visible(oid))"
)
_VERSION: Final = "SELECT version FROM avx_schema WHERE component = $1"
_ENCODING: Final = "SELECT current_setting('server_encoding')"


def statements(since: int = 0, tables: Tables = EVENTS) -> list[str]:
    """Return the statements that bring the tables from version ``since`` to the newest."""
    steps = [statement.strip() for migration in tables.migrations[since:] for statement in migration]
    done = _SET_VERSION.format(component=tables.component, version=len(tables.migrations))
    return [_MAKE_VERSIONS, *steps, done]


def script(components: Iterable[Tables] = (EVENTS,)) -> str:
    """Return the statements that make the tables, in one transaction, for those who make them by hand."""
    steps = [statement for tables in components for statement in statements(tables=tables)]
    return "BEGIN;\n\n" + "".join(f"{statement};\n\n" for statement in steps) + "COMMIT;\n"


async def prepare(connection: asyncpg.Connection, name: str, tables: Tables = EVENTS) -> None:
    """Give the database the newest tables, whatever it has of them.

    Raises:
        StoreSchemaError: It is at a newer version, has tables of our names that are not ours, or is not in UTF-8.
        asyncpg.PostgresError: It cannot be read or changed.
    """
    encoding = await connection.fetchval(_ENCODING)
    if encoding != "UTF8":
        problem = f"its encoding is {encoding}, which cannot keep every text; make a database with ENCODING 'UTF8'"
        raise StoreSchemaError(name, problem)
    if not await _is_prepared(connection, name, tables):
        async with connection.transaction():
            await connection.execute(_LOCK_SCHEMA)
            # Not by a look into the catalogue: who found nothing there may not see it before it has locked a table.
            await connection.execute(_MAKE_VERSIONS)
            version: int = await connection.fetchval(_VERSION, tables.component) or 0
            if version < len(tables.migrations):  # nobody else was quicker
                await _migrate(connection, name, version, tables)
    await _probe(connection, name, tables)


async def _is_prepared(connection: asyncpg.Connection, name: str, tables: Tables) -> bool:
    version, wanted = await _version(connection, tables), len(tables.migrations)
    if version > wanted:
        problem = f"its schema of {tables.component} is at version {version}, newer than {wanted}"
        raise StoreSchemaError(name, f"{problem}, the newest that this program knows; upgrade avx-events")
    return version == wanted


async def _version(connection: asyncpg.Connection, tables: Tables) -> int:
    if not await connection.fetchval(_HAS_VERSIONS):
        return 0
    version: int | None = await connection.fetchval(_VERSION, tables.component)
    return version or 0


async def _migrate(connection: asyncpg.Connection, name: str, version: int, tables: Tables) -> None:
    try:
        for statement in statements(version, tables):
            await connection.execute(statement)
    except (asyncpg.DuplicateTableError, asyncpg.DuplicateFunctionError) as exc:
        problem = (
            f"it has something of that name already that is not ours ({exc}); use another schema: schema= of the URL"
        )
        raise StoreSchemaError(name, problem) from exc


async def _probe(connection: asyncpg.Connection, name: str, tables: Tables) -> None:
    try:
        for probe in tables.probes:
            await connection.execute(probe)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as exc:
        problem = f"its tables are not as version {len(tables.migrations)} has them ({exc})"
        raise StoreSchemaError(name, problem) from exc
