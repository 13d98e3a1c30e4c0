"""The desk of the console on dead letters that several processes share, in each store of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from avx_events import DeadLetterQueue, Event, EventBus
from avx_events.apps.console import Console
from avx_events.core.event import Personal
from tests.unit.apps.console.visitors import as_page, visiting
from tests.waiting import until

pytestmark = pytest.mark.live

STORES = ["sqlite", "postgres_database", "redis_url", "nats_url", "kafka_url"]


class Billed(Event, event_type="console.billed", aggregate_id="bill_id"):
    bill_id: str
    email: Personal[str]
    total: int


class Bill:
    """A process with the handler, and a console of its own."""

    def __init__(self, queue: DeadLetterQueue) -> None:
        self.handled: list[Billed] = []
        self.gate = asyncio.Event()
        self.bus = EventBus(dead_letter_queue=queue)
        self.bus.on(Billed, name="send_bill", retry=None)(self._send)

    async def _send(self, event: Billed) -> None:
        await self.gate.wait()
        if event.total < 0:
            raise ValueError(event.total)
        self.handled.append(event)


@pytest.fixture(params=STORES)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'letters.db'}"
    place: str = request.getfixturevalue(request.param)
    return place if request.param == "postgres_database" else f"{place}?namespace=console-{uuid4().hex}"


@pytest.fixture
async def processes(url: str) -> AsyncIterator[list[Bill]]:
    """Two processes on the same letters."""
    async with AsyncExitStack() as stack:
        opened: list[Bill] = []
        for _ in range(2):
            queue = await stack.enter_async_context(await DeadLetterQueue.connect(url))
            bill = Bill(queue)
            await stack.enter_async_context(bill.bus)
            opened.append(bill)
        yield opened


async def test_a_letter_is_edited_redriven_once_and_removed(processes: list[Bill]) -> None:
    one, other = processes
    async with visiting(Console(bus=one.bus)) as ada, visiting(Console(bus=other.bus)) as bob:
        for client in (ada, bob):
            client.headers.update(await as_page(client))
        one.gate.set()
        await one.bus.publish_many([Billed(f"b-{number}", "ada@example.com", -1) for number in range(2)])
        await one.bus.settled()
        one.gate.clear()
        first, second = (letter.id for letter in await other.bus.dead_letter_queue.list())

        text = (await bob.get(f"/api/letters/{first}")).json()["text"].replace("-1", "5")
        edited = (await bob.post(f"/api/letters/{first}/edit", json={"text": text})).json()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(client.post(f"/api/letters/{first}/redrive")) for client in (ada, bob)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for bill in processes:
                bill.gate.set()
        states = sorted(task.result().json()["state"] for task in asking)
        await until(lambda: one.handled or other.handled)
        removed = (await ada.post(f"/api/letters/{second}/remove")).json()
        gone = (await bob.post(f"/api/letters/{second}/redrive")).json()
        await one.bus.settled()
        await other.bus.settled()
        left = await one.bus.dead_letter_queue.count()

    assert edited["state"] == "edited"
    assert states in (["handled", "taken"], ["in_line", "taken"])
    assert one.handled + other.handled == [Billed("b-0", "ada@example.com", 5)]
    assert (removed["state"], gone["state"], left) == ("removed", "gone", 0)
