"""The spans and metrics of one store: see ``tracing``. Imported only where OpenTelemetry is installed."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from avx_events.bus.subscription import AnyEnvelope
from avx_events.observability.sending import LOG_SYSTEM, SCOPE, Sending


class TracedStore:
    """Is told of the appends of one store, and makes spans and metrics of them."""

    def __init__(
        self, tracers: TracerProvider, meters: MeterProvider, *, parent: bool, without: tuple[type, ...]
    ) -> None:
        """Make them with ``tracers`` and ``meters``, but none of events of the classes ``without``."""
        whose = {"messaging.system": LOG_SYSTEM}
        tracer, meter = tracers.get_tracer(SCOPE), meters.get_meter(SCOPE)
        self._sending: Final = Sending(tracer, meter, operation="append", whose=whose, parent=parent, without=without)

    def appending(self, stream: str, envelopes: Sequence[AnyEnvelope]) -> AbstractContextManager[Sequence[AnyEnvelope]]:
        """Make a span of it, and put its context into the envelopes that have none."""
        return self._sending.span(envelopes, **{"avx.stream": stream})
