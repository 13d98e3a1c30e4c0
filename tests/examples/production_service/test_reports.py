"""What the service says of itself on the bus."""

import asyncio

from prometheus_client import CollectorRegistry

from avx_events import EventBus
from examples.production_service.reports import (
    CAPACITY,
    HealthCheckPerformed,
    HttpErrorEvent,
    HttpRequestEvent,
    MetricsSnapshot,
    Reports,
)
from tests.examples.production_service.serving import create_user, handled, serving


async def test_a_request_is_reported_with_its_route_and_never_its_query() -> None:
    async with serving() as (client, service):
        reports = await service.reports.bus.subscribe(HttpRequestEvent)
        await client.get("/users?limit=7", headers={"X-Request-ID": "request-7", "X-Correlation-ID": "chain-7"})
        async with asyncio.timeout(5):
            envelope = await anext(aiter(reports.envelopes()))

    report = envelope.event
    assert (report.method, report.route, report.status, report.request_id) == ("GET", "/users", 200, "request-7")
    assert report.duration_ms > 0
    assert envelope.metadata.correlation_id == "chain-7"


async def test_a_request_that_fails_is_reported_with_the_type_of_its_error() -> None:
    async with serving() as (client, service):
        reports = await service.reports.bus.subscribe(HttpErrorEvent)
        await client.get("/users/nobody", headers={"X-Request-ID": "request-7"})
        async with asyncio.timeout(5):
            report = await reports.recv()

    assert report is not None
    assert (report.route, report.status, report.error_type) == ("/users/{user_id}", 404, "NotFoundError")


async def test_a_look_at_the_dependencies_is_reported() -> None:
    async with serving() as (_, service):
        reports = await service.reports.bus.subscribe(HealthCheckPerformed)
        service.is_stopping = True
        await service.look()
        report = await reports.recv()

    assert report is not None
    assert (report.status, report.problems) == ("not ready", {"service": "stopping"})
    assert report.duration_ms > 0


async def test_a_snapshot_is_made_of_real_figures() -> None:
    async with serving(SNAPSHOT_S="0.01") as (client, service):
        await create_user(client)
        await handled(service)
        reports = await service.reports.bus.subscribe(MetricsSnapshot)
        async with asyncio.timeout(5):
            report = await reports.recv()

    assert report is not None
    assert (report.handled, report.dead_lettered, report.queued, report.requests) == (1, 0, 0, 1)
    assert report.published > 0
    assert report.uptime_s > 0


async def test_what_the_bus_cannot_take_is_dropped_and_counted_and_no_request_fails() -> None:
    async with serving() as (client, service):
        await service.reports.bus.close()
        answer = await client.get("/health")
        await service.reports.flushed()
        text = (await client.get("/metrics")).text

    assert answer.status_code == 200
    assert "avx_service_events_dropped_total 1.0\n" in text


def test_the_newest_are_dropped_where_too_many_wait() -> None:
    registry = CollectorRegistry()
    reports = Reports(EventBus(), registry)
    for number in range(CAPACITY + 3):
        reports.tell(HttpRequestEvent("GET", "/users", 200, 1.0, f"request-{number}"))

    assert registry.get_sample_value("avx_service_events_dropped_total") == 3
