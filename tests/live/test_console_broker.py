"""The console on a real broker: it sees the events of all processes, and leaves nothing behind by looking."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from avx_events import DeadLetterQueue, Event, EventStore, InvalidArgumentError, TopicBus
from avx_events.apps.console import Console, serve, serve_urls
from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.unit.apps.console.visitors import TOKEN, visiting
from tests.waiting import until

pytestmark = pytest.mark.live


ALONE = """
from avx_events import TopicBus
from avx_events.apps.console import Console, run
run(Console(bus=TopicBus()), port=0)
"""


class Rang(Event, event_type="console.broker.rang", aggregate_id="door"):
    door: str


async def seen_by(console: Console, bus: TopicBus) -> str:
    """Publish until the console listens; return the id of an event that it has seen."""
    while True:
        published = await bus.publish(Rang("front"))
        if console._feed._count:
            async with asyncio.timeout(10):
                while await console._feed.find(published.event_id) is None:  # noqa: ASYNC110 - of a broker
                    await asyncio.sleep(0)
            return published.event_id


async def test_events_of_other_processes_are_seen_and_looking_makes_no_dead_letters(redis_url: str) -> None:
    namespace = f"console-{uuid4().hex}"
    async with (
        await TopicBus.connect(redis_url, namespace=namespace) as other,
        visiting(console := Console(broker_url=redis_url, namespace=namespace)) as client,
    ):
        event_id = await seen_by(console, other)
        view = await client.get(f"/api/live/{event_id}")
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
            assert await seen_by(console, other)


async def test_a_console_of_urls_alone_shows_what_is_there(redis_url: str, tmp_path: Path) -> None:
    namespace, store_url = f"console-{uuid4().hex}", f"sqlite:///{tmp_path / 'events.db'}"
    async with await EventStore.connect(store_url) as store:
        await store.append("door-1", [Rang("front")])
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(
            serve_urls(
                store_url=store_url,
                broker_url=redis_url,
                namespace=namespace,
                token=TOKEN,
                port=0,
                on_started=started.set_result,
            )
        )
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=await started, headers=headers) as client:
            paths = ("/api/streams", "/api/letters/groups", "/api/handlers", "/api/live-source", "/live")
            answers = [await client.get(path) for path in paths]
            nobody = await client.get("/api/streams", headers={"Authorization": ""})
        serving.cancel()

    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[0].json()["streams"][0]["name"] == "door-1"
    assert answers[3].json()["source"] == "the broker"
    assert nobody.status_code == 401


async def test_a_port_that_is_taken_is_said_to_be() -> None:
    port = free_port()
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(serve(Console(), port=port, on_started=started.set_result))
        url = await started

        with pytest.raises(InvalidArgumentError, match=r"where one can listen .* port 0 is one that is free"):
            await serve(Console(), port=port)
        first.cancel()

    assert url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_ends_when_it_is_told_to_though_somebody_looks(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
            async with httpx.AsyncClient() as client, client.stream("GET", f"{url}/api/live", timeout=20) as stream:
                chunks = stream.aiter_bytes()
                first = await anext(chunks)
                process.send_signal(number)
                rest = [chunk async for chunk in chunks]
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()

    assert first.startswith(b"event: state")
    assert rest == []
    assert code in {-number, 130, 1}
