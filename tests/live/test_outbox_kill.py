"""Relays and writers that are killed, stopped and restarted lose nothing, invent nothing and keep order by key."""

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias
from uuid import uuid4

import pytest

from avx_events import EventBus, EventStore, Outbox
from avx_events.bus.subscriber import Subscriber
from avx_events.patterns.tables import execute
from tests.live.outbox_writer import KEYS, SQLITE
from tests.live.relay_worker import Moved
from tests.live.relayed import Move, violations
from tests.servers.process import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

Kind: TypeAlias = Literal["log", "outbox"]

ROOT: Final = Path(__file__).parents[2]
WORKER: Final = Path(__file__).with_name("relay_worker.py")
WRITER: Final = Path(__file__).with_name("outbox_writer.py")

LEASE_S: Final = 1.0
IN_FLIGHT: Final = 32
EVENTS: Final = 3_000


class Scene:
    """A database, a namespace of a broker, processes between them, and what has come out."""

    def __init__(self, kind: Kind, store: EventStore, urls: tuple[str, str], subscriber: Subscriber[Moved]) -> None:
        self.published: list[Move] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self._kind = kind
        self._store = store
        self._store_url, self._bus_url = urls
        self._subscriber = subscriber

    async def relay(self) -> asyncio.subprocess.Process:
        """Start a relay, and return when it runs: as the active one, or not."""
        options = json.dumps({"lease_s": LEASE_S, "in_flight": IN_FLIGHT})
        urls = (self._store_url, self._bus_url)
        process = await self._start(WORKER, self._kind, *urls, self._subscriber.name, options)
        assert await line_of(process) == "ready"
        return process

    async def writer(self, first: int, count: int, *, stop_at: int = -1) -> asyncio.subprocess.Process:
        """Start a writer."""
        return await self._start(WRITER, self._store_url, str(first), str(count), str(stop_at))

    async def until(self, condition: Callable[[], object], *, timeout_s: float = 60) -> None:
        """Take in what comes out of the bus until ``condition`` holds."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self._take_in()

    async def settle(self, *, most_repeats: int) -> None:
        """Take in what comes until everything has come that was committed, and fail where it is not as it should be."""
        committed = await self.committed()
        with suppress(TimeoutError):  # the judgement says what is lost
            await self.until(lambda: set(committed) <= set(self.published))
        while await self._take_in():
            pass
        found = violations(committed, self.published, most_repeats=most_repeats)
        assert not found, "\n".join(found)
        assert len(committed) > EVENTS // 2

    def has_published(self, count: int) -> Callable[[], bool]:
        """Return a condition: so many events have come out."""
        return lambda: len(set(self.published)) >= count

    async def stop(self, process: asyncio.subprocess.Process) -> None:
        """Let a process stand still, at a moment in which it has no lock on SQLite's file, for which all would wait."""
        async with asyncio.timeout(30):
            while True:
                process.send_signal(signal.SIGSTOP)
                if not await asyncio.to_thread(self._is_locked):
                    return
                process.send_signal(signal.SIGCONT)
                await self._take_in()

    def _is_locked(self) -> bool:
        if not self._store_url.startswith(SQLITE):
            return False  # there it ends with the lease
        path = self._store_url.removeprefix(SQLITE).partition("?")[0]
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            database.execute("ROLLBACK")
            return False

    async def committed(self) -> list[Move]:
        """Return what the database has."""
        return [(key, number) for key, number in await self._store.fetch("SELECT key, number FROM moves")]

    async def waiting(self) -> int:
        """Return how much of what was committed the database does not know as published."""
        count = "SELECT count(*) FROM avx_outbox"
        if self._kind == "log":
            count = "SELECT (SELECT max(position) FROM avx_events) - (SELECT max(position) FROM avx_relays)"
        row = await self._store.fetch_one(count)
        return 0 if row is None else int(row[0])

    async def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def fill(self, count: int = EVENTS) -> None:
        """Have so many events in the database, in its log or in the outbox."""
        store, outbox = self._store, Outbox()
        await outbox.prepare(store)
        async with store.transaction() as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS moves (key TEXT, number INTEGER)")
            for number in range(count):
                event = Moved(f"key-{number % KEYS}", number)
                await execute(connection, "INSERT INTO moves VALUES (?, ?)", event.key, number)
                if self._kind == "outbox":
                    await outbox.add(event, connection)
        if self._kind == "log":
            for first in range(0, count, 100):
                numbers = range(first, min(first + 100, count))
                await store.append(f"stream-{first % 3}", [Moved(f"key-{each % KEYS}", each) for each in numbers])

    async def _take_in(self) -> bool:
        try:
            async with asyncio.timeout(0.2):
                taken = await self._subscriber.recv_many(limit=1_000)
        except TimeoutError:
            return False
        self.published += [(event.key, event.number) for event in taken]
        return True

    async def _start(self, program: Path, *arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


@asynccontextmanager
async def scene(kind: Kind, store_url: str, bus_url: str) -> AsyncGenerator[Scene, None]:
    namespace = f"relays-{uuid4().hex}"
    async with (
        await EventStore.connect(store_url) as store,
        await EventBus.connect(bus_url, namespace=namespace) as bus,
    ):
        subscriber = await bus.subscribe(Moved, name=namespace, capacity=100_000)
        made = Scene(kind, store, (store_url, bus_url), subscriber)
        try:
            yield made
        finally:
            await made.end()


@pytest.fixture(params=["log", "outbox"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"{SQLITE}{tmp_path}/moves.db?busy_timeout_s=30"


async def test_a_relay_that_is_killed_again_and_again_publishes_everything_in_order(
    kind: Kind, store_url: str, redis_url: str
) -> None:
    kills = (1, 150, 151, 700, 1_400)
    async with scene(kind, store_url, redis_url) as on_scene:
        await on_scene.fill()
        for seen in kills:
            killed = await on_scene.relay()
            await on_scene.until(on_scene.has_published(seen))
            await kill(killed)
            assert await on_scene.waiting()
        await on_scene.relay()
        await on_scene.settle(most_repeats=len(kills) * IN_FLIGHT)


async def test_a_relay_that_is_told_to_stop_publishes_nothing_twice(kind: Kind, store_url: str, redis_url: str) -> None:
    async with scene(kind, store_url, redis_url) as on_scene:
        await on_scene.fill()
        for seen in (100, 500, 900):
            leaving = await on_scene.relay()
            await on_scene.until(on_scene.has_published(seen))
            leaving.terminate()
            assert await leaving.wait() == 0
        await on_scene.relay()
        await on_scene.settle(most_repeats=0)


async def test_of_two_relays_the_other_takes_over_from_one_that_is_killed(
    kind: Kind, store_url: str, redis_url: str
) -> None:
    async with scene(kind, store_url, redis_url) as on_scene:
        await on_scene.fill(0)
        killed = await on_scene.relay()
        assert await line_of(killed) == "active"
        await on_scene.relay()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(on_scene.fill())
            await on_scene.until(on_scene.has_published(200))
            await kill(killed)
            assert await on_scene.waiting() > IN_FLIGHT  # else the other one has nothing to do
        await on_scene.settle(most_repeats=IN_FLIGHT)


async def test_an_active_relay_that_stands_still_past_its_lease_and_goes_on_disturbs_nothing(
    kind: Kind, store_url: str, redis_url: str
) -> None:
    async with scene(kind, store_url, redis_url) as on_scene:
        await on_scene.fill(0)
        stopped = await on_scene.relay()
        assert await line_of(stopped) == "active"
        standby = await on_scene.relay()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(on_scene.fill())
            await on_scene.until(on_scene.has_published(100))
            await on_scene.stop(stopped)
            assert await on_scene.waiting() > IN_FLIGHT  # else the other one has nothing to do
        assert await line_of(standby) == "active"
        await on_scene.until(on_scene.has_published(600))
        stopped.send_signal(signal.SIGCONT)
        await on_scene.settle(most_repeats=2 * IN_FLIGHT)


async def test_a_broker_that_is_killed_and_started_again_loses_nothing(
    kind: Kind, store_url: str, redis_server: Server
) -> None:
    async with scene(kind, store_url, redis_server.url) as on_scene:
        await on_scene.fill()
        await on_scene.relay()
        await on_scene.until(on_scene.has_published(300))
        await asyncio.to_thread(redis_server.kill)
        assert await on_scene.waiting()
        await asyncio.to_thread(redis_server.start)
        await on_scene.settle(most_repeats=2 * IN_FLIGHT)


async def test_a_writer_that_is_killed_between_its_insert_and_its_commit_has_published_nothing_of_it(
    store_url: str, redis_url: str
) -> None:
    async with scene("outbox", store_url, redis_url) as on_scene:
        await on_scene.fill(0)
        await on_scene.relay()
        for first in range(1, EVENTS, EVENTS // 4):
            stop_at = first + EVENTS // 4 - 3
            writer = await on_scene.writer(first, EVENTS // 4, stop_at=stop_at)
            assert await line_of(writer) == f"added {stop_at}"
            await kill(writer)
            assert (f"key-{stop_at % KEYS}", stop_at) not in await on_scene.committed()
        await on_scene.settle(most_repeats=0)

    assert not [number for _, number in on_scene.published if number % 7 == 0]


async def test_a_relay_that_is_killed_while_writers_write_publishes_all_that_they_committed(
    store_url: str, redis_url: str
) -> None:
    async with scene("outbox", store_url, redis_url) as on_scene:
        await on_scene.fill(0)
        killed = await on_scene.relay()
        writer = await on_scene.writer(1, EVENTS)
        await on_scene.until(on_scene.has_published(200))
        await kill(killed)
        await on_scene.relay()
        assert await line_of(writer) == "done"
        await on_scene.settle(most_repeats=IN_FLIGHT)


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        ([("a", 1), ("a", 3)], "not published"),
        ([("a", 1), ("a", 2), ("a", 3), ("a", 4)], "nobody committed"),
        ([("a", 2), ("a", 1), ("a", 3)], "1 of a came after 2"),
        ([("a", 1), ("a", 1), ("a", 1), ("a", 2), ("a", 3)], "2 events were published again"),
    ],
)
def test_a_history_that_cannot_be_is_found(published: list[Move], problem: str) -> None:
    (found,) = violations([("a", 1), ("a", 2), ("a", 3)], published, most_repeats=1)

    assert problem in found


def test_a_history_with_repeats_in_between_may_be() -> None:
    published = [("a", 1), ("b", 1), ("a", 2), ("a", 1), ("a", 3)]

    assert violations([("a", 1), ("a", 2), ("a", 3), ("b", 1)], published, most_repeats=1) == []
