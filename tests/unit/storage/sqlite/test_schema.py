"""A file gets the newest tables step by step, all or nothing; one that is not ours or newer is left as it is."""

import sqlite3
from collections.abc import Generator, Sequence

import msgspec
import pytest

from avx_events.core.errors import StoreSchemaError
from avx_events.storage.sqlite.schema import EVENTS, MIGRATIONS, Tables, is_prepared, prepare

URL = "sqlite:///events.db"
ADDED = ["ALTER TABLE avx_events ADD COLUMN tenant TEXT", "CREATE INDEX avx_events_tenant ON avx_events (tenant)"]


@pytest.fixture
def connection() -> Generator[sqlite3.Connection, None, None]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    yield opened
    opened.close()


def with_another(migration: Sequence[str]) -> Tables:
    return msgspec.structs.replace(EVENTS, migrations=(*MIGRATIONS, migration))


def tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]


def version(connection: sqlite3.Connection) -> object:
    return connection.execute("SELECT version FROM avx_schema WHERE component = 'events'").fetchone()[0]


def test_a_new_file_is_not_prepared_until_it_is(connection: sqlite3.Connection) -> None:
    assert not is_prepared(connection, URL)
    assert tables(connection) == []

    prepare(connection, URL)

    assert is_prepared(connection, URL)
    assert version(connection) == len(MIGRATIONS)


def test_preparing_again_changes_nothing(connection: sqlite3.Connection) -> None:
    prepare(connection, URL)
    changes = connection.total_changes

    prepare(connection, URL)

    assert connection.total_changes == changes


def test_an_older_file_is_brought_forward_with_its_events(connection: sqlite3.Connection) -> None:
    prepare(connection, URL)
    connection.execute("INSERT INTO avx_events VALUES (1, 's', 1, 0, 'id', 'type', '[]', '{}')")

    prepare(connection, URL, with_another(ADDED))

    assert connection.execute("SELECT stream, tenant FROM avx_events").fetchall() == [("s", None)]
    assert "avx_events_tenant" in tables(connection)
    assert version(connection) == len(MIGRATIONS) + 1


@pytest.mark.parametrize(
    "wrong", [["CREATE TABLE avx_events (id)"], [*ADDED, "CREATE TABLE other"], ["DROP TABLE avx_snapshots"]]
)
def test_a_step_that_fails_leaves_the_file_at_its_version(connection: sqlite3.Connection, wrong: Sequence[str]) -> None:
    prepare(connection, URL)
    before = tables(connection)

    with pytest.raises((sqlite3.Error, StoreSchemaError)):
        prepare(connection, URL, with_another(wrong))

    assert (tables(connection), version(connection)) == (before, len(MIGRATIONS))
    assert not connection.in_transaction
    assert is_prepared(connection, URL)


def test_a_newer_file_is_refused_and_says_what_to_do(connection: sqlite3.Connection) -> None:
    prepare(connection, URL, with_another(ADDED))

    for use in (is_prepared, prepare):
        with pytest.raises(StoreSchemaError, match=r"at version 2, newer than 1.*upgrade avx-events"):
            use(connection, URL)


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["CREATE TABLE avx_events (id)"], "no avx_schema"),
        (["CREATE TABLE avx_schema (id)"], "avx_schema is not ours"),
        (["CREATE TABLE avx_schema (component, version)", "INSERT INTO avx_schema VALUES ('events', 'x')"], "'x'"),
        (["CREATE TABLE avx_schema (component, version)", "INSERT INTO avx_schema VALUES ('events', -1)"], "-1"),
        (
            ["CREATE TABLE avx_schema (component, version)", "INSERT INTO avx_schema VALUES ('events', 1)"],
            "no such table",
        ),
    ],
)
def test_tables_of_our_names_that_are_not_ours_are_refused(
    connection: sqlite3.Connection, statements: Sequence[str], problem: str
) -> None:
    for statement in statements:
        connection.execute(statement)

    with pytest.raises(StoreSchemaError, match=problem):
        prepare(connection, URL)


def test_other_components_of_the_file_keep_their_version(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE avx_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)")
    connection.execute("INSERT INTO avx_schema VALUES ('projections', 7)")

    prepare(connection, URL)

    assert connection.execute("SELECT * FROM avx_schema ORDER BY component").fetchall() == [
        ("events", len(MIGRATIONS)),
        ("projections", 7),
    ]
