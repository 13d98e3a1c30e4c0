"""Spans of what is published or appended, and the trace's context in envelopes: what buses and stores share.

Imported only where OpenTelemetry is installed.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from avx_events.core.metadata import EventEnvelope, EventMetadata, Headers
from avx_events.observability.buses import BOUNDS_S

MOST_LINKS: Final = 128  # as many as the SDK keeps of one span
NOWHERE: Final = otel_context.Context()
"""Where no span is the current one."""

SCOPE: Final = "avx_events"
"""Who makes the spans and metrics."""
LOG_SYSTEM: Final = "avx_log"
"""The messaging system of a store's log."""

# What stands for the global provider as long as no SDK has set one.
_NO_METERS: Final = frozenset({"_ProxyMeterProvider", "NoOpMeterProvider"})
_TRACEPARENT: Final = "traceparent"
_propagator: Final = TraceContextTextMapPropagator()


def providers(
    tracers: TracerProvider | None, meters: MeterProvider | None
) -> tuple[TracerProvider, MeterProvider] | None:
    """Return what makes spans and metrics: the global providers where none are given.

    None where these are nobody's: no SDK was set up.
    """
    tracers = tracers or trace.get_tracer_provider()
    meters = meters or otel_metrics.get_meter_provider()
    return (tracers, meters) if _makes_spans(tracers) or _keeps_metrics(meters) else None


class Sending:
    """Makes spans and metrics of the sending of events: publishing them, or appending them."""

    def __init__(
        self,
        tracer: Tracer,
        meter: Meter,
        *,
        operation: str,
        whose: Mapping[str, Any],
        parent: bool,
        without: tuple[type, ...],
    ) -> None:
        """Make them with ``tracer`` and ``meter``.

        Args:
            tracer: Makes the spans.
            meter: Makes the metrics.
            operation: What is done, as ``publish``.
            whose: The attributes that all of them have.
            parent: Whether what is sent again, where no span is the current one, is a child of what sent it first.
            without: Classes of events that nothing is told of.
        """
        self._tracer: Final = tracer
        self._durations: Final = operation_durations(meter)
        self._sent: Final = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Events that were tried to be sent."
        )
        self._operation: Final = operation
        self._whose: Final = {
            **whose,
            "messaging.operation.name": operation,
            "messaging.operation.type": "send",
        }
        self._parent: Final = parent
        self._without: Final = without

    @contextmanager
    def span(
        self, envelopes: Sequence[EventEnvelope[Any]], **attributes: str
    ) -> Generator[Sequence[EventEnvelope[Any]], None, None]:
        """Make a span of it, and put its context into the envelopes that have none.

        Args:
            envelopes: What is sent.
            attributes: What else the span says; not the metrics, since it may be of many values.
        """
        if all(isinstance(envelope.event, self._without) for envelope in envelopes):
            yield envelopes
            return
        measured: dict[str, Any] = {**self._whose, "avx.event.type": envelopes[0].metadata.event_type}
        span = self._tracer.start_span(
            f"{self._operation} {envelopes[0].topic}",
            context=self._above(envelopes),
            kind=trace.SpanKind.PRODUCER,
            attributes={**measured, **attributes, **of_messages(envelopes)},
            links=links_to(map(origin_of, envelopes[:MOST_LINKS])),
        )
        sent: dict[str, str] = {}
        _propagator.inject(sent, trace.set_span_in_context(span))
        began_s = perf_counter()
        try:
            yield [_with_headers(envelope, sent) for envelope in envelopes] if sent else envelopes
        except BaseException as exc:
            measured = failed(span, measured, exc)
            raise
        finally:
            self._durations.record(perf_counter() - began_s, measured)
            self._sent.add(len(envelopes), measured)
            span.end()

    def _above(self, envelopes: Sequence[EventEnvelope[Any]]) -> otel_context.Context | None:
        """Return the context that the span is a child of; None for the current one."""
        if not self._parent or trace.get_current_span().get_span_context().is_valid:
            return None
        return origin_of(envelopes[0])


def operation_durations(meter: Meter) -> Histogram:
    """Return the metric of how long sending and settling take."""
    return meter.create_histogram(
        "messaging.client.operation.duration",
        unit="s",
        description="Duration of a publish, of an append, or of telling a broker what is done.",
        explicit_bucket_boundaries_advisory=BOUNDS_S,
    )


def of_messages(envelopes: Sequence[EventEnvelope[Any]]) -> Mapping[str, Any]:
    """Return the attributes that are of the messages themselves."""
    first = envelopes[0]
    metadata = first.metadata
    found: dict[str, Any] = {"messaging.destination.name": first.topic}
    if len(envelopes) > 1:
        found["messaging.batch.message_count"] = len(envelopes)
        return found
    found["messaging.message.id"] = metadata.event_id
    found["messaging.message.conversation_id"] = metadata.correlation_id
    if metadata.causation_id is not None:
        found["avx.causation_id"] = metadata.causation_id
    return found


def origin_of(envelope: EventEnvelope[Any]) -> otel_context.Context:
    """Return the context of the span that sent ``envelope`` first, as far as it tells."""
    headers = envelope.metadata.headers
    return _propagator.extract(headers, NOWHERE) if _TRACEPARENT in headers else NOWHERE


def links_to(origins: Iterable[otel_context.Context]) -> Sequence[trace.Link]:
    """Return a link to each of the spans that are current in ``origins``."""
    contexts = {
        context.span_id: context
        for origin in origins
        if (context := trace.get_current_span(origin).get_span_context()).is_valid
    }
    return [trace.Link(context) for context in contexts.values()]


def failed(span: trace.Span, attributes: dict[str, Any], error: BaseException) -> dict[str, Any]:
    """Say in ``span`` what it failed of, and return the ``attributes`` of its measurements."""
    kind = type(error).__name__
    span.set_attribute("error.type", kind)
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, f"{kind}: {error}")
    return {**attributes, "error.type": kind}


def _with_headers(envelope: EventEnvelope[Any], sent: Mapping[str, str]) -> EventEnvelope[Any]:
    metadata = envelope.metadata
    if _TRACEPARENT in metadata.headers:
        return envelope
    traced = EventMetadata(
        metadata.event_id,
        metadata.event_type,
        metadata.aggregate_id,
        metadata.timestamp,
        metadata.correlation_id,
        metadata.causation_id,
        metadata.user_id,
        Headers({**metadata.headers, **sent}),
    )
    return EventEnvelope(envelope.event, traced, envelope.topic)


def _makes_spans(provider: Any) -> bool:
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _keeps_metrics(provider: Any) -> bool:
    return isinstance(provider, otel_metrics.MeterProvider) and type(provider).__name__ not in _NO_METERS
