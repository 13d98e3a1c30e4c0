"""A scope owns its tasks: they end with it, and one that fails is heard of."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.tasks import Changes, TaskScope, wake


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(with_deadline())


def test_a_task_that_ends_leaves_the_scope() -> None:
    async def scenario() -> None:
        scope = TaskScope()
        done = asyncio.Event()

        async def work() -> None:
            done.set()

        task = scope.spawn(work(), name="work")
        assert len(scope) == 1
        await task

        assert done.is_set()
        assert len(scope) == 0

    run(scenario)


def test_cancel_ends_every_task_and_waits_for_its_cleanup() -> None:
    async def scenario() -> None:
        scope = TaskScope()
        cleaned: list[int] = []
        started = asyncio.Barrier(4)

        async def work(number: int) -> None:
            try:
                await started.wait()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(number)

        for number in range(3):
            scope.spawn(work(number), name=f"work {number}")
        await started.wait()
        stuck = await scope.cancel()

        assert stuck == []
        assert sorted(cleaned) == [0, 1, 2]
        assert len(scope) == 0
        assert await scope.cancel() == []

    run(scenario)


def test_a_task_that_swallows_its_cancellation_is_reported_and_let_go() -> None:
    async def scenario() -> None:
        scope = TaskScope()
        started, release = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await release.wait()

        task = scope.spawn(stubborn(), name="stubborn")
        await started.wait()
        stuck = await scope.cancel(grace_s=0.01)

        assert stuck == [task]
        assert len(scope) == 0
        release.set()
        await task

    run(scenario)


def test_a_task_that_fails_is_logged_and_given_to_the_owner(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        crashes: list[BaseException] = []
        crashed = asyncio.Event()

        def on_crash(error: BaseException) -> None:
            crashes.append(error)
            crashed.set()

        async def broken() -> None:
            raise KeyError("lost")

        scope = TaskScope(on_crash)
        scope.spawn(broken(), name="broken loop")
        await crashed.wait()

        assert [repr(error) for error in crashes] == ["KeyError('lost')"]
        assert len(scope) == 0

    with caplog.at_level(logging.CRITICAL, "avx_events"):
        run(scenario)

    assert "broken loop failed" in caplog.text


def test_a_released_task_is_no_longer_waited_for() -> None:
    async def scenario() -> None:
        scope = TaskScope()
        release = asyncio.Event()

        async def work() -> None:
            await release.wait()

        task = scope.spawn(work(), name="work")
        scope.release(task)

        assert len(scope) == 0
        assert await scope.cancel() == []
        assert not task.cancelled()
        release.set()
        await task

    run(scenario)


def test_the_system_clock_calls_back_on_the_loop_and_can_be_cancelled() -> None:
    async def scenario() -> None:
        called = asyncio.Event()
        late: list[str] = []

        SYSTEM_CLOCK.call_later(0.001, lambda: late.append("cancelled")).cancel()
        SYSTEM_CLOCK.call_later(0.001, called.set)
        await called.wait()

        assert late == []
        assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()
        assert SYSTEM_CLOCK.time_ns() > 0

    run(scenario)


def test_waking_twice_or_after_the_loop_has_ended_is_harmless() -> None:
    left: list[asyncio.Future[None]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        wake(waiter)
        wake(waiter)
        await waiter

        given_up: asyncio.Future[None] = loop.create_future()
        given_up.cancel()
        wake(given_up)
        assert given_up.cancelled()

        abandoned: asyncio.Future[None] = loop.create_future()
        abandoned.add_done_callback(lambda _: None)  # a closed loop refuses to run it
        left.append(abandoned)

    run(scenario)

    wake(left[0])
    assert not left[0].done()


def test_a_change_is_told_to_all_who_wait_and_not_to_those_who_come_later() -> None:
    async def scenario() -> None:
        changes = Changes()
        told: list[int] = []

        async def look(number: int) -> None:
            await changes.wait()
            told.append(number)

        async with asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(look(0))
            for number in (1, 2):
                tasks.create_task(look(number))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
            changes.tell()
            changes.tell()  # before anybody could look: once is enough
            late = tasks.create_task(look(3))
            for _ in range(5):
                await asyncio.sleep(0)
            assert sorted(told) == [1, 2]
            assert not late.done()
            changes.tell()

        assert sorted(told) == [1, 2, 3]

    run(scenario)


def test_a_change_that_came_between_a_look_and_a_wait_is_not_missed() -> None:
    async def scenario() -> None:
        changes = Changes()
        before = changes.told
        changes.tell()

        await changes.wait(since=before)

        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(changes.wait(since=changes.told))
            for _ in range(3):
                await asyncio.sleep(0)
            assert not waiting.done()
            changes.tell()

    run(scenario)
