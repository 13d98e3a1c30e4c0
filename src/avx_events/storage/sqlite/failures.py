"""What SQLite's errors mean to the caller of the store."""

import sqlite3
from typing import Final, TypeAlias

from avx_events.core.errors import StatementError, StoreSchemaError, StoreUnavailableError

# The primary result codes; extended ones carry more in their upper bits.
_PRIMARY: Final = 0xFF
# What may pass. All else says that the file is not what this package left there.
_AWAY: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_TOOBIG,
    }
)
_MOVED: Final = "its file was removed, or another put in its place, since it was opened"
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


Failure: TypeAlias = sqlite3.Error | TypeError | ValueError | OverflowError
"""What SQLite's Python module raises, the latter where a statement or a name in a damaged schema is no text, or SQLite
has no type for a parameter."""


def is_about_one_member(exc: sqlite3.Error) -> bool:
    """Return whether a smaller append might succeed where a group of appends failed of ``exc``."""
    return _code(exc) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CONSTRAINT}


def is_refused_write(exc: Failure) -> bool:
    """Return whether ``exc`` says that a statement would write where writing is switched off."""
    return getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY  # a file that is read-only has more bits


def is_damaged(exc: sqlite3.Error) -> bool:
    """Return whether ``exc`` says that the file is damaged, or no database."""
    return _code(exc) in _DAMAGED


def moved_error(url: str) -> StoreUnavailableError:
    """Return the error of the store at ``url`` whose file is not the one that was opened any more."""
    return StoreUnavailableError(url, _MOVED)


def store_error(exc: Failure, url: str) -> StoreUnavailableError | StoreSchemaError:
    """Return the error of the store at ``url`` that stands for ``exc``."""
    if _code(exc) in _AWAY:
        return StoreUnavailableError(url, f"{exc}")
    return StoreSchemaError(url, f"{exc}")


def statement_error(exc: Failure, url: str, sql: str) -> StatementError | StoreUnavailableError | StoreSchemaError:
    """Return the error that stands for ``exc``, raised by a statement of the store's user."""
    code = _code(exc)
    if code in _DAMAGED or code in _AWAY:
        return store_error(exc, url)
    return StatementError(sql, f"{exc}")


def _code(exc: Failure) -> int:
    # Errors of the Python module itself, as a wrong number of parameters, have no code.
    code: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & _PRIMARY
