"""The span of a request: what it says where the answer is an error, and where the client is gone."""

from collections.abc import Awaitable, Callable

import httpx
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.types import Receive, Scope, Send

from examples.production_service.http.measuring import ERROR_TYPE, ROUTE
from examples.production_service.http.tracing import RequestSpans

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def span_of(app: App) -> ReadableSpan:
    """Return the span of a request that ``app`` answers."""
    spans, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    traced = RequestSpans(app, tracers=tracers, meters=NoOpMeterProvider())
    transport = httpx.ASGITransport(traced, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        await client.get("/users/7")
    (span,) = spans.get_finished_spans()
    return span


def answering(status: int, error_type: str | None = None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = "/users/{user_id}"
        if error_type is not None:
            scope[ERROR_TYPE] = error_type
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("status", "named", "error_type"),
    [(503, "StoreUnavailableError", "StoreUnavailableError"), (500, None, "500")],
)
async def test_an_error_of_the_service_is_a_span_that_failed(status: int, named: str | None, error_type: str) -> None:
    span = await span_of(answering(status, named))

    assert (span.name, span.status.status_code) == ("GET /users/{user_id}", StatusCode.ERROR)
    assert dict(span.attributes or {})["error.type"] == error_type


async def test_an_error_of_the_client_is_none_of_the_service() -> None:
    span = await span_of(answering(404, "NotFoundError"))

    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in dict(span.attributes or {})


async def test_an_answer_that_broke_off_is_a_span_with_the_exception() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = "the connection was cut"
        raise ConnectionResetError(message)

    span = await span_of(app)

    assert (span.name, span.status.status_code) == ("GET", StatusCode.ERROR)
    assert [event.name for event in span.events] == ["exception"]
