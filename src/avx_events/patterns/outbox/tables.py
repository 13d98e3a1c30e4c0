"""The tables of outboxes, inboxes and relays, and how a database gets them."""

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Final, TypeAlias

from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.tables import in_dialect
from avx_events.store.ports import Dialect

Statements: TypeAlias = Sequence[str]

# A program may have made the tables before a relay comes, or by hand: so each statement bears to be repeated.
_OUTBOX: Final = """
    CREATE TABLE IF NOT EXISTS avx_outbox (
        id {number},
        event_id TEXT NOT NULL,
        event_type TEXT NOT NULL,
        key TEXT NOT NULL,
        document BLOB NOT NULL,
        added_us INTEGER NOT NULL,
        published_us INTEGER
    )
    """
_OUTBOX_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS avx_outbox_waiting ON avx_outbox (id) WHERE published_us IS NULL",
    "CREATE INDEX IF NOT EXISTS avx_outbox_published ON avx_outbox (published_us) WHERE published_us IS NOT NULL",
)
# A number is never used again, also of a row that was removed.
OUTBOX: Final[Mapping[Dialect, Statements]] = {
    "sqlite": (_OUTBOX.format(number="INTEGER PRIMARY KEY AUTOINCREMENT"), *_OUTBOX_INDEXES),
    "postgresql": (_OUTBOX.format(number="INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY"), *_OUTBOX_INDEXES),
}
"""What makes ``avx_outbox``."""

INBOX: Final[Statements] = (
    """
    CREATE TABLE IF NOT EXISTS avx_inbox (
        name TEXT NOT NULL,
        event_id TEXT NOT NULL,
        handled_us INTEGER NOT NULL,
        PRIMARY KEY (name, event_id)
    )
    """,
    "CREATE INDEX IF NOT EXISTS avx_inbox_handled ON avx_inbox (name, handled_us)",
)
"""What makes ``avx_inbox``."""

ALONE: Final[Mapping[Dialect, Statements]] = {
    "sqlite": (),
    "postgresql": (f"SELECT pg_advisory_xact_lock({int.from_bytes(b'avx_tabl', 'big')})",),
}
"""What lets one transaction at a time make tables on a connection that is not a store's, as ``prepare`` does there."""

DIALECTS: Final[tuple[Dialect, ...]] = ("sqlite", "postgresql")


def outbox_ddl(dialect: Dialect) -> str:
    """Return the SQL that makes ``avx_outbox``, for who migrates by hand; harmless where the table is there.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    return _script(OUTBOX[_checked(dialect)], dialect)


def inbox_ddl(dialect: Dialect) -> str:
    """Return the SQL that makes ``avx_inbox``, as ``outbox_ddl`` does.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    _checked(dialect)
    return _script(INBOX, dialect)


def _script(statements: Statements, dialect: Dialect) -> str:
    return "".join(f"{in_dialect(cleandoc(statement), dialect)};\n" for statement in statements)


def _checked(dialect: Dialect) -> Dialect:
    if dialect not in DIALECTS:
        raise InvalidArgumentError("dialect", dialect, expected=f"one of {', '.join(DIALECTS)}")
    return dialect
