"""What the service says about itself: health, readiness, metrics."""

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from avx_events import EventEnvelope, EventMetadata, UnknownEvent
from examples.production_service.http.app import http_app
from examples.production_service.http.pages import pages_of
from tests.examples.production_service.serving import create_user, handled, serving
from tests.waiting import until


async def test_it_is_healthy_and_ready(client: httpx.AsyncClient) -> None:
    health, ready = await client.get("/health"), await client.get("/ready")

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_it_is_not_ready_while_it_stops() -> None:
    async with serving() as (client, service):
        service.is_stopping = True
        health, ready = await client.get("/health"), await client.get("/ready")

    assert (health.status_code, ready.status_code) == (200, 503)
    assert ready.json()["not_ready"] == {"service": "stopping"}


async def test_whatever_is_answered_while_it_stops_says_that_the_connection_ends() -> None:
    async with serving() as (client, service):
        before = await client.get("/health")
        service.is_stopping = True
        answers = [
            await client.post("/users", json={"email": "jane@example.com", "name": "Jane"}),
            await client.get("/nothing"),
            await client.get("/health", headers={"X-Correlation-ID": "two words"}),
        ]

    assert "connection" not in before.headers
    assert [answer.status_code for answer in answers] == [201, 404, 400]
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 3


def damage(database: Path, index: str) -> None:
    """Overwrite the first page of an index, as a disk that fails does."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,))
        ((page_bytes,),) = connection.execute("PRAGMA page_size")
    with database.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)


async def test_it_is_not_ready_once_a_request_has_found_that_its_database_is_damaged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url) as (client, service):
        await create_user(client)
        await until(lambda: not service.not_ready())
    damage(tmp_path / "events.db", "avx_events_id")

    async with serving(url) as (client, service):
        await until(lambda: not service.not_ready())
        created = await client.post("/users", json={"email": "john@example.com", "name": "John"})
        ready = await client.get("/ready")

    assert (created.status_code, ready.status_code) == (500, 503)
    assert ready.json()["not_ready"] == {"store": "damaged: database disk image is malformed"}


async def test_an_event_that_cannot_be_read_stops_the_read_model_of_all_user_events_and_is_told() -> None:
    async with serving() as (client, service):
        metadata = EventMetadata("event-1", "shop.of.tomorrow", "1", 0, "event-1")
        unknown = EventEnvelope(UnknownEvent("shop.of.tomorrow", {}), metadata, "shop.of.tomorrow")
        await service.store.append("tomorrow-1", unknown)
        await until(service.not_ready)
        ready = await client.get("/ready")
        created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        history = await client.get(f"/users/{created.json()['user_id']}/history")

    assert ready.status_code == 503
    assert ready.json()["not_ready"].keys() == {"projection users"}
    assert created.status_code == 202  # it is in the store, and not in the read model
    assert len(history.json()) == 1


async def samples_of(client: httpx.AsyncClient) -> dict[str, float]:
    """Return the value of each sample, by its name and the values of its labels in their order."""
    text = (await client.get("/metrics")).text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_requests_by_route_and_status() -> None:
    async with serving() as (client, _):
        user_id = await create_user(client)
        await client.post("/users", json={})
        await client.get(f"/users/{user_id}")
        await client.get("/users/nobody")
        await client.get("/nothing")
        await client.request("BREW", "/users")
        found = await samples_of(client)

    assert {name: value for name, value in found.items() if name.startswith("avx_http_requests_total")} == {
        "avx_http_requests_total POST /users 201": 1,
        "avx_http_requests_total POST /users 422": 1,
        "avx_http_requests_total GET /users/{user_id} 200": 1,
        "avx_http_requests_total GET /users/{user_id} 404": 1,
        "avx_http_requests_total GET none 404": 1,
        "avx_http_requests_total other /users 405": 1,
    }
    assert found["avx_http_request_duration_seconds_bucket +Inf /users"] == 3
    assert found["avx_http_request_duration_seconds_count /users"] == 3
    assert found["avx_http_requests_in_progress"] == 1
    assert not [name for name in found if user_id in name]


async def test_metrics_tell_how_far_bus_and_read_models_are() -> None:
    async with serving() as (client, service):
        await create_user(client)
        await handled(service)
        await service.projector.caught_up()
        found = await samples_of(client)

    bus = "service"
    assert found[f"avx_events_handled_total {bus} welcome-mail"] == 1
    assert found[f"avx_events_queued {bus} welcome-mail"] == 0
    assert found[f"avx_events_dead_letters {bus}"] == 0
    assert found["avx_events_projection_lag_events users"] == 0
    assert found["avx_service_events_dropped_total"] == 0


async def test_it_is_not_ready_while_its_store_is_away() -> None:
    async with serving() as (client, service):
        before = await client.get("/ready")
        await service.store.close()
        await service.look()
        after = await client.get("/ready")

    assert (before.status_code, after.status_code) == (200, 503)
    assert "store" in after.json()["not_ready"]


async def test_pages_may_be_added_beside_its_own_routes() -> None:
    async def hello(_: Request) -> Response:
        return Response("hello")

    async with serving() as (_, service):
        app = http_app(service, pages=[Mount("/console", Starlette(routes=[Route("/", hello)]))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            page = await client.get("/console/")

    assert (page.status_code, page.text) == (200, "hello")


async def test_the_console_is_found_without_the_slash_too() -> None:
    async def hello(_: Request) -> Response:
        return Response("hello")

    async with serving() as (_, service):
        app = http_app(service, pages=pages_of(Starlette(routes=[Route("/", hello)])))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            led = await client.get("/console")
            page = await client.get(led.headers["Location"])

    assert (led.status_code, led.headers["Location"]) == (307, "/console/")  # a path: no Host header leads elsewhere
    assert (page.status_code, page.text) == (200, "hello")
