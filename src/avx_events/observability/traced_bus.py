"""The spans and metrics of one bus: see ``tracing``. Imported only where OpenTelemetry is installed."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from avx_events.bus.subscription import AnyEnvelope
from avx_events.core.metadata import EventEnvelope, EventMetadata, Headers
from avx_events.observability.buses import BOUNDS_S, ObservedBus

_SCOPE: Final = "avx_events"
_MOST_LINKS: Final = 128  # as many as the SDK keeps of one span
_TRACEPARENT: Final = "traceparent"
_SYSTEMS: Final = {"memory": "avx_memory", "log": "avx_log"}
# What stands for the global provider as long as no SDK has set one.
_NO_METERS: Final = frozenset({"_ProxyMeterProvider", "NoOpMeterProvider"})

_propagator: Final = TraceContextTextMapPropagator()
_nowhere: Final = otel_context.Context()


def traced_bus(
    bus: ObservedBus, tracers: TracerProvider | None, meters: MeterProvider | None, *, parent: bool
) -> "TracedBus | None":
    """Return what makes spans and metrics of ``bus``, with the global providers where none are given.

    None where these are nobody's: no SDK was set up.
    """
    tracers = tracers or trace.get_tracer_provider()
    meters = meters or otel_metrics.get_meter_provider()
    if not (_makes_spans(tracers) or _keeps_metrics(meters)):
        return None
    return TracedBus(bus, tracers, meters, parent=parent)


class TracedBus:
    """Is told of what one bus does, and makes spans and metrics of it."""

    def __init__(self, bus: ObservedBus, tracers: TracerProvider, meters: MeterProvider, *, parent: bool) -> None:
        """Make them with ``tracers`` and ``meters``."""
        self._tracer: Final = tracers.get_tracer(_SCOPE)
        meter = meters.get_meter(_SCOPE)
        self._operations: Final = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of a publish, or of telling a broker what is done.",
            explicit_bucket_boundaries_advisory=BOUNDS_S,
        )
        self._processing: Final = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of an attempt of a handler.",
            explicit_bucket_boundaries_advisory=BOUNDS_S,
        )
        self._sent: Final = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Events that publishers tried to publish."
        )
        self._consumed: Final = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Events that handlers were given."
        )
        self._parent: Final = parent
        self._system: Final = _SYSTEMS.get(bus.system, bus.system)
        self._whose: Final[dict[str, Any]] = {"messaging.system": self._system}
        if bus.group is not None:
            self._whose["messaging.consumer.group.name"] = bus.group
        self._known: Final[dict[tuple[str, str], dict[str, Any]]] = {}

    @contextmanager
    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> Generator[Sequence[AnyEnvelope], None, None]:
        """Make a span of it, and put its context into the envelopes that have none."""
        if not envelopes:
            yield envelopes
            return
        first = envelopes[0]
        attributes = self._attributes("publish", "send", first.metadata.event_type)
        span = self._tracer.start_span(
            f"publish {first.topic}",
            kind=trace.SpanKind.PRODUCER,
            attributes={**attributes, **_of_messages(envelopes)},
            links=_links(map(_origin_of, envelopes[:_MOST_LINKS])),
        )
        sent: dict[str, str] = {}
        _propagator.inject(sent, trace.set_span_in_context(span))
        began_s = perf_counter()
        try:
            yield [_with_headers(envelope, sent) for envelope in envelopes] if sent else envelopes
        except BaseException as exc:
            attributes = _failed(span, attributes, exc)
            raise
        finally:
            self._operations.record(perf_counter() - began_s, attributes)
            self._sent.add(len(envelopes), attributes)
            span.end()

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        """Make a span of it that ends at once: the events are there."""
        attributes = self._attributes("receive", "receive", "", handler=handler)
        span = self._tracer.start_span(
            f"receive {handler}",
            context=_nowhere,
            kind=trace.SpanKind.CONSUMER,
            attributes={**attributes, "messaging.batch.message_count": len(envelopes)},
            links=_links(map(_origin_of, envelopes[:_MOST_LINKS])),
        )
        span.end()

    @contextmanager
    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> Generator[None, None, None]:
        """Make a span of it that is the current one meanwhile, so that what the handler does stands below it."""
        attributes = self._attributes("process", "process", envelope.metadata.event_type, handler=handler)
        origin = _origin_of(envelope)
        span = self._tracer.start_span(
            f"process {envelope.topic}",
            context=origin if self._parent else _nowhere,
            kind=trace.SpanKind.CONSUMER,
            attributes={**attributes, **_of_messages([envelope]), "avx.attempt": attempt},
            links=() if self._parent else _links([origin]),
        )
        token = otel_context.attach(trace.set_span_in_context(span))
        began_s = perf_counter()
        try:
            yield
        except BaseException as exc:
            attributes = _failed(span, attributes, exc)
            raise
        finally:
            self._processing.record(perf_counter() - began_s, attributes)
            self._consumed.add(1, attributes)
            span.end()
            otel_context.detach(token)

    @contextmanager
    def settling(self, handler: str, count: int) -> Generator[None, None, None]:
        """Make a span of it."""
        attributes = self._attributes("settle", "settle", "", handler=handler)
        span = self._tracer.start_span(
            f"settle {handler}",
            context=_nowhere,
            kind=trace.SpanKind.CLIENT,
            attributes={**attributes, "messaging.batch.message_count": count},
        )
        began_s = perf_counter()
        try:
            yield
        except BaseException as exc:
            attributes = _failed(span, attributes, exc)
            raise
        finally:
            self._operations.record(perf_counter() - began_s, attributes)
            span.end()

    def _attributes(self, name: str, kind: str, event_type: str, *, handler: str = "") -> dict[str, Any]:
        """Return what spans and metrics of an operation share; all of it is of few values."""
        key = (name + handler, event_type)
        known = self._known.get(key)
        if known is None:
            known = {**self._whose, "messaging.operation.name": name, "messaging.operation.type": kind}
            if handler:
                known["messaging.destination.subscription.name"] = handler
            if event_type:
                known["avx.event.type"] = event_type
            self._known[key] = known
        return known


def _makes_spans(provider: Any) -> bool:
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _keeps_metrics(provider: Any) -> bool:
    return isinstance(provider, otel_metrics.MeterProvider) and type(provider).__name__ not in _NO_METERS


def _of_messages(envelopes: Sequence[AnyEnvelope]) -> Mapping[str, Any]:
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


def _origin_of(envelope: AnyEnvelope) -> otel_context.Context:
    """Return the context of the span that published ``envelope``, as far as it tells."""
    headers = envelope.metadata.headers
    return _propagator.extract(headers, _nowhere) if _TRACEPARENT in headers else _nowhere


def _links(origins: Iterable[otel_context.Context]) -> Sequence[trace.Link]:
    """Return a link to each of the spans that are current in ``origins``."""
    contexts = {
        context.span_id: context
        for origin in origins
        if (context := trace.get_current_span(origin).get_span_context()).is_valid
    }
    return [trace.Link(context) for context in contexts.values()]


def _with_headers(envelope: AnyEnvelope, sent: Mapping[str, str]) -> AnyEnvelope:
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


def _failed(span: trace.Span, attributes: dict[str, Any], error: BaseException) -> dict[str, Any]:
    """Say in ``span`` what it failed of, and return the ``attributes`` of its measurements."""
    kind = type(error).__name__
    span.set_attribute("error.type", kind)
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, f"{kind}: {error}")
    return {**attributes, "error.type": kind}
