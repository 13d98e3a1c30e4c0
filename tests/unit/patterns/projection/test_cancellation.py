"""Wherever what is asked of a projection is cancelled: it is done or not done, never half, and can be asked again."""

from pathlib import Path
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.projection.overview import Overview
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from tests.unit.store.cuts import Cut, at_every_place

pytestmark = pytest.mark.timeout(300)

WRITERS = ["thread", "inline"]


class Counted(Event, event_type="cut.counted"):
    number: int


class Numbers(Projection, name="numbers", tables=("numbers",)):
    fails = False

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('numbers')} (number INTEGER)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection) -> None:
        if self.fails:
            raise ValueError("no")
        statement = f"INSERT INTO {self.table('numbers')} VALUES (?)"  # noqa: S608 - the name of a table
        await execute(connection, statement, event.number)


def url_in(folder: Path, writer: str) -> str:
    return f"sqlite:///{folder}/events.db?writer={writer}"


async def append(store: EventStore, number: int) -> int:
    return (await store.append("s", Counted(number))).position


async def numbers_in(store: EventStore) -> list[int]:
    return [number for (number,) in await store.fetch("SELECT number FROM numbers ORDER BY number")]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("verb", ["pause", "resume", "rebuild"])
@pytest.mark.parametrize("asked", ["projector", "overview"])
def test_what_an_operator_asks_for_is_whole_or_absent(tmp_path: Path, writer: str, verb: str, asked: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await EventStore.connect(url_in(folder, writer)) as store:
            await append(store, 1)
            async with Projector(store, Numbers()) as projector:
                await projector.caught_up()
                source: Any = projector if asked == "projector" else Overview(store)
                await cut(getattr(source, verb)("numbers"))

                await source.resume("numbers")
                await projector.caught_up(await append(store, 2))
                assert await numbers_in(store) == [1, 2]
                await source.rebuild("numbers")
                await projector.caught_up(await append(store, 3))
                assert await numbers_in(store) == [1, 2, 3]

    cuts = at_every_place(tmp_path, scenario)
    assert cuts > 0 or writer == "inline"  # where it may not wait for anything


@pytest.mark.parametrize("writer", WRITERS)
def test_a_redrive_has_its_effect_once_and_the_letter_can_be_redriven_at_once(tmp_path: Path, writer: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with (
            await EventStore.connect(url_in(folder, writer)) as store,
            await DeadLetterQueue.connect(url_in(folder, writer)) as queue,
        ):
            numbers = Numbers()
            async with Projector(store, numbers, retry=None, dead_letter_queue=queue) as projector:
                await projector.caught_up(await append(store, 1))
                numbers.fails = True
                await projector.caught_up(await append(store, 2))
                numbers.fails = False
                [letter] = await queue.list()
                await cut(projector.redrive(letter))

                for left in await queue.list():
                    await projector.redrive(left)
                assert await queue.count() == 0
                assert await numbers_in(store) == [1, 2]

    assert at_every_place(tmp_path, scenario) > 0
