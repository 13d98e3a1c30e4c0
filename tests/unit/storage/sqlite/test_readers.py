"""Reads run on connections of their own, a few at a time, and what goes wrong with one harms no other."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from avx_events.core.errors import ClosedError, StoreSchemaError, StoreUnavailableError
from avx_events.storage.sqlite.readers import Readers
from tests.waiting import until

URL = "sqlite:///events.db"
FOR_EVER = "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"


class Opened:
    """Connections to a database in memory, counted."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []

    def __call__(self) -> sqlite3.Connection:
        self.connections.append(sqlite3.connect(":memory:", check_same_thread=False))
        return self.connections[-1]


def seven(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT 7").fetchone()[0]
    return number


def for_ever(connection: sqlite3.Connection) -> object:
    return connection.execute(FOR_EVER).fetchall()


def raise_lookup_error(_: sqlite3.Connection) -> object:
    raise LookupError


async def test_connections_are_opened_when_they_are_needed_and_used_again() -> None:
    opened = Opened()
    readers = Readers(opened, URL)
    assert opened.connections == []

    for _ in range(5):
        assert await readers.begin(seven) == 7

    assert len(opened.connections) == 1
    await readers.close()


async def test_many_reads_at_once_share_four_connections() -> None:
    opened = Opened()
    readers = Readers(opened, URL)
    all_read = threading.Barrier(4)

    def together(connection: sqlite3.Connection) -> int:
        all_read.wait(10)
        return seven(connection)

    reads = [readers.begin(together) for _ in range(16)]

    assert [await read for read in reads] == [7] * 16
    assert len(opened.connections) == 4
    await readers.close()


async def test_a_read_whose_caller_gives_up_ends_and_its_connection_reads_on() -> None:
    opened = Opened()
    readers = Readers(opened, URL)
    for turns in range(8):
        read = readers.begin(for_ever)
        for _ in range(turns):
            await asyncio.sleep(0)
        read.cancel()

    assert await readers.begin(seven) == 7
    assert len(opened.connections) <= 4
    await readers.close()


async def test_a_read_that_fails_gives_its_connection_back() -> None:
    opened = Opened()
    readers = Readers(opened, URL)

    for _ in range(6):
        with pytest.raises(StoreSchemaError, match="no such table"):
            await readers.begin(lambda connection: connection.execute("SELECT * FROM nowhere").fetchall())
        with pytest.raises(LookupError):
            await readers.begin(raise_lookup_error)

    assert await readers.begin(seven) == 7
    assert len(opened.connections) == 1
    await readers.close()


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    readers = Readers(lambda: sqlite3.connect(f"file:{tmp_path}/missing.db?mode=ro", uri=True), URL)

    with pytest.raises(StoreUnavailableError, match="unable to open"):
        await readers.begin(seven)
    await readers.close()


async def test_close_waits_for_the_reads_that_run_and_refuses_others() -> None:
    opened = Opened()
    readers = Readers(opened, URL)
    has_begun, may_end = threading.Event(), threading.Event()

    def wait(connection: sqlite3.Connection) -> int:
        has_begun.set()
        may_end.wait(10)
        return seven(connection)

    async with asyncio.TaskGroup() as tasks:
        read = readers.begin(wait)
        await until(has_begun.is_set)
        closing = tasks.create_task(readers.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await readers.begin(seven)
        may_end.set()
        await closing
        assert await read == 7
    await readers.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seven(opened.connections[0])
