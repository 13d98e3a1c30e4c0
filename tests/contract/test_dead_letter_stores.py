"""Every store of dead letters keeps what the contract promises."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from avx_events import DeadLetterQueue
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
