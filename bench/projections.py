"""How fast does a projection make a table of a log, and does it grow with the log?

Each round makes the table anew: the projection in a new version of its own, the limits from position 0.
``python -m bench.projections 1000000`` prints by how many MiB the process grew while it did so.
"""

import asyncio
import logging
import sqlite3
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count as count_from
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from avx_events import Connection, EventStore, Projection, Projector, handles
from avx_events.patterns.tables import in_dialect
from bench.children import figure_of
from bench.disk import folder_on_disk
from bench.memory import peak_mib
from bench.postgres import database
from bench.rounds import Comparison, Contender, Round, Target, each_round
from bench.workload import PlainUserCreated, UserCreated, per_second

BATCH = 500
"""Events in a transaction, for every contender."""

USERS = 10_000
TABLE = "CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT, name TEXT, changes INTEGER NOT NULL)"
UPSERT = (
    "INSERT INTO users AS kept VALUES (?, ?, ?, 1) ON CONFLICT (user_id) DO UPDATE SET"
    " email = excluded.email, name = excluded.name, changes = kept.changes + 1"
)
UPSERT_IN_POSTGRESQL = in_dialect(UPSERT, "postgresql")
DEADLINE_S = 110.0

_PAGE_MIB = 4096 / 2**20
_versions = count_from(1)
_decode = msgspec.json.Decoder(PlainUserCreated).decode


class Users(Projection, name="users"):
    """How often each user was created; made anew in place."""

    sql = UPSERT

    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS users")
        await connection.execute(TABLE)
        self.sql = in_dialect(UPSERT, connection.dialect)

    @handles(UserCreated)
    async def add(self, event: UserCreated, connection: Connection) -> None:
        await connection.execute(self.sql, event.user_id, event.email, event.name)


class LaterUsers(Users, name="users"):
    """The same, with statements that are put off, so that those of many events are sent together."""

    async def add(self, event: UserCreated, connection: Connection) -> None:
        await connection.execute_later(self.sql, event.user_id, event.email, event.name)


def next_version(base: type[Users]) -> Users:
    """Return a projection that has not been here."""
    version: type[Users] = type("Users", (base,), {}, version=next(_versions))
    return version()


async def fill(store: EventStore, count: int) -> None:
    """Append ``count`` events, in streams of a thousand."""
    for first in range(0, count, 1_000):
        numbers = range(first, min(first + 1_000, count))
        events = [UserCreated(f"{number % USERS}", f"{number}@example.com", "John Doe") for number in numbers]
        await store.append(f"s-{first}", events)


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Let nothing be logged of each version that replaces another."""
    log = logging.getLogger("avx_events.projection")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


async def project(store: EventStore, base: type[Users], count: int) -> float:
    """Return how many events a second a projection took from a log of ``count``."""
    started = perf_counter()
    with quiet():
        async with Projector(store, next_version(base), batch_events=BATCH) as projector:
            await projector.caught_up(timeout_s=DEADLINE_S)
            speed = per_second(count, started)
    assert await store.fetch_one("SELECT sum(changes) FROM users") == (count,)
    return speed


def with_avx(base: type[Users]) -> Callable[[int], Any]:
    """Return the opening of a contender that projects by ``base``, in SQLite."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with folder_on_disk() as folder:
            async with await EventStore.connect(f"sqlite:///{folder / 'events.db'}") as store:
                await fill(store, count)
                yield lambda: project(store, base, count)

    return opened


def with_avx_in_postgresql(base: type[Users]) -> Callable[[int], Any]:
    """Return the opening of a contender that projects by ``base``, in PostgreSQL."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with database() as url:
            async with await EventStore.connect(url) as store:
                await fill(store, count)
                yield lambda: project(store, base, count)

    return opened


def with_sqlite3(write: Callable[[sqlite3.Connection, list[Any]], None]) -> Callable[[int], Any]:
    """Return the opening of a contender that upserts a page by ``write``."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with folder_on_disk() as folder:
            path = folder / "events.db"
            async with await EventStore.connect(f"sqlite:///{path}") as store:
                await fill(store, count)

            async def measure() -> float:
                return project_by_hand(path, write, count)

            yield measure

    return opened


def each(connection: sqlite3.Connection, events: list[Any]) -> None:
    for event in events:
        connection.execute(UPSERT, (event.user_id, event.email, event.name))


def at_once(connection: sqlite3.Connection, events: list[Any]) -> None:
    connection.executemany(UPSERT, [(event.user_id, event.email, event.name) for event in events])


def project_by_hand(path: Path, write: Callable[[sqlite3.Connection, list[Any]], None], count: int) -> float:
    """Read, decode and upsert on one connection of sqlite3, as durably as the store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA synchronous = FULL; DROP TABLE IF EXISTS users; {TABLE}")
        connection.executescript("DROP TABLE IF EXISTS done; CREATE TABLE done (position); INSERT INTO done VALUES (0)")
        execute, position = connection.execute, 0
        read = "SELECT position, data FROM avx_events WHERE position > ? AND event_type = ? ORDER BY position LIMIT ?"
        started = perf_counter()
        while page := execute(read, (position, UserCreated.event_type, BATCH)).fetchall():
            execute("BEGIN IMMEDIATE")
            write(connection, [_decode(data) for _, data in page])
            position = page[-1][0]
            execute("UPDATE done SET position = ?", (position,))
            execute("COMMIT")
        speed = per_second(count, started)
        assert execute("SELECT sum(changes) FROM users").fetchone() == (count,)
        return speed


def with_asyncpg(write: Callable[[Any, list[Any]], Awaitable[None]]) -> Callable[[int], Any]:
    """Return the opening of a contender that upserts a page by ``write``."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        import asyncpg  # noqa: PLC0415 - it may be missing

        with database() as url:
            async with await EventStore.connect(url) as store:
                await fill(store, count)
            connection = await asyncpg.connect(url)

            async def measure() -> float:
                await connection.execute(f"DROP TABLE IF EXISTS users; DROP TABLE IF EXISTS done; {TABLE}")
                await connection.execute("CREATE TABLE done (position bigint); INSERT INTO done VALUES (0)")
                read = await connection.prepare(
                    "SELECT position, data FROM avx_events WHERE position > $1 AND event_type = $2"
                    " ORDER BY position LIMIT $3"
                )
                started, position = perf_counter(), 0
                while page := await read.fetch(position, UserCreated.event_type, BATCH):
                    async with connection.transaction():
                        await write(connection, [_decode(data) for _, data in page])
                        position = page[-1][0]
                        await connection.execute("UPDATE done SET position = $1", position)
                speed = per_second(count, started)
                assert await connection.fetchval("SELECT sum(changes) FROM users") == count
                return speed

            try:
                yield measure
            finally:
                await connection.close()

    return opened


async def one_by_one(connection: Any, events: list[Any]) -> None:
    upsert = await connection.prepare(UPSERT_IN_POSTGRESQL)
    for event in events:
        await upsert.fetch(event.user_id, event.email, event.name)


async def all_at_once(connection: Any, events: list[Any]) -> None:
    await connection.executemany(UPSERT_IN_POSTGRESQL, [(each.user_id, each.email, each.name) for each in events])


async def grow(count: int) -> float:
    """Return by how many MiB this process's peak grows while it projects ``count`` events."""
    with folder_on_disk() as folder:
        async with await EventStore.connect(f"sqlite:///{folder / 'events.db'}") as store:
            await fill(store, count)
            before = peak_mib()
            await project(store, Users, count)
            return max(peak_mib() - before, _PAGE_MIB)


@each_round
async def growth_of(count: int) -> float:
    return await figure_of("-m", "bench.projections", str(count))


LIMIT = "limit: sqlite3 on the loop + msgspec"
LIMIT_AT_ONCE = "limit: sqlite3 on the loop + msgspec, executemany"
ONE_BY_ONE = "limit: asyncpg + msgspec, a statement for each event"
AT_ONCE = "limit: asyncpg + msgspec, executemany"

COMPARISONS = (
    Comparison(
        "a table of a log of 1,000,000 events, SQLite, 500 in a transaction",
        "events/s",
        (
            Contender("avx-events, execute_later", with_avx(LaterUsers), 1_000_000),
            Contender(LIMIT, with_sqlite3(each), 1_000_000),
            Contender(LIMIT_AT_ONCE, with_sqlite3(at_once), 1_000_000),
        ),
        (Target(LIMIT, at_least=0.5), Target(LIMIT_AT_ONCE, at_least=0.5)),
    ),
    Comparison(
        "the same, by handlers that await each statement",
        "events/s",
        (
            Contender("avx-events, execute", with_avx(Users), 1_000_000),
            Contender(LIMIT, with_sqlite3(each), 1_000_000),
        ),
        (Target(LIMIT, at_least=0.5),),
    ),
    Comparison(
        "a table of a log of 100,000 events, PostgreSQL, 500 in a transaction",
        "events/s",
        (
            Contender("avx-events, execute_later", with_avx_in_postgresql(LaterUsers), 100_000),
            Contender(AT_ONCE, with_asyncpg(all_at_once), 100_000),
        ),
        (Target(AT_ONCE, at_least=0.5),),
    ),
    Comparison(
        "the same, by handlers that await each statement",
        "events/s",
        (
            Contender("avx-events, execute", with_avx_in_postgresql(Users), 100_000),
            Contender(ONE_BY_ONE, with_asyncpg(one_by_one), 100_000),
        ),
        (Target(ONE_BY_ONE, at_least=0.5),),
    ),
    Comparison(
        "by how much a process grows while it projects a log, SQLite",
        "MiB",
        (
            Contender("avx-events, 1,000,000 events", growth_of, 1_000_000),
            Contender("avx-events, 100,000 events", growth_of, 100_000),
        ),
        (Target(16.0, at_most=1.0, name="16 MiB"),),
    ),
)


if __name__ == "__main__":
    print(asyncio.run(grow(int(sys.argv[1]))))
