"""Places orders in a table of its own, each with its event in the outbox, on connections that are not the store's.

Every seventh transaction is undone. Before number STOP_AT is committed it says so, and waits to be killed. On
PostgreSQL four transactions run at once, each for keys of its own: numbers are committed out of order.

Usage: outbox_writer.py URL FIRST COUNT STOP_AT
"""

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing

import asyncpg

from avx_events import Outbox
from tests.live.relay_worker import Moved, say

KEYS = 12
AT_ONCE = 4  # a divisor of KEYS
SQLITE = "sqlite:///"

outbox = Outbox()


def key_of(number: int) -> str:
    return f"key-{number % KEYS}"


def wait_to_be_killed(number: int) -> None:
    say(f"added {number}")
    sys.stdin.read()


def write_to_sqlite(path: str, numbers: Sequence[int], stop_at: int) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        for number in numbers:
            database.execute("INSERT INTO moves VALUES (?, ?)", (key_of(number), number))
            outbox.add_nowait(Moved(key_of(number), number), database)
            if number == stop_at:
                wait_to_be_killed(number)
            if number % 7 == 0:
                database.rollback()
            else:
                database.commit()


async def write_to_postgresql(url: str, numbers: Sequence[int], stop_at: int) -> None:
    connection = await asyncpg.connect(url)
    for number in numbers:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO moves VALUES ($1, $2)", key_of(number), number)
        await outbox.add(Moved(key_of(number), number), connection)
        if number == stop_at:
            wait_to_be_killed(number)
        if number % 7 == 0:
            await transaction.rollback()
        else:
            await transaction.commit()
    await connection.close()


async def write_at_once(url: str, numbers: Sequence[int], stop_at: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for share in range(AT_ONCE):
            of_share = [number for number in numbers if number % AT_ONCE == share]
            tasks.create_task(write_to_postgresql(url, of_share, stop_at))


def main(url: str, first: int, count: int, stop_at: int) -> None:
    numbers = range(first, first + count)
    if url.startswith(SQLITE):
        write_to_sqlite(url.removeprefix(SQLITE).partition("?")[0], numbers, stop_at)
    else:
        asyncio.run(write_at_once(url, numbers, stop_at))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
