"""What the service says about itself: health, readiness, metrics."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from avx_events import EventEnvelope, EventMetadata, EventStore, UnknownEvent
from examples.production_service.users import UserCreated
from tests.examples.production_service.serving import create_user, relayed, serving
from tests.waiting import until

SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="[^"\\\n]*",?)+\})? [0-9.e+-]+')


class ClosedPostOffice:
    """A mailer that does nothing until it opens."""

    def __init__(self) -> None:
        self.opens = asyncio.Event()

    async def send(self, *, to: str, text: str) -> None:
        await self.opens.wait()


async def test_it_is_healthy_and_ready(client: httpx.AsyncClient) -> None:
    health, ready = await client.get("/health"), await client.get("/ready")

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_it_is_not_ready_before_it_has_caught_up_and_says_what_has_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
    post_office = ClosedPostOffice()

    async with serving(url, mailer=post_office) as (client, service):
        await service.projector.caught_up()
        before = await client.get("/ready")
        post_office.opens.set()
        await until(lambda: not service.not_ready())
        after = await client.get("/ready")

    assert before.status_code == 503
    assert before.json() == {"error": "relay is at position 0 of 1", "not_ready": {"relay": "at position 0 of 1"}}
    assert after.status_code == 200


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


async def test_an_event_that_cannot_be_read_stops_relay_and_the_read_model_of_all_user_events_and_is_told() -> None:
    async with serving() as (client, service):
        metadata = EventMetadata("event-1", "shop.of.tomorrow", "1", 0, "event-1")
        unknown = EventEnvelope(UnknownEvent("shop.of.tomorrow", {}), metadata, "shop.of.tomorrow")
        await service.store.append("tomorrow-1", unknown)
        await until(lambda: len(service.not_ready()) == 2)
        ready = await client.get("/ready")
        created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        history = await client.get(f"/users/{created.json()['user_id']}/history")

    assert ready.status_code == 503
    assert ready.json()["not_ready"].keys() == {"relay", "projection users"}
    assert "shop.of.tomorrow" in ready.json()["error"]
    assert created.status_code == 202  # it is in the store, and not in the read model
    assert len(history.json()) == 1


async def test_metrics_count_requests_by_route_and_status() -> None:
    async with serving() as (client, _):
        user_id = await create_user(client)
        await client.post("/users", json={})
        await client.get(f"/users/{user_id}")
        await client.get("/users/nobody")
        await client.get("/nothing")
        await client.request("BREW", "/users")
        text = (await client.get("/metrics")).text

    assert 'http_requests_total{route="/users",method="POST",status="201"} 1\n' in text
    assert 'http_requests_total{route="/users",method="POST",status="422"} 1\n' in text
    assert 'http_requests_total{route="/users/{user_id}",method="GET",status="200"} 1\n' in text
    assert 'http_requests_total{route="/users/{user_id}",method="GET",status="404"} 1\n' in text
    assert 'http_requests_total{route="none",method="GET",status="404"} 1\n' in text
    assert 'http_requests_total{route="/users",method="other",status="405"} 1\n' in text
    assert 'http_request_duration_seconds_bucket{route="/users",le="+Inf"} 3\n' in text
    assert 'http_request_duration_seconds_count{route="/users"} 3\n' in text
    assert "http_requests_in_progress 1\n" in text
    assert user_id not in text


async def test_metrics_tell_how_far_store_bus_relay_and_read_models_are() -> None:
    async with serving() as (client, service):
        await create_user(client)
        await relayed(service)  # the reservation, the user and, once it was welcomed, the mail
        await relayed(service)
        await service.projector.caught_up()
        answer = await client.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for sample in (
        "avx_bus_published_events_total 3",
        'avx_bus_handled_events_total{handler="welcome-mail"} 1',
        'avx_bus_queued_events{handler="welcome-mail"} 0',
        "avx_dead_letters 0",
        "avx_store_last_position 3",
        'avx_projection_lag_events{projection="users"} 0',
    ):
        assert f"{sample}\n" in answer.text


async def test_metrics_are_text_that_prometheus_reads(client: httpx.AsyncClient) -> None:
    await create_user(client)

    lines = (await client.get("/metrics")).text.splitlines()

    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert [line for line in lines if not line.startswith("# ") and not SAMPLE.fullmatch(line)] == []
