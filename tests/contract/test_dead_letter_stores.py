"""Every store of dead letters keeps what the contract promises."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from avx_events import DeadLetterQueue, EventStore
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.patterns.log_bus.letters import StoreDeadLetters
from avx_events.testing import DeadLetterStoreContract, DurableDeadLetterStoreContract
from tests.contract.letters_in_brokers import LettersInBroker


class TestMemory(DeadLetterStoreContract):
    """A dict."""


class TestSqliteFile(DurableDeadLetterStoreContract):
    """A file, written by a thread."""

    url = "sqlite:///{folder}/letters.db?writer=thread"


class TestSqliteFileInline(DurableDeadLetterStoreContract):
    """A file, written on the loop."""

    url = "sqlite:///{folder}/letters.db?writer=inline"


class TestSqliteMemory(DeadLetterStoreContract):
    """A database in memory."""

    url = "sqlite://"


class TestSqliteMemoryInline(DeadLetterStoreContract):
    """A database in memory, written on the loop."""

    url = "sqlite://?writer=inline"


@pytest.mark.live
class TestPostgres(LettersInBroker):
    """A database in PostgreSQL for each test, whose clock says when a claim is over, as a broker's does."""

    @pytest.fixture(autouse=True)
    def _database(self, postgres_database: str) -> None:
        self.place = postgres_database

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await DeadLetterQueue.connect(self.place, **options)

    async def pass_by(self, for_s: float) -> None:
        connection = await asyncpg.connect(self.place)
        await connection.execute(
            "UPDATE avx_dead_letters SET claimed_until = claimed_until - make_interval(secs => $1)", for_s
        )
        await connection.close()


class LettersOfStore(StoreDeadLetters):
    """Dead letters that have a store of their own."""

    def __init__(self, store: EventStore, *, clock: Clock) -> None:
        super().__init__(store, clock=clock)
        self._own = store

    async def close(self) -> None:
        await super().close()
        await self._own.close()


class TestSqliteStore(DurableDeadLetterStoreContract):
    """The file of an event store."""

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await queue_in(f"sqlite:///{folder}/events.db", **options)


@pytest.mark.live
class TestPostgresStore(LettersInBroker):
    """A database in PostgreSQL with an event store, by whose clock a claim is over."""

    @pytest.fixture(autouse=True)
    def at(self, postgres_database: str) -> None:
        self.be_at(postgres_database)

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await queue_in(self.place, **options)

    async def pass_by(self, for_s: float) -> None:
        connection = await asyncpg.connect(self.place)
        await connection.execute("UPDATE avx_log_letters SET claimed_until = claimed_until - $1", int(for_s * 1e6))
        await connection.close()


async def queue_in(url: str, *, clock: Clock = SYSTEM_CLOCK) -> DeadLetterQueue:
    return DeadLetterQueue(store=LettersOfStore(await EventStore.connect(url, clock=clock), clock=clock))
