"""The console on a real broker: it sees the events of all processes, and leaves nothing behind by looking."""

import asyncio
from uuid import uuid4

import pytest

from avx_events import DeadLetterQueue, Event, InvalidArgumentError, TopicBus
from avx_events.apps.console import Console, serve
from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.unit.apps.console.visitors import visiting
from tests.waiting import until

pytestmark = pytest.mark.live


class Rang(Event, event_type="console.broker.rang", aggregate_id="door"):
    door: str


async def test_events_of_other_processes_are_seen_and_looking_makes_no_dead_letters(redis_url: str) -> None:
    namespace = f"console-{uuid4().hex}"
    async with (
        await TopicBus.connect(redis_url, namespace=namespace) as other,
        visiting(console := Console(broker_url=redis_url, namespace=namespace)) as client,
    ):
        while not console._feed._kept:  # until the console listens
            await other.publish(Rang("front"))
        shown = console._feed._kept[-1].shown
        view = await client.get(f"/api/live/{shown.metadata.event_id}")
    async with await DeadLetterQueue.connect(f"{redis_url}?namespace={namespace}") as queue:
        letters = await queue.count()

    assert view.json()["event_type"] == "console.broker.rang"
    assert letters == 0


async def test_a_broker_that_comes_back_is_found_again(redis_server: Server) -> None:
    async with visiting(console := Console(broker_url=redis_server.url)):
        await until(lambda: console._feed.source and not console._feed.problem)
        redis_server.kill()
        redis_server.start()
        async with await TopicBus.connect(redis_server.url) as other:
            while not console._feed._kept:
                await other.publish(Rang("back"))

    assert console._feed._kept[0].shown.metadata.event_type == "console.broker.rang"


async def test_a_port_that_is_taken_is_said_to_be() -> None:
    port = free_port()
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(serve(Console(), port=port, on_started=started.set_result))
        url = await started

        with pytest.raises(InvalidArgumentError, match="where one can listen"):
            await serve(Console(), port=port)
        first.cancel()

    assert url == f"http://127.0.0.1:{port}"
