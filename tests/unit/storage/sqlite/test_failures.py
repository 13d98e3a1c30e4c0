"""What SQLite says is told in the tree's own words: what passes, what is damaged, and whose statement it was."""

import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from avx_events.core.errors import AvxEventsError, StatementError, StoreSchemaError, StoreUnavailableError
from avx_events.storage.sqlite.failures import is_about_one_member, is_refused_write, statement_error, store_error

URL = "sqlite:///events.db"
INSERT = "INSERT INTO t VALUES (1, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "t.db"
    connection = sqlite3.connect(made, isolation_level=None)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    connection.execute(INSERT, ("x" * 20_000,))
    connection.close()
    return made


@pytest.fixture
def connection(path: Path) -> Generator[sqlite3.Connection, None, None]:
    opened = sqlite3.connect(path, isolation_level=None, timeout=0)
    yield opened
    opened.close()


def fill(connection: sqlite3.Connection, _: Path) -> None:
    connection.execute("PRAGMA max_page_count = 1")
    connection.execute("INSERT INTO t VALUES (2, zeroblob(1000000))")


def lock(connection: sqlite3.Connection, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


def protect(connection: sqlite3.Connection, _: Path) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("DELETE FROM t")


def open_missing(_: sqlite3.Connection, path: Path) -> None:
    sqlite3.connect(f"file:{path}.missing?mode=ro", uri=True)


def corrupt(connection: sqlite3.Connection, path: Path) -> None:
    connection.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    again = sqlite3.connect(path)
    try:
        again.execute("SELECT * FROM t").fetchall()
    finally:
        again.close()


def overwrite(connection: sqlite3.Connection, path: Path) -> None:
    connection.close()
    path.write_bytes(b"no database at all" * 100)
    again = sqlite3.connect(path)
    try:
        again.execute("SELECT * FROM t")
    finally:
        again.close()


def misspell(connection: sqlite3.Connection, _: Path) -> None:
    connection.execute("SELEKT")


def repeat(connection: sqlite3.Connection, _: Path) -> None:
    connection.execute(INSERT, ("again",))


def bind_too_few(connection: sqlite3.Connection, _: Path) -> None:
    connection.execute(INSERT)


FAILURES: list[tuple[Callable[[sqlite3.Connection, Path], None], type[AvxEventsError], type[AvxEventsError]]] = [
    (fill, StoreUnavailableError, StoreUnavailableError),
    (lock, StoreUnavailableError, StoreUnavailableError),
    (protect, StoreUnavailableError, StoreUnavailableError),
    (open_missing, StoreUnavailableError, StoreUnavailableError),
    (corrupt, StoreSchemaError, StoreSchemaError),
    (overwrite, StoreSchemaError, StoreSchemaError),
    (misspell, StoreSchemaError, StatementError),
    (repeat, StoreSchemaError, StatementError),
    (bind_too_few, StoreSchemaError, StatementError),
]


@pytest.mark.parametrize(("fail", "of_the_store", "of_a_statement"), FAILURES)
def test_an_error_of_sqlite_is_one_of_the_tree_that_says_what_it_said(
    connection: sqlite3.Connection,
    path: Path,
    fail: Callable[[sqlite3.Connection, Path], None],
    of_the_store: type[AvxEventsError],
    of_a_statement: type[AvxEventsError],
) -> None:
    with pytest.raises(sqlite3.Error) as caught:
        fail(connection, path)

    mine, theirs = store_error(caught.value, URL), statement_error(caught.value, URL, "the statement")
    assert (type(mine), type(theirs)) == (of_the_store, of_a_statement)
    assert URL in str(mine)
    assert str(caught.value) in str(mine)
    assert str(caught.value) in str(theirs)


@pytest.mark.parametrize(
    ("fail", "expected"), [(fill, True), (repeat, True), (lock, False), (corrupt, False), (bind_too_few, False)]
)
def test_a_smaller_group_may_succeed_where_one_member_was_the_trouble(
    connection: sqlite3.Connection, path: Path, fail: Callable[[sqlite3.Connection, Path], None], *, expected: bool
) -> None:
    with pytest.raises(sqlite3.Error) as caught:
        fail(connection, path)

    assert is_about_one_member(caught.value) is expected


@pytest.mark.parametrize(("fail", "expected"), [(protect, True), (fill, False), (lock, False), (bind_too_few, False)])
def test_a_refused_write_is_told_from_other_trouble(
    connection: sqlite3.Connection, path: Path, fail: Callable[[sqlite3.Connection, Path], None], *, expected: bool
) -> None:
    with pytest.raises(sqlite3.Error) as caught:
        fail(connection, path)

    assert is_refused_write(caught.value) is expected
