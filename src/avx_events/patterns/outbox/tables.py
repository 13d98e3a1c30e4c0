"""The tables of outboxes, inboxes and relays, and how a database gets them."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from avx_events.core.errors import InvalidArgumentError
from avx_events.store.ports import Dialect

Statements: TypeAlias = Sequence[str]

# A program may have made the tables before a relay comes, or by hand: so each statement bears to be repeated.
_OUTBOX_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS avx_outbox_waiting ON avx_outbox (id) WHERE published_us IS NULL",
    "CREATE INDEX IF NOT EXISTS avx_outbox_published ON avx_outbox (published_us) WHERE published_us IS NOT NULL",
)
_OUTBOX: Final[Mapping[Dialect, Statements]] = {
    "sqlite": (
        """
        CREATE TABLE IF NOT EXISTS avx_outbox (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL,
            event_type TEXT NOT NULL,
            key TEXT NOT NULL,
            document BLOB NOT NULL,
            added_us INTEGER NOT NULL,
            published_us INTEGER
        )
        """,
        *_OUTBOX_INDEXES,
    ),
    "postgresql": (
        """
        CREATE TABLE IF NOT EXISTS avx_outbox (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            event_id TEXT NOT NULL,
            event_type TEXT NOT NULL,
            key TEXT NOT NULL,
            document BYTEA NOT NULL,
            added_us BIGINT NOT NULL,
            published_us BIGINT
        )
        """,
        *_OUTBOX_INDEXES,
    ),
}
# No WITHOUT ROWID: both dialects know this text.
_INBOX: Final = (
    """
    CREATE TABLE IF NOT EXISTS avx_inbox (
        name TEXT NOT NULL,
        event_id TEXT NOT NULL,
        handled_us BIGINT NOT NULL,
        PRIMARY KEY (name, event_id)
    )
    """,
    "CREATE INDEX IF NOT EXISTS avx_inbox_handled ON avx_inbox (name, handled_us)",
)
_RELAYS: Final = (
    """
    CREATE TABLE IF NOT EXISTS avx_relays (
        name TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        until_us BIGINT NOT NULL,
        position BIGINT NOT NULL
    )
    """,
)
# Two who make one table at once fail on PostgreSQL, whatever IF NOT EXISTS says. The numbers are arbitrary.
_ALONE: Final[Mapping[Dialect, Statements]] = {
    "sqlite": (),
    "postgresql": ("SELECT pg_advisory_xact_lock(4717036302894425)",),
}
DIALECTS: Final[tuple[Dialect, ...]] = ("sqlite", "postgresql")


def outbox_ddl(dialect: Dialect) -> str:
    """Return the SQL that makes ``avx_outbox``, for who migrates by hand; harmless where the table is there.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    return _script(_OUTBOX[_checked(dialect)])


def inbox_ddl(dialect: Dialect) -> str:
    """Return the SQL that makes ``avx_inbox``, as ``outbox_ddl`` does.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    _checked(dialect)
    return _script(_INBOX)


def outbox_statements(dialect: Dialect) -> Statements:
    """Return what makes ``avx_outbox`` inside of a transaction."""
    return (*_ALONE[dialect], *_OUTBOX[dialect])


def inbox_statements(dialect: Dialect) -> Statements:
    """Return what makes ``avx_inbox`` inside of a transaction."""
    return (*_ALONE[dialect], *_INBOX)


def relay_statements(dialect: Dialect) -> Statements:
    """Return what makes ``avx_relays`` inside of a transaction."""
    return (*_ALONE[dialect], *_RELAYS)


def _script(statements: Statements) -> str:
    return "".join(f"{_unindented(statement)};\n" for statement in statements)


def _unindented(statement: str) -> str:
    lines = statement.strip().splitlines()
    return "\n".join(line.removeprefix("        ") if len(lines) > 1 else line for line in lines)


def _checked(dialect: Dialect) -> Dialect:
    if dialect not in DIALECTS:
        raise InvalidArgumentError("dialect", dialect, expected=f"one of {', '.join(DIALECTS)}")
    return dialect
