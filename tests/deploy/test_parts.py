"""Service, relay and workers as processes: an order that was placed is invoiced once, and all stop at SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest

from avx_events import EventBus, EventStore
from deploy.parts.edge import BUS_URL
from deploy.parts.worker import INVOICES_URL
from examples.production_service.orders import OrderPlaced
from examples.production_service.serving import BIND_ADDR
from tests.docs.brokers import forget_in_kafka, forget_in_nats, forget_in_redis
from tests.docs.pages import ROOT
from tests.servers.ports import free_port
from tests.servers.process import Server

SERVICE: Final = "examples.production_service"
RELAY: Final = "deploy.parts.relay"
WORKER: Final = "deploy.parts.worker"
BROKERS: Final = {"redis_url": forget_in_redis, "nats_url": forget_in_nats, "kafka_url": forget_in_kafka}


class Running:
    """A process that answers."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def answers(self, path: str, status: int) -> httpx.Response:
        """Ask until the answer has that status."""
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await self.client.get(path)
                except httpx.TransportError:
                    assert self.process.returncode is None
                else:
                    if answer.status_code == status:
                        return answer
                await asyncio.sleep(0.02)  # it is another process: nothing here can tell when to ask again

    async def stop(self) -> int:
        """Tell it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def running(module: str, folder: Path, settings: Mapping[str, str]) -> AsyncGenerator[Running]:
    """Run a module of the image in ``folder``, as its container does, and kill it at the end if it is still there."""
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), BIND_ADDR: address, **settings}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, cwd=folder, env=environment)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield Running(process, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def invoices(url: str, *, count: int) -> list[tuple[str, int]]:
    """Return the invoices, once there are so many."""
    async with await EventStore.connect(url) as store, asyncio.timeout(30):
        rows: list[tuple[str, int]] = []
        while len(rows) < count:
            rows = [tuple(row) for row in await store.fetch("SELECT order_id, total_cents FROM invoices")]
            await asyncio.sleep(0.02)  # as above
        return rows


async def metrics_of(process: Running) -> str:
    """Return what Prometheus gets."""
    return (await process.answers("/metrics", 200)).text


@pytest.mark.live
@pytest.mark.timeout(120)
@pytest.mark.parametrize("broker", sorted(BROKERS))
async def test_an_order_is_invoiced_once_and_everything_stops_in_good_order(
    broker: str, postgres_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(broker)
    forget: Callable[[str, str], None] = BROKERS[broker]
    forget(url, "avx")
    settings = {BUS_URL: url, INVOICES_URL: postgres_database}

    async with AsyncExitStack() as parts:
        processes = [
            await parts.enter_async_context(running(module, tmp_path, settings))
            for module in (SERVICE, RELAY, WORKER, WORKER)
        ]
        service, relay, worker, _ = processes
        for process in processes:
            await process.answers("/ready", 200)
        body = {"email": f"{uuid4().hex}@example.com", "name": "Jane"}
        user_id = (await service.client.post("/users", json=body)).json()["user_id"]
        placed = [
            (await service.client.post("/orders", json={"user_id": user_id, "total": 12.5})).json()["order_id"]
            for _ in range(20)
        ]

        written = await invoices(postgres_database, count=len(placed))

        assert sorted(written) == sorted((order_id, 1250) for order_id in placed)
        assert 'avx_events_handled_total{bus="invoicing",handler="invoice"}' in await metrics_of(worker)
        assert 'avx_events_group_lag_events{group="invoicing",handler="invoice"}' in await metrics_of(relay)
        assert [await process.stop() for process in processes] == [0, 0, 0, 0]


@pytest.mark.live
async def test_a_worker_is_not_ready_and_lives_on_while_its_broker_is_away(
    redis_server: Server, postgres_database: str, tmp_path: Path
) -> None:
    settings = {BUS_URL: redis_server.url, INVOICES_URL: postgres_database}

    async with running(WORKER, tmp_path, settings) as worker:
        await worker.answers("/ready", 200)
        redis_server.kill()
        await worker.answers("/ready", 503)
        assert (await worker.client.get("/health")).status_code == 200

        redis_server.start()
        await worker.answers("/ready", 200)


async def test_a_relay_is_ready_without_its_broker_and_stops(tmp_path: Path) -> None:
    async with running(RELAY, tmp_path, {BUS_URL: f"redis://127.0.0.1:{free_port()}"}) as relay:
        await relay.answers("/ready", 200)

        assert (await relay.answers("/metrics", 200)).text.startswith("# HELP avx_events_")
        assert await relay.stop() == 0


@pytest.mark.live
async def test_a_relay_that_its_broker_refuses_ends_and_says_so(redis_url: str, tmp_path: Path) -> None:
    with_password = redis_url.replace("://", "://nobody:wrong@")
    async with running(RELAY, tmp_path, {BUS_URL: with_password}) as relay:
        async with asyncio.timeout(20):
            assert await relay.process.wait() == 2


@pytest.mark.parametrize(("module", "missing"), [(RELAY, BUS_URL), (WORKER, INVOICES_URL)])
async def test_a_setting_that_is_missing_is_named_and_ends_it(module: str, missing: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()

    assert process.returncode == 2
    assert f"{missing} (from the environment) is not set" in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.live
async def test_a_relay_beside_a_service_that_relays_itself_does_nothing_twice(redis_url: str, tmp_path: Path) -> None:
    namespace = f"parts-{uuid4().hex}"
    settings = {BUS_URL: redis_url, "AVX_EVENTS__NAMESPACE": namespace}
    async with (
        await EventBus.connect(redis_url, namespace=namespace) as outside,
        running(SERVICE, tmp_path, settings) as service,
        running(RELAY, tmp_path, settings) as relay,
    ):
        orders = await outside.subscribe(OrderPlaced)
        for process in (service, relay):
            await process.answers("/ready", 200)
        user = await service.client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        body = {"user_id": user.json()["user_id"], "total": 12.5}
        placed = [(await service.client.post("/orders", json=body)).json()["order_id"] for _ in range(20)]
        async with asyncio.timeout(30):
            published = [await orders.recv() for _ in placed]
        codes = [await relay.stop(), await service.stop()]
        await outside.close()
        more = await orders.recv()

    # Orders are keys of their own, and keys have no order among each other.
    assert sorted(order.order_id for order in published if order is not None) == sorted(placed)
    assert (more, codes) == (None, [0, 0])
