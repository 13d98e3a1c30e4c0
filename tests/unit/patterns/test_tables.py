"""Our own tables are made, and spoken to, in every database."""

import asyncio
from collections.abc import Sequence

import pytest

from avx_events.core.errors import StoreSchemaError
from avx_events.patterns.tables import execute, fetch_one, in_dialect, prepare
from avx_events.store.event_store import EventStore

MIGRATIONS: Sequence[Sequence[str]] = (
    ("CREATE TABLE avx_boxes (id TEXT PRIMARY KEY, size INTEGER NOT NULL, content BLOB) WITHOUT ROWID",),
    ("ALTER TABLE avx_boxes ADD COLUMN label TEXT NOT NULL DEFAULT 'none'",),
)


@pytest.mark.parametrize(
    ("sql", "in_postgresql", "in_sqlite"),
    [
        ("SELECT 1", "SELECT 1", "SELECT 1"),
        ("VALUES (?, ?, ?)", "VALUES ($1, $2, $3)", "VALUES (?, ?, ?)"),
        ("a INTEGER, b BLOB", "a BIGINT, b BYTEA", "a INTEGER, b BLOB"),
        ("(a TEXT) WITHOUT ROWID", "(a TEXT)", "(a TEXT) WITHOUT ROWID"),
        ("WHERE a = ? FOR UPDATE SKIP LOCKED", "WHERE a = $1 FOR UPDATE SKIP LOCKED", "WHERE a = ?"),
        ("(SELECT a FOR UPDATE)", "(SELECT a FOR UPDATE)", "(SELECT a)"),
    ],
)
def test_a_statement_is_written_once(sql: str, in_postgresql: str, in_sqlite: str) -> None:
    assert in_dialect(sql, "postgresql") == in_postgresql
    assert in_dialect(sql, "sqlite") == in_sqlite


async def test_tables_are_made_and_brought_forward(store: EventStore) -> None:
    for migrations in (MIGRATIONS[:1], MIGRATIONS, MIGRATIONS):
        async with store.transaction() as connection:
            await prepare(connection, "boxes", migrations)
    async with store.transaction() as connection:
        await execute(connection, "INSERT INTO avx_boxes (id, size, content) VALUES (?, ?, ?)", "a", 2**40, b"\0")

        assert await fetch_one(connection, "SELECT * FROM avx_boxes WHERE id = ?", "a") == ("a", 2**40, b"\0", "none")


async def test_tables_of_a_newer_version_are_refused(store: EventStore) -> None:
    async with store.transaction() as connection:
        await prepare(connection, "boxes", MIGRATIONS)
    with pytest.raises(StoreSchemaError, match="boxes are at version 2, newer than 1"):
        async with store.transaction() as connection:
            await prepare(connection, "boxes", MIGRATIONS[:1])


async def test_several_processes_may_make_them_at_once(shared_url: str) -> None:
    async with await EventStore.connect(shared_url) as store:

        async def make() -> None:
            async with await EventStore.connect(shared_url) as own, own.transaction() as connection:
                await prepare(connection, "boxes", MIGRATIONS)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(make())

        assert await store.fetch("SELECT count(*) FROM avx_boxes") == [(0,)]
