"""OpenTelemetry: spans and metrics of buses, by its semantic conventions for messaging.

| span | kind | when | its name |
|---|---|---|---|
| publish | producer | from the call until the bus or the broker has accepted it | ``publish user.created`` |
| receive | consumer | a broker gave a handler a batch | ``receive handler`` |
| process | consumer | one attempt of a handler, or one delivery block | ``process user.created`` |
| settle | client | the broker is told what is done | ``settle handler`` |

What the publish span's context is travels in the envelope, in the headers ``traceparent`` and ``tracestate``: over a
broker these are CloudEvents' attributes of that name. An envelope that has one already, because it is published again,
keeps it. The spans of those who handle an event are linked to it, or its children with ``parent=True``.

Source:
    OpenTelemetry semantic conventions for messaging spans and metrics, 1.40:
    https://opentelemetry.io/docs/specs/semconv/messaging/; W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from avx_events.observability.buses import ObservedBus, check_bus

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

log = logging.getLogger("avx_events")


class Tracing:
    """Makes spans and metrics of what buses do; without an OpenTelemetry SDK it does nothing and costs nothing."""

    def __init__(
        self,
        *,
        parent: bool = False,
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
    ) -> None:
        """Observe nothing yet.

        Args:
            parent: Whether the spans of those who handle an event are children of its publish span, and all of a chain
                is one trace. Otherwise each attempt is a trace of its own, with a link: what the conventions ask for,
                since an event may have many handlers, and some handle it years later.
            tracer_provider: Makes the spans; OpenTelemetry's global one if not given.
            meter_provider: Keeps the metrics; OpenTelemetry's global one if not given.
        """
        self._parent: Final = parent
        self._tracer_provider: Final = tracer_provider
        self._meter_provider: Final = meter_provider

    def observe(self, bus: ObservedBus) -> bool:
        """Make spans and metrics of what ``bus`` does from now on.

        Returns:
            False, and nothing was done, where no OpenTelemetry SDK is installed and set up by now.

        Raises:
            InvalidArgumentError: It is no bus.
            ClosedError: The bus is closed.
        """
        check_bus(bus)
        observer = None
        if find_spec("opentelemetry") is not None:
            from avx_events.observability.traced_bus import traced_bus  # noqa: PLC0415 - it imports OpenTelemetry

            observer = traced_bus(bus, self._tracer_provider, self._meter_provider, parent=self._parent)
        if observer is None:
            log.info("%s is not traced: no OpenTelemetry SDK is installed and set up", bus.name)
            return False
        bus.observe(observer)
        return True
