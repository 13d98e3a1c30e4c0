"""A projection whose process is killed, again and again, has the effect of each event exactly once in the end."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from avx_events.patterns.projection.overview import Overview
from avx_events.store.event_store import EventStore
from tests.live.projection_worker import Ticked

pytestmark = pytest.mark.timeout(120)

EVENTS = 2_000
WORKER = Path(__file__).with_name("projection_worker.py")


@pytest.fixture(params=["file", pytest.param("postgresql", marks=pytest.mark.live)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"sqlite:///{tmp_path}/ticks.db"
    url: str = request.getfixturevalue("postgres_database")
    return url


@asynccontextmanager
async def worker(*arguments: object) -> AsyncGenerator[asyncio.StreamReader, None]:
    """Run a worker, give what it says, and kill it."""
    async with process_of(*arguments) as process:
        assert process.stdout is not None
        yield process.stdout


@asynccontextmanager
async def process_of(*arguments: object) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Run a worker, and kill it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, WORKER, *map(str, arguments), stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        process.kill()
        await process.wait()


async def until_said(said: asyncio.StreamReader, wanted: int | str) -> str:
    """Return the first line that is ``wanted``, or a position at or after it."""
    async for line in said:
        text = line.decode().strip()
        if text == wanted or (isinstance(wanted, int) and text.isdigit() and int(text) >= wanted):
            return text
    pytest.fail(f"the worker ended before it said {wanted}")


async def append(store: EventStore, first: int, count: int) -> int:
    position = 0
    for number in range(first, first + count, 100):
        ticks = [Ticked(f"counter-{tick % 7}", tick) for tick in range(number, number + 100)]
        position = (await store.append(f"stream-{number % 3}", ticks)).position
    return position


async def killed_at(url: str, version: int, *positions: int) -> list[int]:
    """Kill a worker when it handles each of ``positions`` or, where it began after it, its first event."""
    killed: list[int] = []
    for position in positions:
        async with worker(url, version, EVENTS) as said:
            killed.append(int(await until_said(said, position)))
    return killed


async def done(url: str, version: int, position: int) -> None:
    async with worker(url, version, position) as said:
        await until_said(said, "done")


async def assert_each_once(url: str, count: int, *, version: int) -> None:
    async with await EventStore.connect(url) as store:
        ticks: list[tuple[Any, ...]] = await store.fetch("SELECT number, version FROM ticks ORDER BY number")
        counters = await store.fetch("SELECT ticks FROM counters")
    assert ticks == [(number, version) for number in range(count)]
    assert sum(number for (number,) in counters) == count


async def test_each_event_has_its_effect_once_whenever_the_process_is_killed(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await append(store, 0, EVENTS)

    killed = await killed_at(url, 1, 1, 120, 610, 611, 1_300, 1_951)
    await done(url, 1, EVENTS)

    assert killed == sorted(killed)
    await assert_each_once(url, EVENTS, version=1)


async def test_each_event_has_its_effect_once_where_a_live_projection_is_killed(url: str) -> None:
    async with await EventStore.connect(url) as store:
        async with worker(url, 1, EVENTS) as said:
            await until_said(said, "ready")
            await append(store, 0, 1_000)
            await until_said(said, 433)
        async with worker(url, 1, EVENTS) as said:
            await until_said(said, "ready")
            await append(store, 1_000, 1_000)
            await until_said(said, 1_777)

    await done(url, 1, EVENTS)
    await assert_each_once(url, EVENTS, version=1)


async def test_a_new_version_is_built_whenever_its_process_is_killed_and_the_older_one_is_read_until_then(
    url: str,
) -> None:
    async with await EventStore.connect(url) as store:
        await append(store, 0, EVENTS)
    await done(url, 1, EVENTS)

    killed = await killed_at(url, 2, 1, 120, 611, 1_951)
    assert killed == sorted(killed)
    await assert_each_once(url, EVENTS, version=1)

    async with worker(url, 2, EVENTS, "switch") as said:
        await until_said(said, "switching")
    await assert_each_once(url, EVENTS, version=1)

    await done(url, 2, EVENTS)  # which is killed right after the switch
    await assert_each_once(url, EVENTS, version=2)

    await done(url, 2, EVENTS)
    await assert_each_once(url, EVENTS, version=2)
    async with await EventStore.connect(url) as store:
        assert await store.fetch("SELECT version, position, stage FROM avx_projections") == [(2, EVENTS, "live")]


async def test_the_older_version_goes_on_in_its_process_while_the_newer_one_is_built_and_killed(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await append(store, 0, 1_000)
        async with worker(url, 1, 1_000) as old:
            await until_said(old, "done")
            async with worker(url, 2, 1_000) as new:
                await until_said(new, 300)
            position = await append(store, 1_000, 1_000)
            await until_said(old, position)
            await done(url, 2, position)

    await assert_each_once(url, EVENTS, version=2)


async def test_a_version_is_built_anew_whenever_its_process_is_killed_and_what_was_there_is_read_until_then(
    url: str,
) -> None:
    async with await EventStore.connect(url) as store:
        await append(store, 0, EVENTS)
        await done(url, 1, EVENTS)
        async with store.transaction() as connection:
            await connection.execute("DELETE FROM ticks WHERE number >= 10")
            await connection.execute("UPDATE counters SET ticks = 10 WHERE counter = 'counter-0'")
            await connection.execute("DELETE FROM counters WHERE counter <> 'counter-0'")
        await Overview(store).rebuild("counters")

    killed = await killed_at(url, 1, 1, 120, 611, 1_951)
    async with worker(url, 1, EVENTS, "switch") as said:
        await until_said(said, "switching")
    assert killed == sorted(killed)
    await assert_each_once(url, 10, version=1)  # as it was damaged

    await done(url, 1, EVENTS)  # which is killed right after the switch
    await done(url, 1, EVENTS)

    await assert_each_once(url, EVENTS, version=1)
    async with await EventStore.connect(url) as store:
        assert await store.fetch("SELECT version, position, stage FROM avx_projections") == [(1, EVENTS, "live")]


@pytest.mark.live
async def test_a_process_that_stands_still_in_its_transaction_holds_nobody_up(postgres_database: str) -> None:
    url = postgres_database
    async with await EventStore.connect(url) as store:
        await append(store, 0, EVENTS)
        async with process_of(url, 1, EVENTS, "hurry") as process:
            assert process.stdout is not None
            await until_said(process.stdout, 120)
            process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(10):
                await Overview(store).pause("counters")
                await Overview(store).resume("counters")
            await done(url, 1, EVENTS)
            process.send_signal(signal.SIGCONT)
            await until_said(process.stdout, "done")

    await assert_each_once(url, EVENTS, version=1)
