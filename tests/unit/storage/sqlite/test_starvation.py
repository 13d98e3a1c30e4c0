"""A loop that is busy all the time lets the thread that writes get on, and one that is not is left in peace."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from avx_events.core.event import Event
from avx_events.storage.sqlite.starvation import StarvationGuard
from avx_events.store.event_store import EventStore
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)


class Noted(Event, event_type="starvation.noted"):
    pass


class Worker:
    """What the guard knows of a thread."""

    def __init__(self) -> None:
        self.is_at_rest = False
        self.guard = StarvationGuard(asyncio.get_running_loop(), is_at_rest=lambda: self.is_at_rest)


@pytest.fixture
async def worker() -> AsyncGenerator[Worker, None]:
    made = Worker()
    yield made
    made.is_at_rest = True


async def test_the_loop_stands_still_again_and_again_for_a_thread_that_does_not_get_on(worker: Worker) -> None:
    worker.guard.handed_over()

    await until(lambda: worker.guard.standstills >= 3)


async def test_it_does_not_while_the_thread_gets_on(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    worker.guard.handed_over()
    end = loop.time() + 0.02

    while loop.time() < end:
        worker.guard.progress()
        await asyncio.sleep(0)

    assert worker.guard.standstills == 0


async def test_it_does_not_once_the_thread_has_nothing_to_do(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    worker.guard.handed_over()
    await until(lambda: worker.guard.standstills)

    worker.is_at_rest = True
    standstills = worker.guard.standstills
    end = loop.time() + 0.02
    await until(lambda: loop.time() > end)

    assert worker.guard.standstills == standstills


async def test_it_watches_anew_when_there_is_something_to_do_again(worker: Worker) -> None:
    worker.is_at_rest = True
    worker.guard.handed_over()
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.01
    await until(lambda: loop.time() > end)

    worker.is_at_rest = False
    worker.guard.handed_over()

    await until(lambda: worker.guard.standstills)


async def test_appends_beside_a_loop_that_is_busy_without_a_pause_get_on(tmp_path: Path) -> None:
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path}/events.db?writer=thread") as store,
        asyncio.TaskGroup() as tasks,
    ):
        busy = tasks.create_task(be_busy())
        version = 0
        while not store.statistics()["standstills"] or version < 20:
            version = (await store.append("s", Noted(), expected_version=version)).version
        busy.cancel()

        assert await store.version_of("s") == version


async def test_which_writer_runs_is_among_the_statistics(tmp_path: Path) -> None:
    for choice, name in (("auto", "thread"), ("thread", "thread"), ("inline", "inline")):
        async with await EventStore.connect(f"sqlite:///{tmp_path}/{choice}.db?writer={choice}") as store:
            await store.append("s", Noted())

            statistics = store.statistics()
            assert (statistics["engine"], statistics["writer"], statistics["groups"]) == ("sqlite", name, 1)


async def be_busy() -> None:
    """Take turns of 0.3 ms, one after the other: too short for Python to take its lock from the loop."""
    while True:
        end = time.perf_counter() + 0.0003
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0)
