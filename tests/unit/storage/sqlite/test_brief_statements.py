"""Statements that are done after a few lookups are told from those that may take long, by what they would do."""

import sqlite3
from collections.abc import Generator

import pytest

from avx_events.storage.sqlite.brief_statements import BriefStatements

SCHEMA = """
CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT UNIQUE, orders INTEGER NOT NULL DEFAULT 0, note TEXT);
CREATE INDEX users_orders ON users (orders);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id TEXT REFERENCES users (id), total REAL CHECK (total >= 0));
CREATE TABLE lines (order_id INTEGER, line INTEGER, text TEXT, PRIMARY KEY (order_id, line)) WITHOUT ROWID;
CREATE TABLE watched (id INTEGER PRIMARY KEY);
CREATE TRIGGER watched_insert AFTER INSERT ON watched BEGIN DELETE FROM users; END;
"""


@pytest.fixture
def connection() -> Generator[sqlite3.Connection, None, None]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    opened.executescript(SCHEMA)
    yield opened
    opened.close()


@pytest.fixture
def statements(connection: sqlite3.Connection) -> BriefStatements:
    begun = BriefStatements()
    begun.begin(connection)
    return begun


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users VALUES (?, ?, ?, ?)",
        "INSERT OR IGNORE INTO users (id, email) VALUES (?, ?)",
        "INSERT OR REPLACE INTO users (id, email) VALUES (?, ?)",
        "INSERT INTO users (id, email) VALUES (?, ?) ON CONFLICT DO NOTHING",
        "INSERT INTO users (id, email) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET orders = orders + 1",
        "INSERT INTO orders (user_id, total) VALUES (?, ?)",
        "INSERT INTO lines VALUES (?, ?, ?)",
        "UPDATE users SET orders = orders + 1 WHERE id = ?",
        "UPDATE users SET note = coalesce(?, note), email = lower(?) WHERE id = ?",
        "UPDATE orders SET total = total * 2 - 1 WHERE id = ?",
        "UPDATE lines SET text = ? WHERE order_id = ? AND line = ?",
        "DELETE FROM users WHERE id = ?",
        "DELETE FROM lines WHERE order_id = ? AND line = ?",
        "SELECT * FROM users WHERE id = ?",
        "SELECT id FROM users WHERE email = ? AND orders > 3",
        "SELECT 1",
    ],
)
def test_one_row_by_a_unique_key_is_brief(
    connection: sqlite3.Connection, statements: BriefStatements, sql: str
) -> None:
    assert sql not in statements.texts

    statements.has_run(connection, sql, ("x",) * sql.count("?"))

    assert sql in statements.texts


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM users",
        "SELECT count(*) FROM users",
        "SELECT max(total) FROM orders",
        "SELECT id FROM users WHERE orders = ? LIMIT 1",
        "SELECT id FROM users WHERE note LIKE ?",
        "SELECT * FROM users WHERE id = (SELECT id FROM users WHERE note = ?)",
        "SELECT * FROM users ORDER BY note",
        "SELECT * FROM json_each(?)",
        "UPDATE users SET orders = 0",
        "UPDATE users SET orders = 0 WHERE orders = ?",
        "UPDATE users SET orders = (SELECT count(*) FROM orders) WHERE id = ?",
        "DELETE FROM users",
        "DELETE FROM lines WHERE order_id = ?",
        "INSERT INTO lines SELECT id, 1, '' FROM orders",
        "INSERT INTO lines VALUES (?, (SELECT count(*) FROM orders), '')",
        "INSERT INTO watched VALUES (?)",
        "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n",
        "CREATE TABLE other (id)",
        "CREATE INDEX users_note ON users (note)",
        "DROP TABLE users",
        "ANALYZE",
        "VACUUM",
        "SAVEPOINT a",
        "COMMIT",
        "PRAGMA integrity_check",
        "EXPLAIN SELECT 1",
    ],
)
def test_what_may_go_over_many_rows_is_not(
    connection: sqlite3.Connection, statements: BriefStatements, sql: str
) -> None:
    statements.has_run(connection, sql, ("x",) * sql.count("?"))

    assert sql not in statements.texts


def test_looking_at_a_statement_does_not_run_it(connection: sqlite3.Connection, statements: BriefStatements) -> None:
    statements.has_run(connection, "INSERT INTO users (id) VALUES (?)", ("Ada",))
    statements.has_run(connection, "DROP TABLE users", ())

    assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_another_schema_makes_other_programs(connection: sqlite3.Connection, statements: BriefStatements) -> None:
    sql = "DELETE FROM users WHERE id = ?"
    trigger = "CREATE TRIGGER users_delete AFTER DELETE ON users BEGIN DELETE FROM orders; END"
    statements.has_run(connection, sql, ("Ada",))
    assert sql in statements.texts

    connection.execute(trigger)
    statements.has_run(connection, trigger, ())
    assert sql not in statements.texts

    statements.begin(connection)
    statements.has_run(connection, sql, ("Ada",))
    assert sql not in statements.texts


def test_a_schema_that_was_undone_leaves_nothing_behind(
    connection: sqlite3.Connection, statements: BriefStatements
) -> None:
    sql, index = "SELECT note FROM users WHERE note = ?", "CREATE UNIQUE INDEX users_note ON users (note)"
    connection.execute("BEGIN")
    connection.execute(index)
    statements.has_run(connection, index, ())
    statements.has_run(connection, sql, ("x",))
    connection.execute("ROLLBACK")
    connection.execute("CREATE TABLE other (id)")  # the schema's number is now what it was with the index

    statements.begin(connection)
    statements.has_run(connection, sql, ("x",))

    assert sql not in statements.texts


def test_what_is_kept_is_bounded(connection: sqlite3.Connection, statements: BriefStatements) -> None:
    for number in range(600):
        statements.has_run(connection, f"SELECT {number}", ())

    assert "SELECT 7" not in statements.texts
    assert "SELECT 599" in statements.texts
