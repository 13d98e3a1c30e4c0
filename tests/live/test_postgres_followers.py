"""Those who read and follow go on over restarts, without wake-ups, beside other stores, and need no more memory."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from avx_events.core.event import Event
from avx_events.storage.postgres.schema import LOCK
from avx_events.storage.postgres.sessions import Connection, Sessions
from avx_events.store.event_store import EventStore
from avx_events.store.subscription import StoreSubscription
from tests.live.histories import Entry, follower_violations
from tests.live.postgres_asking import END_THE_STORES, asked, connected, through, until_answer, until_waiting
from tests.live.postgres_attempts import Load
from tests.live.postgres_pages import STREAM, Growth, Weighed
from tests.live.sqlite_processes import entry_of, log_of, running
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.live

EVENTS = int(os.environ.get("AVX_LONG_STREAM", "100000"))
"""Of the long stream: a million takes half a minute, so that is for who asks for it."""

LISTENING = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')"
)


class Noted(Event, event_type="followers.noted"):
    at_ns: int


async def seen(follower: StoreSubscription, entries: list[Entry]) -> None:
    """Write down what a follower is given, for ever."""
    while True:
        entries.append(entry_of(await anext(follower)))


async def test_followers_and_readers_go_on_over_restarts(postgres_server: PostgresServer) -> None:
    url = f"{postgres_server.url}?timeout_s=30"
    async with await EventStore.connect(url) as store, await EventStore.connect(url) as other:
        load = Load(store, "restart")
        entries: list[list[Entry]] = [[], []]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(20))
            following = [
                tasks.create_task(seen(other.subscribe(), entries[0])),
                tasks.create_task(seen(other.subscribe(stream_prefix="stream-1"), entries[1])),
            ]
            reading = tasks.create_task(read_again_and_again(other, following[0]))
            for end in (postgres_server.stop, postgres_server.kill):
                await until(load.kept_more(100), timeout_s=30)
                await asyncio.to_thread(end)
                await asyncio.to_thread(postgres_server.start)
            await until(load.kept_more(100), timeout_s=30)
            load.end()
            await until(lambda: len(entries[0]) >= sum(len(one.event_ids) for one in load.attempts), timeout_s=30)
            log = await log_of(store)
            only = [entry for entry in log if entry.stream == "stream-1"]
            await until(lambda: len(entries[1]) == len(only), timeout_s=30)
            for follower in following:
                follower.cancel()

        assert follower_violations(entries[0], log) == []
        assert follower_violations(entries[1], only) == []
        assert reading.result() > 0


async def read_again_and_again(store: EventStore, until_ended: asyncio.Task[None]) -> int:
    """Read the whole log until a task has ended; it only ever grows. Return how often."""
    times = before = 0
    while not until_ended.done():
        log = await log_of(store)
        assert [entry.position for entry in log] == [*range(1, len(log) + 1)]
        assert len(log) >= before
        before, times = len(log), times + 1
    return times


async def test_a_follower_elsewhere_is_woken_up_long_before_it_looks_by_itself(postgres_database: str) -> None:
    url = f"{postgres_database}?poll_s=60"
    async with await EventStore.connect(url) as store, await EventStore.connect(url) as other:
        follower = other.subscribe()
        took_ms: list[float] = []
        async with connected(postgres_database) as observer:
            await until_answer(observer, LISTENING.replace("> 0", "= 2"))
        for _ in range(30):
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(anext(follower))
                await asyncio.sleep(0)
                await store.append("a", Noted(time.monotonic_ns()))
                event: Noted = (await waiting).event
            took_ms.append((time.monotonic_ns() - event.at_ns) / 1e6)

        await until(lambda: other.statistics()["wake_ups"])
        assert sorted(took_ms)[15] < 1_000, took_ms


async def test_without_a_wake_up_a_follower_elsewhere_looks_by_itself(postgres_database: str) -> None:
    with Proxy(int(postgres_database.rpartition(":")[2].partition("/")[0])) as proxy:
        async with (
            await EventStore.connect(postgres_database) as store,
            await EventStore.connect(f"{through(proxy, postgres_database)}?poll_s=0.05&timeout_s=5") as other,
            connected(postgres_database) as observer,
            asyncio.TaskGroup() as tasks,
        ):
            await until_answer(observer, LISTENING.replace("> 0", "= 2"))
            follower = other.subscribe()
            for number in range(3):
                waiting = tasks.create_task(anext(follower))
                await observer.execute(END_THE_STORES)  # the one that listens is only back after a while
                await store.append("a", Noted(number))
                assert (await waiting).position == number + 1
            await until_answer(observer, LISTENING.replace("> 0", "= 2"))
            waiting = tasks.create_task(anext(follower))
            await store.append("a", Noted(4))
            assert (await waiting).position == 4


async def test_two_stores_of_one_database_neither_wake_nor_block_each_other(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA one", "CREATE SCHEMA two")
    async with (
        await EventStore.connect(f"{postgres_database}?schema=one&poll_s=60") as one,
        await EventStore.connect(f"{postgres_database}?schema=two&poll_s=60") as two,
        await EventStore.connect(f"{postgres_database}?schema=two&poll_s=60") as two_elsewhere,
        connected(postgres_database) as holder,
        connected(postgres_database) as observer,
        asyncio.TaskGroup() as tasks,
    ):
        await until_answer(observer, LISTENING.replace("> 0", "= 3"))
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SET search_path = one")
        await holder.execute(f"SELECT {LOCK}")
        blocked = tasks.create_task(one.append("a", Noted(1)))
        await until_waiting(observer)

        following = tasks.create_task(anext(two_elsewhere.subscribe()))
        await two.append("a", Noted(2))

        assert (await following).event == Noted(2)
        assert not blocked.done()
        await transaction.commit()
        assert (await blocked).position == 1
        await until(lambda: two_elsewhere.statistics()["wake_ups"] == 1)  # as it may have read before it heard
        assert one.statistics()["wake_ups"] == 0


async def test_a_long_log_is_read_and_an_aggregate_loaded_in_constant_memory(postgres_database: str) -> None:
    async with await EventStore.connect(f"{postgres_database}?timeout_s=60") as store:
        for first in range(0, EVENTS, 2_500):
            await store.append(STREAM, [Weighed(number, "x" * 100) for number in range(first, first + 2_500)])

    async with running("postgres_pages", postgres_database) as process:
        output, _ = await process.communicate()
    growth = msgspec.json.decode(output, type=Growth)

    (read, read_bytes), (of_stream, of_stream_bytes) = growth.read_all, growth.read_stream
    assert (read, of_stream, growth.loaded, growth.from_snapshot) == (EVENTS,) * 4
    assert growth.snapshots_used == 1
    assert max(read_bytes, of_stream_bytes) < 8_000_000  # 100,000 of these events take 60 MB


class Cut:
    """A connection that is lost in the moment between what it hears and the telling of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Listen as the connection does."""

        def heard(*args: object) -> None:
            self._connection.terminate()
            callback(*args)

        await self._connection.add_listener(channel, heard)


async def test_what_is_heard_of_while_the_connection_is_lost_is_a_wake_up_all_the_same(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Sessions.connect

    async def cut(sessions: Sessions, *, timeout_s: float) -> Any:
        return Cut(await connect(sessions, timeout_s=timeout_s))

    async with await EventStore.connect(postgres_database) as store:
        monkeypatch.setattr(Sessions, "connect", cut)
        async with (
            await EventStore.connect(f"{postgres_database}?poll_s=60") as other,
            connected(postgres_database) as observer,
            asyncio.TaskGroup() as tasks,
        ):
            await until_answer(observer, LISTENING.replace("> 0", "= 2"))
            following = tasks.create_task(anext(other.subscribe()))

            await store.append("a", Noted(1))

            assert (await following).event == Noted(1)
            await until(lambda: other.statistics()["wake_ups"] == 1)  # a fast reader may have seen it before it hears
