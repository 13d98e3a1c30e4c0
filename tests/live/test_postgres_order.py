"""Commit order is position order: the interleavings that break the usual designs, and that they do break them.

Each is played twice: on the store as it is, and on one whose appends take their positions from a sequence, without the
lock, as stores in PostgreSQL often do. There a reader passes what is still to come, and never sees it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from avx_events import Event, EventStore
from tests.waiting import until

pytestmark = pytest.mark.live

# The same functions, but for the lock, and with positions of a sequence.
WITHOUT_LOCK: Final = """
CREATE SEQUENCE unlocked;
CREATE OR REPLACE FUNCTION avx_append_one(
    now_us bigint, stream text, version bigint, event_id text, event_type text, metadata bytea, data bytea
) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    place bigint := nextval('unlocked');
BEGIN
    INSERT INTO avx_events VALUES (place, stream, version, now_us + place, event_id, event_type, metadata, data);
    RETURN place - 1;
END
$function$
"""
APPEND: Final = "SELECT avx_append_one(1, $1, 1, $2, 'order.moved', '[1,\"\"]', '{\"number\":0}')"
WAITING: Final = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


class Moved(Event, event_type="order.moved"):
    number: int


@pytest.fixture(params=["locked", "unlocked"])
async def design(request: pytest.FixtureRequest, postgres_database: str) -> str:
    """Make the tables of a store whose appends take the lock, or of one whose do not; return which."""
    async with await EventStore.connect(postgres_database), connected(postgres_database) as connection:
        if request.param == "unlocked":
            await connection.execute(WITHOUT_LOCK)
    return str(request.param)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any, None]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


class Play:
    """A store, a slow writer with a transaction that is open, and a look at who waits."""

    def __init__(self, store: EventStore, slow: Any, observer: Any, tasks: asyncio.TaskGroup) -> None:
        self.store = store
        self.slow = slow
        self.observer = observer
        self.tasks = tasks

    async def append_slowly(self, stream: str) -> Any:
        """Append to ``stream`` in a transaction that is returned, still open."""
        transaction = self.slow.transaction()
        await transaction.start()
        await self.slow.fetchval(APPEND, stream, f"of {stream}")
        return transaction

    async def append_quickly(self, stream: str) -> asyncio.Task[Any]:
        """Begin to append to ``stream``; returns when that is committed, or waits for the slow one."""
        appending = self.tasks.create_task(self.store.append(stream, Moved(1)))

        async with asyncio.timeout(10):
            while not appending.done() and not await self.observer.fetchval(WAITING):
                continue
        return appending

    async def read(self, after: int, **options: Any) -> list[tuple[int, str]]:
        """Return positions and streams of what is there now."""
        return [(stored.position, stored.stream) async for stored in self.store.read_all(after, **options)]


@asynccontextmanager
async def played(url: str) -> AsyncGenerator[Play, None]:
    async with (
        await EventStore.connect(url) as store,
        connected(url) as slow,
        connected(url) as observer,
        asyncio.TaskGroup() as tasks,
    ):
        yield Play(store, slow, observer, tasks)


async def test_a_reader_does_not_pass_the_position_of_an_open_transaction(postgres_database: str, design: str) -> None:
    async with played(postgres_database) as play:
        transaction = await play.append_slowly("slow")
        appending = await play.append_quickly("quick")
        first = await play.read(0)
        await transaction.commit()
        await appending

        second = await play.read(first[-1][0] if first else 0)

        if design == "locked":
            assert (first, second) == ([], [(1, "slow"), (2, "quick")])
        else:
            assert (first, second) == ([(2, "quick")], [])  # "slow" is never seen


async def test_a_follower_sees_both_of_two_appenders_whose_commits_cross(postgres_database: str, design: str) -> None:
    async with played(postgres_database) as play:
        transaction = await play.append_slowly("slow")
        appending = await play.append_quickly("quick")
        seen: list[str] = []
        follower = play.store.subscribe()
        if design == "unlocked":
            seen.append((await anext(follower)).stream)
        await transaction.commit()
        await appending
        await play.store.append("last", Moved(2))

        while seen[-1:] != ["last"]:
            seen.append((await anext(follower)).stream)

        assert seen == (["slow", "quick", "last"] if design == "locked" else ["quick", "last"])


async def test_a_position_that_was_rolled_back_leaves_no_gap(postgres_database: str, design: str) -> None:
    async with played(postgres_database) as play:
        transaction = await play.append_slowly("slow")
        await transaction.rollback()
        appending = await play.append_quickly("quick")
        await appending

        # In a log with gaps a reader that waits for them stands still, and one that does not passes open transactions.
        assert await play.read(0) == ([(1, "quick")] if design == "locked" else [(2, "quick")])


async def test_a_reader_over_two_categories_misses_neither(postgres_database: str, design: str) -> None:
    async with played(postgres_database) as play:
        transaction = await play.append_slowly("slow-1")
        appending = await play.append_quickly("quick-1")
        follower = play.store.subscribe(stream_prefix="slow-")
        waiting = play.tasks.create_task(anext(follower))
        if design == "unlocked":
            await until(lambda: follower.position > 0)  # what the other category has moves this one on
        await transaction.commit()
        await appending
        await play.store.append("slow-2", Moved(2))

        stored = await waiting

        assert stored.stream == ("slow-1" if design == "locked" else "slow-2")
        assert await play.read(follower.position) == ([(2, "quick-1"), (3, "slow-2")] if design == "locked" else [])
