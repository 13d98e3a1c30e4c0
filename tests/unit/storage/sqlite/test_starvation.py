"""A loop that is busy all the time lets the thread that writes get on, and one that is not is left in peace."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from itertools import count
from pathlib import Path

import pytest

from avx_events.core.event import Event
from avx_events.storage.sqlite.starvation import StarvationGuard, cpu_clock_of
from avx_events.store.event_store import EventStore
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)


COUNT_TO = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM n"


class Noted(Event, event_type="starvation.noted"):
    pass


class Worker:
    """What the guard knows of a thread: of one that is starved, if nothing else is said."""

    def __init__(self) -> None:
        self.is_at_rest = False
        self.cpu_s: Callable[[], float] = count(0.0, 1e-9).__next__  # some, whenever it is looked at
        self.guard = StarvationGuard(
            asyncio.get_running_loop(), is_at_rest=lambda: self.is_at_rest, cpu_s=self.time_had
        )

    def time_had(self) -> float:
        return self.cpu_s()


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


async def test_it_does_not_while_the_thread_is_at_work(worker: Worker) -> None:
    worker.cpu_s = lambda: time.monotonic() / 2
    worker.guard.handed_over()
    end = time.monotonic() + 0.05

    await until(lambda: time.monotonic() > end)

    assert worker.guard.standstills == 0


async def test_it_does_for_a_thread_that_was_at_work_and_is_starved_then(worker: Worker) -> None:
    starved = worker.cpu_s
    worker.cpu_s = lambda: time.monotonic() / 2
    worker.guard.handed_over()
    end = time.monotonic() + 0.02
    await until(lambda: time.monotonic() > end)

    worker.cpu_s = starved

    await until(lambda: worker.guard.standstills >= 3)


async def test_it_only_glances_at_a_thread_that_sleeps(worker: Worker) -> None:
    guard, worker.cpu_s = worker.guard, lambda: 0.0
    guard.handed_over()
    await until(lambda: guard.is_asleep)
    before, before_s = guard.standstills, guard.stood_still_s

    await until(lambda: guard.standstills == before + 6)

    assert guard.stood_still_s - before_s < 6 * 0.0003


async def test_it_stands_still_again_for_a_thread_that_slept_and_is_starved_then(worker: Worker) -> None:
    starved, worker.cpu_s = worker.cpu_s, lambda: 0.0
    worker.guard.handed_over()
    await until(lambda: worker.guard.is_asleep)

    worker.cpu_s = starved

    await until(lambda: not worker.guard.is_asleep)


async def test_a_thread_whose_time_nobody_knows_counts_as_starved() -> None:
    worker = Worker()
    worker.guard = StarvationGuard(asyncio.get_running_loop(), is_at_rest=lambda: worker.is_at_rest, cpu_s=None)
    worker.guard.handed_over()

    await until(lambda: worker.guard.standstills >= 3)
    worker.is_at_rest = True

    assert not worker.guard.is_asleep


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


async def test_a_long_statement_leaves_the_loop_in_peace() -> None:
    async with await EventStore.connect("sqlite://?writer=thread") as store, store.transaction() as connection:
        began = time.monotonic()
        await connection.fetch(COUNT_TO, 3_000_000)
        took_s = time.monotonic() - began

        # It was one for each 40 ms. On a busy machine the thread is starved now and then by others, not by this loop.
        assert int(store.statistics()["standstills"]) < max(took_s / 0.04 / 4, 8)


async def test_the_clock_of_a_thread_goes_while_it_has_the_processor() -> None:
    may_work, may_end = threading.Event(), threading.Event()

    def work() -> None:
        may_work.wait(10)
        while not may_end.wait(0):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    cpu_s = cpu_clock_of(thread)
    assert cpu_s is not None
    await until(lambda: cpu_s() == cpu_s())
    before = cpu_s()
    may_work.set()
    await until(lambda: cpu_s() > before)
    may_end.set()
    thread.join(10)


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
