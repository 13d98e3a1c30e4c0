"""What PostgreSQL and its client say becomes the error of the store that tells the caller what he can do."""

import ssl

import asyncpg
import pytest

from avx_events.core.errors import (
    StatementError,
    StoreRefusedError,
    StoreSchemaError,
    StoreUnavailableError,
    TransactionError,
)
from avx_events.storage.postgres.failures import (
    check_statement,
    is_about_one_member,
    is_lost,
    statement_error,
    store_error,
)

NAME = "postgresql://server/events"


@pytest.mark.parametrize(
    ("said", "error_class", "part"),
    [
        (asyncpg.InvalidPasswordError("password authentication failed"), StoreRefusedError, "user:password@host"),
        (asyncpg.InvalidCatalogNameError("no such database"), StoreRefusedError, "user:password@host"),
        (asyncpg.InvalidSchemaNameError("no schema has been selected"), StoreRefusedError, "CREATE SCHEMA"),
        (asyncpg.InsufficientPrivilegeError("permission denied"), StoreRefusedError, "avx_events.storage.postgres"),
        (
            asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry for host, no encryption"),
            StoreRefusedError,
            "sslmode=require",
        ),
        (ConnectionError("server rejected SSL upgrade"), StoreRefusedError, "sslmode=require"),
        (ssl.SSLCertVerificationError("unable to get issuer"), StoreRefusedError, "sslrootcert="),
        (asyncpg.DiskFullError("No space left"), StoreUnavailableError, "nothing was written"),
        (asyncpg.TooManyConnectionsError("too many clients"), StoreUnavailableError, "nothing was written"),
        (asyncpg.AdminShutdownError("terminating"), StoreUnavailableError, "nothing was written"),
        (asyncpg.LockNotAvailableError("lock timeout"), StoreUnavailableError, "nothing was written"),
        (asyncpg.ReadOnlySQLTransactionError("read-only"), StoreUnavailableError, "nothing was written"),
        (asyncpg.DeadlockDetectedError("deadlock"), StoreUnavailableError, "nothing was written"),
        (TimeoutError(), StoreUnavailableError, "no answer in time"),
        (OSError(111, "refused"), StoreUnavailableError, "refused"),
        (asyncpg.UndefinedTableError("no such table"), StoreSchemaError, "no such table"),
        (asyncpg.DataCorruptedError("invalid page"), StoreSchemaError, "invalid page"),
    ],
)
def test_an_error_of_our_own_statement_tells_what_to_do(
    said: Exception, error_class: type[Exception], part: str
) -> None:
    error = store_error(said, NAME)

    assert type(error) is error_class
    assert part in str(error)


@pytest.mark.parametrize(
    ("said", "error_class"),
    [
        (asyncpg.PostgresSyntaxError("syntax error"), StatementError),
        (asyncpg.UniqueViolationError("duplicate key"), StatementError),
        (asyncpg.InterfaceError("the server expects 1 argument"), StatementError),
        (TypeError("no text"), StatementError),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT"), TransactionError),
        (asyncpg.SerializationError("could not serialize"), StoreUnavailableError),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle"), StoreUnavailableError),
        (asyncpg.InterfaceError("connection is closed"), StoreUnavailableError),
        (asyncpg.DataCorruptedError("invalid page"), StoreSchemaError),
    ],
)
def test_an_error_of_a_users_statement_is_the_statements_or_the_stores(
    said: Exception, error_class: type[Exception]
) -> None:
    assert type(statement_error(said, NAME, "SELECT 1", only_reads=True)) is error_class


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError(), True),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle"), True),
        (asyncpg.AdminShutdownError("terminating"), True),
        (asyncpg.CannotConnectNowError("starting up"), True),
        (asyncpg.TooManyConnectionsError("too many clients"), True),
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), True),
        (asyncpg.InternalClientError("cannot switch to state 12"), True),
        (ssl.SSLError("handshake"), False),
        (ConnectionError("server rejected SSL upgrade"), False),
        (asyncpg.QueryCanceledError("statement timeout"), False),
        (asyncpg.InvalidPasswordError("no"), False),
        (asyncpg.UniqueViolationError("duplicate key"), False),
        (ValueError("no"), False),
    ],
)
def test_another_connection_may_do_better_where_one_was_lost(said: Exception, *, expected: bool) -> None:
    assert is_lost(said) is expected


def test_a_smaller_group_may_do_better_where_data_are_too_much_or_wrong() -> None:
    assert is_about_one_member(asyncpg.DiskFullError("No space left"))
    assert is_about_one_member(asyncpg.ProgramLimitExceededError("too long"))
    assert is_about_one_member(asyncpg.CharacterNotInRepertoireError("invalid byte sequence"))
    assert not is_about_one_member(asyncpg.UndefinedTableError("no such table"))
    assert not is_about_one_member(OSError("reset"))


@pytest.mark.parametrize("sql", ["SELECT 'a\0b'", "SELECT '\ud800'"])
def test_what_cannot_be_sent_is_no_statement(sql: str) -> None:
    check_statement("SELECT 'ä'")
    with pytest.raises(StatementError, match="a statement has no"):
        check_statement(sql)
