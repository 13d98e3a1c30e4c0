"""The spans and metrics of one bus: see ``tracing``. Imported only where OpenTelemetry is installed."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from avx_events.bus.subscription import AnyEnvelope
from avx_events.observability.buses import BOUNDS_S, ObservedBus
from avx_events.observability.sending import (
    LOG_SYSTEM,
    MOST_LINKS,
    NOWHERE,
    SCOPE,
    Sending,
    failed,
    links_to,
    of_messages,
    operation_durations,
    origin_of,
)

_SYSTEMS: Final = {"memory": "avx_memory", "log": LOG_SYSTEM}


class TracedBus:
    """Is told of what one bus does, and makes spans and metrics of it."""

    def __init__(
        self,
        bus: ObservedBus,
        tracers: TracerProvider,
        meters: MeterProvider,
        *,
        parent: bool,
        without: tuple[type, ...],
    ) -> None:
        """Make them with ``tracers`` and ``meters``, but none of events of the classes ``without``."""
        self._tracer: Final = tracers.get_tracer(SCOPE)
        meter = meters.get_meter(SCOPE)
        self._operations: Final = operation_durations(meter)
        self._processing: Final = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of an attempt of a handler.",
            explicit_bucket_boundaries_advisory=BOUNDS_S,
        )
        self._consumed: Final = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Events that handlers were given."
        )
        self._parent: Final = parent
        self._without: Final = without
        self._whose: Final[dict[str, Any]] = {"messaging.system": _SYSTEMS.get(bus.system, bus.system)}
        if bus.group is not None:
            self._whose["messaging.consumer.group.name"] = bus.group
        self._sending: Final = Sending(
            self._tracer, meter, operation="publish", whose=self._whose, parent=parent, without=without
        )
        self._known: Final[dict[tuple[str, str], dict[str, Any]]] = {}

    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> AbstractContextManager[Sequence[AnyEnvelope]]:
        """Make a span of it, and put its context into the envelopes that have none."""
        return self._sending.span(envelopes)

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        """Make a span of it that ends at once: the events are there."""
        attributes = self._attributes("receive", handler)
        span = self._tracer.start_span(
            f"receive {handler}",
            context=NOWHERE,
            kind=trace.SpanKind.CONSUMER,
            attributes={**attributes, "messaging.batch.message_count": len(envelopes)},
            links=links_to(map(origin_of, envelopes[:MOST_LINKS])),
        )
        span.end()

    @contextmanager
    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> Generator[None, None, None]:
        """Make a span of it that is the current one meanwhile, so that what the handler does stands below it."""
        if isinstance(envelope.event, self._without):
            yield
            return
        attributes = self._attributes("process", handler, envelope.metadata.event_type)
        origin = origin_of(envelope)
        span = self._tracer.start_span(
            f"process {envelope.topic}",
            context=origin if self._parent else NOWHERE,
            kind=trace.SpanKind.CONSUMER,
            attributes={**attributes, **of_messages([envelope]), "avx.attempt": attempt},
            links=() if self._parent else links_to([origin]),
        )
        token = otel_context.attach(trace.set_span_in_context(span))
        began_s = perf_counter()
        try:
            yield
        except BaseException as exc:
            attributes = failed(span, attributes, exc)
            raise
        finally:
            self._processing.record(perf_counter() - began_s, attributes)
            self._consumed.add(1, attributes)
            span.end()
            otel_context.detach(token)

    @contextmanager
    def settling(self, handler: str, count: int) -> Generator[None, None, None]:
        """Make a span of it."""
        attributes = self._attributes("settle", handler)
        span = self._tracer.start_span(
            f"settle {handler}",
            context=NOWHERE,
            kind=trace.SpanKind.CLIENT,
            attributes={**attributes, "messaging.batch.message_count": count},
        )
        began_s = perf_counter()
        try:
            yield
        except BaseException as exc:
            attributes = failed(span, attributes, exc)
            raise
        finally:
            self._operations.record(perf_counter() - began_s, attributes)
            span.end()

    def _attributes(self, operation: str, handler: str, event_type: str = "") -> dict[str, Any]:
        """Return what spans and metrics of a handler's operation share; all of it is of few values."""
        key = (operation + handler, event_type)
        known = self._known.get(key)
        if known is None:
            known = {**self._whose, "messaging.operation.name": operation, "messaging.operation.type": operation}
            known["messaging.destination.subscription.name"] = handler
            if event_type:
                known["avx.event.type"] = event_type
            self._known[key] = known
        return known
