"""The production service on PostgreSQL and brokers: what it needs goes away and comes back, what it says arrives."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from avx_events import EventBus, EventStore, Subscriber
from examples.production_service.reports import HealthCheckPerformed, HttpRequestEvent, MetricsSnapshot, ServiceStarted
from examples.production_service.users import UserCreated
from examples.production_service.welcome import WelcomeMailSent
from tests.live.service_process import Running, log_in, running
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
JANE: Final = {"email": "jane@example.com", "name": "Jane"}
JOHN: Final = {"email": "john@example.com", "name": "John"}


def lines_in(folder: Path, text: str) -> list[dict[str, Any]]:
    """Return the lines of the log whose event begins with ``text``."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log_in(folder).splitlines()]
    return [line for line in lines if line["event"].startswith(text)]


async def is_answered(service: Running, status: int, part: str = "") -> httpx.Response:
    """Ask whether it is ready until it says so with ``status``, and of ``part``."""
    async with asyncio.timeout(60):
        while True:
            answer = await service.client.get("/ready")
            if answer.status_code == status and part in answer.text:
                return answer


async def welcomed(store_url: str, count: int) -> set[str]:
    """Return the ids of the first users that were welcomed, once there are ``count`` of them."""
    found: set[str] = set()
    async with asyncio.timeout(60), await EventStore.connect(store_url) as store:
        async for stored in store.subscribe(types=[WelcomeMailSent]):
            assert isinstance(stored.event, WelcomeMailSent)
            found.add(stored.event.user_id)
            if len(found) == count:
                break
    return found


async def first(subscriber: Subscriber[Any]) -> Any:
    """Return the first event of a subscriber."""
    async with asyncio.timeout(30):
        return await subscriber.recv()


@pytest.mark.parametrize("broker", ["redis_url", "nats_url", "kafka_url"])
async def test_on_postgresql_and_a_broker_workers_handle_what_is_appended_and_report_what_they_do(
    broker: str, postgres_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bus_url: str = request.getfixturevalue(broker)
    namespace = f"service-{uuid4().hex}"
    settings = {
        "AVX_EVENTS__STORE_URL": postgres_database,
        "AVX_EVENTS__BUS_URL": bus_url,
        "AVX_EVENTS__NAMESPACE": namespace,
        "AVX_EVENTS__WORKERS": "2",
        "AVX_EVENTS__SNAPSHOT_S": "0.5",
    }
    async with await EventBus.connect(bus_url, namespace=namespace) as outside:
        started = await outside.subscribe(ServiceStarted)
        requests = await outside.subscribe(HttpRequestEvent)
        snapshots = await outside.subscribe(MetricsSnapshot)
        checks = await outside.subscribe(HealthCheckPerformed)
        users = await outside.subscribe(UserCreated)
        async with running(tmp_path, settings) as service:
            headers = {"X-Request-ID": "request-7", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
            created = await service.client.post("/users", json=JANE, headers=headers)
            user_id = created.json()["user_id"]
            ids = await welcomed(postgres_database, 1)
            reports = [await first(reports) for reports in (started, requests, snapshots, checks)]
            user = await first(users)
            code = await service.end(signal.SIGTERM)

    assert (created.status_code, ids, code) == (201, {user_id}, 0)
    assert user == UserCreated(user_id, **JANE)
    assert (reports[0].name, reports[0].address) == ("avx-events", f"127.0.0.1:{service.client.base_url.port}")
    assert (reports[1].method, reports[1].route, reports[1].status) == ("POST", "/users", 201)
    assert reports[1].request_id == "request-7"
    assert reports[2].uptime_s > 0
    assert reports[3].duration_ms > 0
    (mail,) = lines_in(tmp_path, "mail to")
    assert (mail["correlation_id"], mail["event_type"]) == (TRACE_ID, "shop.user.created")


async def test_while_the_broker_is_away_it_is_not_ready_and_nothing_accepted_is_lost(
    redis_server: Server, tmp_path: Path
) -> None:
    store_url = f"sqlite:///{tmp_path}/avx-events.db"
    async with running(tmp_path, {"AVX_EVENTS__BUS_URL": redis_server.url}) as service:
        await service.is_ready()
        await asyncio.to_thread(redis_server.stop)
        away = await is_answered(service, 503, "bus")
        health = await service.client.get("/health")
        created = await service.client.post("/users", json=JANE)
        await asyncio.to_thread(redis_server.start)
        await is_answered(service, 200)
        ids = await welcomed(store_url, 1)
        code = await service.end(signal.SIGTERM)

    assert away.json()["not_ready"]["bus"].startswith("away: ")
    assert (health.status_code, created.status_code, code) == (200, 201, 0)
    assert ids == {created.json()["user_id"]}


async def test_it_stops_in_good_order_while_the_broker_is_away(redis_server: Server, tmp_path: Path) -> None:
    async with running(tmp_path, {"AVX_EVENTS__BUS_URL": redis_server.url}) as service:
        await asyncio.to_thread(redis_server.stop)
        await is_answered(service, 503, "bus")
        created = await service.client.post("/users", json=JANE)
        code = await service.end(signal.SIGTERM)

    assert (created.status_code, code) == (201, 0)


async def test_while_the_store_is_away_it_is_not_ready_and_goes_on_when_it_is_back(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with running(tmp_path, {"AVX_EVENTS__STORE_URL": postgres_server.url}) as service:
        await service.is_ready()
        before = await service.client.post("/users", json=JANE)
        await asyncio.to_thread(postgres_server.stop)
        away = await is_answered(service, 503, "store")
        refused = await service.client.post("/users", json=JOHN, timeout=60)
        await asyncio.to_thread(postgres_server.start)
        await is_answered(service, 200)
        after = await service.client.post("/users", json=JOHN)
        ids = await welcomed(postgres_server.url, 2)
        code = await service.end(signal.SIGTERM)

    assert away.json()["not_ready"]["store"].startswith("away: ")
    assert (before.status_code, refused.status_code, after.status_code, code) == (201, 503, 201, 0)
    assert ids == {before.json()["user_id"], after.json()["user_id"]}
