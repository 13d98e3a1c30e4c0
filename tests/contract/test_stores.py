"""Every engine of the event store keeps what the contract promises."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from avx_events.store.event_store import EventStore
from avx_events.testing.store_contract import DurableStoreContract, StoreContract


class TestMemory(StoreContract):
    """Lists."""


class TestSqliteFile(DurableStoreContract):
    """A file, written by a thread."""

    url = "sqlite:///{folder}/events.db?writer=thread"


class TestSqliteFileInline(DurableStoreContract):
    """A file, written on the loop."""

    url = "sqlite:///{folder}/events.db?writer=inline"


@pytest.mark.live
class TestPostgres(DurableStoreContract):
    """A schema of a database in PostgreSQL for each folder."""

    @pytest.fixture(autouse=True)
    def _database(self, postgres_database: str) -> None:
        self.database = postgres_database
        self.schemas: dict[Path, str] = {}

    async def connect(self, folder: Path, **options: Any) -> EventStore:
        if folder not in self.schemas:
            self.schemas[folder] = f"store_{len(self.schemas)}"
            connection = await asyncpg.connect(self.database)
            await connection.execute(f"CREATE SCHEMA {self.schemas[folder]}")
            await connection.close()
        return await EventStore.connect(f"{self.database}?schema={self.schemas[folder]}", **options)


class TestSqliteMemory(StoreContract):
    """A database in memory."""

    url = "sqlite://"


class TestSqliteMemoryInline(StoreContract):
    """A database in memory, written on the loop."""

    url = "sqlite://?writer=inline"
