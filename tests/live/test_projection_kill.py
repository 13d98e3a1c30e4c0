"""A projection whose process is killed, again and again, has the effect of each event exactly once in the end."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore
from tests.live.projection_worker import Ticked

EVENTS = 2_000
WORKER = Path(__file__).with_name("projection_worker.py")


async def start(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, WORKER, url, str(EVENTS), stdout=asyncio.subprocess.PIPE
    )


async def run_until(url: str, position: int) -> int:
    """Kill a worker when it handles ``position`` or, where it began after it, its first event; return which one."""
    worker = await start(url)
    assert worker.stdout is not None
    try:
        async for line in worker.stdout:
            if int(line) >= position:
                return int(line)
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
    pytest.fail(f"the worker ended before position {position}")


@pytest.mark.timeout(120)
async def test_each_event_has_its_effect_once_whenever_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "ticks.db"
    url = f"sqlite:///{path}"
    async with await EventStore.connect(url) as store:
        for number in range(0, EVENTS, 100):
            ticks = [Ticked(f"counter-{count % 7}", count) for count in range(number, number + 100)]
            await store.append(f"stream-{number % 3}", ticks)

    async with asyncio.timeout(100):
        killed_at = [await run_until(url, position) for position in (1, 120, 610, 611, 1_300, 1_951)]
        last = await start(url)
        await last.communicate()

    assert killed_at == sorted(killed_at)
    assert last.returncode == 0
    with closing(sqlite3.connect(path)) as database:
        numbers = [number for (number,) in database.execute("SELECT number FROM ticks ORDER BY number")]
        counters = dict(database.execute("SELECT counter, ticks FROM counters"))
    assert numbers == list(range(EVENTS))
    assert sum(counters.values()) == EVENTS
