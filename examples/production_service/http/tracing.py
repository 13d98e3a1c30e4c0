"""Tracing: a span for each request, by OpenTelemetry's conventions for HTTP, and how long it took.

Its parent is the span that ``traceparent`` and ``tracestate`` name, and what the request appends, publishes and causes
stands below it: one trace goes from the client to the last handler. Requests for what is asked every few seconds have
none. The query is not in it, as it is in no report: it is the client's own.

Source:
    OpenTelemetry semantic conventions for HTTP spans and metrics, https://opentelemetry.io/docs/specs/semconv/http/;
    W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

from collections.abc import Collection
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.production_service.http.measuring import ERROR_TYPE, METHODS, ROUTE

TRACE_HEADER: Final = "traceparent"

_SCOPE: Final = "examples.production_service"
_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_FIRST_SERVER_ERROR: Final = 500

_propagator: Final = TraceContextTextMapPropagator()


class RequestSpans:
    """Middleware: makes a span of each request, which is the current one while it is answered."""

    def __init__(
        self, app: ASGIApp, *, tracers: TracerProvider, meters: MeterProvider, without: Collection[str] = ()
    ) -> None:
        """Stand around ``app``.

        Args:
            app: Answers.
            tracers: Makes the spans.
            meters: Keeps how long requests took.
            without: The paths that, with what is below them, have no span.
        """
        self._app: Final = app
        self._without: Final = tuple(without)
        self._tracer: Final = tracers.get_tracer(_SCOPE)
        self._durations: Final = meters.get_meter(_SCOPE).create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_BOUNDS_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path: str = scope["path"]
        if any(path == each or path.startswith(f"{each}/") for each in self._without):
            await self._app(scope, receive, send)
            return
        status = _FIRST_SERVER_ERROR

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        measured = _measured_before(scope)
        began_s = perf_counter()
        with self._tracer.start_as_current_span(
            _method_of(scope),
            context=_parent_of(Headers(scope=scope)),
            kind=trace.SpanKind.SERVER,
            attributes={**measured, **_said_before(scope)},
            set_status_on_exception=False,  # it is set below, by what the client was answered
        ) as span:
            try:
                await self._app(scope, receive, watched_send)
            finally:
                measured |= _known_after(scope, status)
                _complete(span, scope, measured)
                self._durations.record(perf_counter() - began_s, measured)


def _parent_of(headers: Headers) -> otel_context.Context:
    """Return the context that the client sent; more than one ``traceparent`` is none."""
    parents = headers.getlist(TRACE_HEADER)
    carrier = {TRACE_HEADER: parents, "tracestate": headers.getlist("tracestate")} if len(parents) == 1 else {}
    return _propagator.extract(carrier, otel_context.Context())


def _measured_before(scope: Scope) -> dict[str, Any]:
    """Return what the span and the measurement say; all of it is of few values."""
    return {
        "http.request.method": scope["method"] if scope["method"] in METHODS else "_OTHER",
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }


def _said_before(scope: Scope) -> dict[str, Any]:
    """Return what only the span says."""
    said: dict[str, Any] = {"url.path": scope["path"]}
    if scope["method"] not in METHODS:
        said["http.request.method_original"] = scope["method"]
    if scope.get("server") is not None:
        said["server.address"], said["server.port"] = scope["server"]
    if scope.get("client") is not None:
        said["client.address"], said["client.port"] = scope["client"]
    if agent := Headers(scope=scope).get("user-agent"):
        said["user_agent.original"] = agent
    return said


def _known_after(scope: Scope, status: int) -> dict[str, Any]:
    known: dict[str, Any] = {"http.response.status_code": status}
    if ROUTE in scope:
        known["http.route"] = scope[ROUTE]
    if status >= _FIRST_SERVER_ERROR:
        known["error.type"] = scope.get(ERROR_TYPE, str(status))
    return known


def _complete(span: trace.Span, scope: Scope, known: dict[str, Any]) -> None:
    span.set_attributes(known)
    if ROUTE in scope:
        span.update_name(f"{_method_of(scope)} {scope[ROUTE]}")
    if "error.type" in known:
        span.set_status(trace.StatusCode.ERROR, known["error.type"])


def _method_of(scope: Scope) -> str:
    """Return how the method is called in a span's name."""
    return scope["method"] if scope["method"] in METHODS else "HTTP"
