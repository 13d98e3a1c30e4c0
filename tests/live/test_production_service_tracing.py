"""The production service is traced: from the client's span to the last handler, to a collector of OpenTelemetry's."""

import asyncio
import json
import signal
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest

from deploy.parts.edge import BUS_URL
from deploy.parts.worker import INVOICES_URL
from tests.deploy.test_parts import WORKER, invoices
from tests.deploy.test_parts import running as running_part
from tests.live.otlp_collector import Collector, Span, collecting
from tests.live.service_process import failed_start, log_in, running
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_ID: Final = "00f067aa0ba902b7"
TRACE_HEADERS: Final = {"traceparent": f"00-{TRACE_ID}-{CLIENT_ID}-01", "tracestate": "shop=7"}
JANE: Final = {"email": "jane@example.com", "name": "Jane"}


@pytest.fixture
def collector() -> Generator[Collector, None, None]:
    with collecting() as collector:
        yield collector


def telling(collector: Collector, **others: str) -> dict[str, str]:
    """Return variables that let a process export often."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        **others,
    }


def named(spans: list[Span], name: str) -> Span:
    """Return the one span of that name."""
    (found,) = [span for span in spans if span.name == name]
    return found


def instances_in(collector: Collector, metric: str) -> set[str]:
    """Return the processes that have told a metric."""
    return {said["service.instance.id"] for said in collector.metrics.get(metric, [])}


async def test_one_trace_goes_from_the_client_to_the_handler_on_the_log(collector: Collector, tmp_path: Path) -> None:
    settings = telling(collector, AVX__STACK="shop", AVX__ENV="production", AVX__CLUSTER="east")
    async with running(tmp_path, settings) as service:
        await service.is_ready()
        created = await service.client.post("/users", json=JANE, headers=TRACE_HEADERS)
        await until(lambda: "append shop.welcome_mail.sent" in {span.name for span in collector.spans}, timeout_s=20)
        code = await service.end(signal.SIGTERM)

    spans = collector.of_trace(TRACE_ID)
    (mail,) = [line for line in map(json.loads, log_in(tmp_path).splitlines()) if line["event"].startswith("mail to")]
    assert (created.status_code, code, mail["trace_id"]) == (201, 0, TRACE_ID)
    assert created.headers["X-Correlation-ID"] == TRACE_ID
    request = named(spans, "POST /users")
    reserved = named(spans, "append shop.email.reserved")
    appended = named(spans, "append shop.user.created")
    welcomed = named(spans, "process shop.user.created")
    recorded = named(spans, "append shop.welcome_mail.sent")
    assert len(spans) == 5
    assert (request.parent_id, request.kind) == (CLIENT_ID, "SERVER")
    assert (reserved.parent_id, appended.parent_id) == (request.span_id, request.span_id)
    assert (welcomed.parent_id, recorded.parent_id) == (appended.span_id, welcomed.span_id)
    assert {span.state for span in spans} == {"shop=7"}
    assert request.attributes["http.route"] == "/users"
    assert request.attributes["http.response.status_code"] == 201
    assert request.attributes["url.path"] == "/users"
    said = request.resource
    assert (said["service.name"], said["service.namespace"], said["avx.cluster"]) == ("avx-events", "shop", "east")
    assert said["deployment.environment.name"] == "production"


@pytest.mark.parametrize("broker", ["redis", "nats", "kafka"])
async def test_by_way_of_relay_and_broker_it_goes_to_a_handler_in_another_process(
    broker: str, collector: Collector, postgres_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    namespace = f"traced-{uuid4().hex}"
    bus_url: str = request.getfixturevalue(f"{broker}_url")
    settings = telling(collector, **{BUS_URL: bus_url, "AVX_EVENTS__NAMESPACE": namespace})
    async with (
        running(tmp_path, settings) as service,
        running_part(WORKER, tmp_path, {**settings, INVOICES_URL: postgres_database}) as worker,
    ):
        await service.is_ready()
        await worker.answers("/ready", 200)
        user_id = (await service.client.post("/users", json=JANE)).json()["user_id"]
        order = {"user_id": user_id, "total": 12.5}
        placed = await service.client.post("/orders", json=order, headers=TRACE_HEADERS)
        await invoices(postgres_database, count=1)
        codes = [await worker.stop(), await service.end(signal.SIGTERM)]

    spans = collector.of_trace(TRACE_ID)
    assert (placed.status_code, codes) == (201, [0, 0])
    answered, appended = named(spans, "POST /orders"), named(spans, "append shop.order.placed")
    published, processed = named(spans, "publish shop.order.placed"), named(spans, "process shop.order.placed")
    assert len(spans) == 4
    assert [span.parent_id for span in (answered, appended, published, processed)] == [
        CLIENT_ID,
        answered.span_id,
        appended.span_id,
        appended.span_id,
    ]
    assert processed.attributes["messaging.system"] == broker
    assert processed.resource["service.name"] == "invoicing"
    assert processed.resource["service.instance.id"] != published.resource["service.instance.id"]
    assert {span.state for span in spans} == {"shop=7"}


async def test_a_request_without_a_context_begins_a_trace_and_probes_have_none(
    collector: Collector, tmp_path: Path
) -> None:
    async with running(tmp_path, telling(collector)) as service:
        await service.is_ready()
        for path in ("/health", "/metrics"):
            await service.client.get(path, headers=TRACE_HEADERS)
        for traceparent in ("nonsense", f"00-{'0' * 32}-{CLIENT_ID}-01", f"ff-{TRACE_ID}-{CLIENT_ID}-01"):
            await service.client.get("/users", headers={"traceparent": traceparent})
        twice = [("traceparent", f"00-{TRACE_ID}-{CLIENT_ID}-01"), ("traceparent", f"00-{'a' * 32}-{CLIENT_ID}-01")]
        await service.client.get("/users", headers=twice)
        await service.client.get("/no/such/path?secret=1")
        await service.client.request("BREW", "/users")
        code = await service.end(signal.SIGTERM)

    requests = [span for span in collector.spans if span.kind == "SERVER"]
    assert code == 0
    assert [span.name for span in requests] == ["GET /users"] * 4 + ["GET", "HTTP /users"]
    assert len({span.trace_id for span in requests}) == 6
    assert {span.parent_id for span in requests} == {""}
    assert [span.attributes["http.response.status_code"] for span in requests[-2:]] == [404, 405]
    assert requests[-1].attributes["http.request.method_original"] == "BREW"
    assert not any(span.is_failed for span in requests)
    assert "secret" not in str(requests)
    assert not [span for span in collector.spans if "shop.http" in span.name or "shop.health" in span.name]


async def test_metrics_are_exported_as_well_and_each_worker_is_an_instance(
    collector: Collector, tmp_path: Path
) -> None:
    settings = telling(collector, AVX_EVENTS__WORKERS="2")
    async with running(tmp_path, settings) as service, asyncio.timeout(60):
        for number in count():
            if len(instances_in(collector, "http.server.request.duration")) == 2:
                break
            async with httpx.AsyncClient(base_url=service.client.base_url) as client:  # either of them may take it
                await client.post("/users", json={**JANE, "email": f"jane-{number}@example.com"})
        code = await service.end(signal.SIGTERM)

    assert code == 0
    assert instances_in(collector, "messaging.process.duration")
    assert instances_in(collector, "messaging.client.operation.duration")


async def test_what_was_done_before_the_stop_is_sent_and_a_collector_that_is_silent_holds_it_for_seconds_only(
    collector: Collector, tmp_path: Path
) -> None:
    settings = telling(collector, OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_METRICS_EXPORTER="none")
    async with running(tmp_path, settings) as service:
        await service.client.get("/users", headers=TRACE_HEADERS)
        code = await service.end(signal.SIGTERM)

    assert (code, [span.name for span in collector.of_trace(TRACE_ID)]) == (0, ["GET /users"])
    collector.may_answer.clear()
    async with running(tmp_path, settings) as service:
        await service.client.get("/users")
        code = await service.end(signal.SIGTERM)

    assert code == 0
    assert "spans or metrics that were not taken within 5 s are lost" in log_in(tmp_path)


async def test_an_endpoint_that_is_none_is_a_line_that_says_so(tmp_path: Path) -> None:
    code, said = await failed_start(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318")

    expected = "must be a URL as http://collector:4318, not 'collector:4318'"
    assert code == 2
    assert f"error: OTEL_EXPORTER_OTLP_ENDPOINT (from the environment) {expected}" in said
