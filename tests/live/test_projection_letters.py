"""One event of very many that cannot be handled costs that event, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from avx_events import DeadLetterQueue, Event, EventStore, Projection, Projector, Retry, handles
from avx_events.patterns.tables import execute
from avx_events.store.ports import Connection

pytestmark = pytest.mark.timeout(120)


class Numbered(Event, event_type="many.numbered"):
    number: int


class Numbers(Projection, name="numbers"):
    def __init__(self, unlucky: int) -> None:
        self.unlucky = unlucky

    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE numbers (number INTEGER NOT NULL)")

    @handles(Numbered)
    async def add(self, event: Numbered, connection: Connection) -> None:
        await execute(connection, "INSERT INTO numbers VALUES (?)", event.number)
        if event.number == self.unlucky:
            raise LookupError


@pytest.fixture(params=[("file", 100_000), pytest.param(("postgresql", 10_000), marks=pytest.mark.live)], ids=str)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int]:
    """The URL of a store, and how many events it can bear in a test."""
    kind, count = request.param
    url: Any = f"sqlite:///{tmp_path}/numbers.db" if kind == "file" else request.getfixturevalue("postgres_database")
    return url, count


async def test_one_event_of_very_many_becomes_a_letter_and_all_others_are_handled_once(place: tuple[str, int]) -> None:
    url, count = place
    unlucky, queue = count * 7 // 10, DeadLetterQueue()
    async with await EventStore.connect(url) as store:
        retry = Retry(attempts=3, initial_s=0, max_s=0)
        async with Projector(store, Numbers(unlucky), retry=retry, dead_letter_queue=queue) as projector:
            for first in range(0, count, 1_000):
                await store.append("s", [Numbered(number) for number in range(first, first + 1_000)])
            await projector.caught_up(timeout_s=100)
            [letter] = await queue.list()
            numbers = [number for (number,) in await store.fetch("SELECT number FROM numbers ORDER BY number")]

            assert numbers == [number for number in range(count) if number != unlucky]
            assert (letter.event, letter.attempts) == (Numbered(unlucky), 3)
            assert projector.statistics()["numbers"].failures == 3
