"""Members on the log of a store are killed, stand still and are told to stop: nothing is lost, and order is kept."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from avx_events import EventStore, LogBus
from tests.live.fault_suite import CAPACITY, Member, Scene, begun
from tests.live.group_member import Numbered
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.live

LEASE_S = 1.0
STALL_S = 3.0
"""How long a member stands still, to have lost its lanes for sure."""


class LogScene(Scene):
    """Members on one log, and what they did."""

    program: ClassVar = Path(__file__).with_name("log_member.py")


class Appender:
    """Publishes by appending, each key to a stream of its own."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    async def publish(self, event: object, /) -> None:
        assert isinstance(event, Numbered)
        await self.store.append(event.key, event)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    database: str = request.getfixturevalue("postgres_database")
    return database


@asynccontextmanager
async def scene_at(url: str, folder: Path) -> AsyncGenerator[tuple[LogScene, Appender]]:
    scene = LogScene(url, folder, {"lease_s": LEASE_S})
    async with await EventStore.connect(url) as store:
        try:
            yield scene, Appender(store)
        finally:
            await scene.end()


async def test_a_member_that_is_killed_in_the_middle_of_its_work_loses_nothing(url: str, tmp_path: Path) -> None:
    async with scene_at(url, tmp_path) as (scene, appender):
        killed, *_ = [await scene.member() for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scene.publish(appender, 500))
            await scene.until(begun(400))
            killed.send(signal.SIGKILL)
            await killed.end()
        await scene.all_handled()

    scene.judge(most_repeats=CAPACITY)


async def test_a_member_that_is_killed_while_it_catches_up_loses_nothing(url: str, tmp_path: Path) -> None:
    async with scene_at(url, tmp_path) as (scene, appender):
        await scene.publish(appender, 500)
        killed = await scene.member()
        await scene.until(begun(300))
        killed.send(signal.SIGKILL)
        await killed.end()
        await scene.member()
        await scene.all_handled()

    scene.judge(most_repeats=CAPACITY)


async def test_a_member_that_stands_still_past_its_lease_comes_back_and_nothing_is_lost(
    url: str, tmp_path: Path
) -> None:
    async with scene_at(url, tmp_path) as (scene, appender):
        stalled, *_ = [await scene.member() for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scene.publish(appender, 500))
            await scene.until(begun(300))
            stalled.send(signal.SIGSTOP)
            await asyncio.sleep(STALL_S)  # what is tested is that this much time goes by
            stalled.send(signal.SIGCONT)
        await scene.publish(appender, 100, first=500)
        await scene.all_handled()

    # SQLite's lock stays with a process that stands still in the midst of a transaction: then all three stand still.
    scene.judge(most_repeats=3 * CAPACITY if url.startswith("sqlite") else CAPACITY)


async def test_a_server_that_is_restarted_loses_nothing_and_everybody_goes_on(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with scene_at(postgres_server.url, tmp_path) as (scene, appender):
        await scene.publish(appender, 300)
        for _ in range(2):
            await scene.member(work_s=0.005)
        await scene.until(begun(300))
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.to_thread(postgres_server.start)
        await scene.all_handled()

    scene.judge(most_repeats=2 * CAPACITY)


async def test_members_that_are_told_to_stop_under_load_finish_and_run_nothing_twice(url: str, tmp_path: Path) -> None:
    async with scene_at(url, tmp_path) as (scene, appender):
        await scene.member()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scene.publish(appender, 500))
            for count in (200, 500, 800):
                leaving = await scene.member()
                await scene.until(begun(count))
                leaving.send(signal.SIGTERM)
                assert await leaving.end() == 0
        await scene.all_handled()

    scene.judge(most_repeats=0)


async def test_an_event_that_kills_its_process_is_a_dead_letter_after_its_attempts_and_stops_nothing(
    url: str, tmp_path: Path
) -> None:
    async with scene_at(url, tmp_path) as (scene, appender):
        await scene.publish(appender, 20)
        deadly = ("publisher-0", 7)
        kills = 0
        async with await LogBus.connect(appender.store, group="faults") as bus:
            member = await scene.member(deadly=deadly, attempts=3)
            while await _is_killed(member, bus):
                kills += 1
                member = await scene.member(deadly=deadly, attempts=3)
            (letter,) = await bus.dead_letter_queue.list()
        others = set(scene.outcomes) - {deadly}
        await scene.until(lambda steps: others <= {step.event for step in steps if step.what == "ended"})

    assert (letter.error_type, letter.attempts, letter.event.number) == ("HandlerKilledError", 3, 7)
    assert kills == sum(step.event == deadly for step in scene.steps.read()) == 3


async def _is_killed(member: Member, bus: LogBus) -> bool:
    """Wait until a member has ended, or there is a dead letter."""
    async with asyncio.timeout(60):
        while member.process.returncode is None and not await bus.dead_letter_queue.count():  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # nothing announces a dead letter
    return member.process.returncode is not None
