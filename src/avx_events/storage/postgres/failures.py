"""What PostgreSQL and its client say, as errors of the store."""

import ssl
from typing import Final, TypeAlias

import asyncpg

from avx_events.core.errors import (
    AvxEventsError,
    StatementError,
    StoreRefusedError,
    StoreSchemaError,
    StoreUnavailableError,
    TransactionError,
)

_ONLY_READS: Final = (
    "fetch() and fetch_one() of the store only read; "
    "write in a projection or inside of 'async with store.transaction()'"
)
_CREDENTIALS: Final = "give user, password and database in the URL, as postgresql://user:password@host/database"
_TLS: Final = "say how to use TLS in the URL: sslmode=require, or verify-full with sslrootcert= of your authority"
_PERMISSION: Final = (
    "have the owner of the database run what 'python -m avx_events.storage.postgres' prints, with the store's schema "
    "as search_path, and grant the user USAGE of it and SELECT, INSERT, UPDATE and DELETE on the tables"
)

_REMEDIES: Final = {
    "28": _CREDENTIALS,
    "3D000": _CREDENTIALS,
    "3F000": "make the schema that schema= of the URL names, CREATE SCHEMA, and grant the user USAGE on it",
    "42501": _PERMISSION,
}
# By the first two characters of SQLSTATE: connection, rolled back by the server, resources, states of objects, operator
# intervention, errors of the system. https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY: Final = ("08", "40", "53", "55", "57", "58")
_READ_ONLY: Final = "25006"  # a standby, or a database that an operator has closed for writes
_LOST: Final = ("08", "57P01", "57P02", "57P03", "57P05")
_ABOUT_ONE_MEMBER: Final = ("22", "23", "53", "54")

Failure: TypeAlias = asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError
"""What the client library raises; a ``TimeoutError`` is an ``OSError``."""

FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def is_lost(exc: BaseException) -> bool:
    """Tell whether ``exc`` says that the connection is gone, or silent, so that another may do better."""
    if isinstance(exc, asyncpg.PostgresError):
        return _code(exc).startswith(_LOST) or isinstance(exc, asyncpg.TooManyConnectionsError)
    if isinstance(exc, asyncpg.InterfaceError):
        return "closed" in f"{exc}" or "connection" in f"{exc}"
    if isinstance(exc, asyncpg.InternalClientError):  # what the server says last of all, to who is asking nothing yet
        return True
    return isinstance(exc, OSError) and not _is_about_tls(exc)


def is_about_one_member(exc: BaseException) -> bool:
    """Tell whether a smaller append might succeed where a group of appends failed of ``exc``."""
    return isinstance(exc, asyncpg.PostgresError) and _code(exc).startswith(_ABOUT_ONE_MEMBER)


def store_error(exc: BaseException, name: str) -> StoreUnavailableError | StoreRefusedError | StoreSchemaError:
    """Return the error of the store called ``name`` that stands for ``exc``, raised by one of our own statements."""
    said = said_by(exc)
    if _is_about_tls(exc):
        return StoreRefusedError(name, said, remedy=_TLS)
    if not isinstance(exc, asyncpg.PostgresError):
        return StoreUnavailableError(name, said)
    code = _code(exc)
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code[:2])
    if remedy is not None:
        return StoreRefusedError(name, said, remedy=remedy)
    if code.startswith(_AWAY) or code == _READ_ONLY:
        return StoreUnavailableError(name, said)
    return StoreSchemaError(name, said)


def check_statement(sql: str) -> None:
    """Raise where ``sql`` cannot be sent: after a NUL the server would wait for the rest, for ever.

    Raises:
        StatementError: It has a NUL or a lone surrogate.
    """
    if "\0" in sql:
        raise StatementError(sql, "a statement has no NUL")
    if not sql.isascii():
        try:
            sql.encode()
        except UnicodeEncodeError as exc:
            raise StatementError(sql, "a statement has no lone surrogate") from exc


def statement_error(exc: BaseException, name: str, sql: str, *, only_reads: bool = False) -> AvxEventsError:
    """Return the error that stands for ``exc``, raised by a statement of the store's user."""
    if isinstance(exc, asyncpg.PostgresError):
        code = _code(exc)
        if only_reads and code == _READ_ONLY:
            return TransactionError(f"{_ONLY_READS}: {sql!r}")
        if code.startswith(("XX", *_AWAY)) or code == _READ_ONLY:
            return store_error(exc, name)
        return StatementError(sql, said_by(exc))
    if is_lost(exc):
        return store_error(exc, name)
    return StatementError(sql, said_by(exc))


def said_by(exc: BaseException) -> str:
    """Return what ``exc`` says, in one line."""
    said = " ".join(f"{exc}".split()) or type(exc).__name__
    return "no answer in time" if isinstance(exc, TimeoutError) else said


def _is_about_tls(exc: BaseException) -> bool:
    # The client says that the server has none, the server that it takes no login without ("no encryption").
    said = f"{exc}"
    return isinstance(exc, ssl.SSLError) or "SSL" in said or "no encryption" in said


def _code(exc: asyncpg.PostgresError) -> str:
    code: str | None = exc.sqlstate
    return code or ""
