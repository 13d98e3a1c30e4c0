"""A collector of OpenTelemetry's own protocol, OTLP over HTTP: it keeps what it is sent, and can be slow."""

import gzip
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import msgspec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


class Span(msgspec.Struct, frozen=True):
    """A span as it came over the wire; ids are hexadecimal, and ``parent_id`` is empty where it has none.

    Attributes:
        resource: The attributes of the process that made it.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    is_failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collector:
    """What was sent to it.

    Attributes:
        url: What ``OTEL_EXPORTER_OTLP_ENDPOINT`` is to be.
        spans: In the order in which they came.
        metrics: The names of those that came, each with the resources it came from.
        headers: Those of the last request.
        may_answer: Set; as long as it is cleared, nobody is answered.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        self.metrics: dict[str, list[dict[str, Any]]] = {}
        self.headers: dict[str, str] = {}
        self.may_answer = Event()
        self.may_answer.set()

    def take(self, path: str, body: bytes) -> None:
        """Keep the content of a request."""
        if path == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [_span(span, resource) for span in of_scope.spans]
        elif path == "/v1/metrics":
            for of_process in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                resource = _values(of_process.resource.attributes)
                for of_library in of_process.scope_metrics:
                    for metric in of_library.metrics:
                        self.metrics.setdefault(metric.name, []).append(resource)
        else:
            raise AssertionError(path)

    def of_trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collecting() -> Generator[Collector, None, None]:
    """Run a collector on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers = dict(self.headers.items())
            collector.may_answer.wait()
            collector.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, name="collector")
        thread.start()
        try:
            yield collector
        finally:
            collector.may_answer.set()
            server.shutdown()
            thread.join()


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        _values(span.attributes),
        resource,
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}
