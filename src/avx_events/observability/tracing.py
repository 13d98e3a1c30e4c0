"""OpenTelemetry: spans and metrics of buses and stores, by its semantic conventions for messaging.

| span | kind | when | its name |
|---|---|---|---|
| publish | producer | from the call until the bus or the broker has accepted it | ``publish user.created`` |
| receive | consumer | a broker gave a handler a batch | ``receive handler`` |
| process | consumer | one attempt of a handler, or one delivery block | ``process user.created`` |
| settle | client | the broker is told what is done | ``settle handler`` |
| append | producer | from the call until the store has it | ``append user.created`` |

What the context of the publish or append span is travels in the envelope, in the headers ``traceparent`` and
``tracestate``: over a broker these are CloudEvents' attributes of that name, and in a store they are kept. An envelope
that has one already, because it is published again as a relay does, keeps it. The spans of those who handle an event
are linked to it, or its children with ``parent=True``.

Source:
    OpenTelemetry semantic conventions for messaging spans and metrics, 1.40:
    https://opentelemetry.io/docs/specs/semconv/messaging/; W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeAlias

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import InvalidArgumentError
from avx_events.observability.buses import ObservedBus
from avx_events.store.event_store import EventStore

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

Observed: TypeAlias = ObservedBus | EventStore
"""What can be traced."""

_KINDS: Final = (DeliveringBus, RequestReplyBus, EventStore)

log = logging.getLogger("avx_events")


class Tracing:
    """Makes spans and metrics of what buses and stores do; without an OpenTelemetry SDK it does nothing, at no cost."""

    def __init__(
        self,
        *,
        parent: bool = False,
        without: Iterable[type] = (),
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
    ) -> None:
        """Observe nothing yet.

        Args:
            parent: Whether the spans of those who handle an event are children of the span that published or appended
                it, as is that of a relay, and all of a chain is one trace. Otherwise each attempt is a trace of its
                own, with a link: what the conventions ask for, since an event may have many handlers, and some handle
                it years later.
            without: Event classes, each with those derived from it, that are many and dull: there are neither spans nor
                metrics of publishing, appending or handling them.
            tracer_provider: Makes the spans; OpenTelemetry's global one if not given.
            meter_provider: Keeps the metrics; OpenTelemetry's global one if not given.
        """
        self._parent: Final = parent
        self._without: Final = tuple(without)
        self._tracer_provider: Final = tracer_provider
        self._meter_provider: Final = meter_provider

    def observe(self, observed: Observed) -> bool:
        """Make spans and metrics of what a bus or a store does from now on.

        Of a store these are its appends, whose events then carry the trace to those who follow its log.

        Returns:
            False, and nothing was done, where no OpenTelemetry SDK is installed and set up by now.

        Raises:
            InvalidArgumentError: It is no bus and no event store.
            ClosedError: It is closed.
        """
        if not isinstance(observed, _KINDS):  # pyright: ignore[reportUnnecessaryIsInstance]  # of untyped code
            raise InvalidArgumentError(
                "observed", observed, expected="an EventBus or a TopicBus, a RequestReplyBus or an EventStore"
            )
        if find_spec("opentelemetry") is not None and self._is_observed(observed):
            return True
        name = "the event store" if isinstance(observed, EventStore) else observed.name
        log.debug("%s is not traced: no OpenTelemetry SDK is installed and set up", name)
        return False

    def _is_observed(self, observed: Observed) -> bool:
        # They import OpenTelemetry.
        from avx_events.observability.sending import providers  # noqa: PLC0415
        from avx_events.observability.traced_bus import TracedBus  # noqa: PLC0415
        from avx_events.observability.traced_store import TracedStore  # noqa: PLC0415

        made = providers(self._tracer_provider, self._meter_provider)
        if made is None:
            return False
        if isinstance(observed, EventStore):
            observed.observe(TracedStore(*made, parent=self._parent, without=self._without))
        else:
            observed.observe(TracedBus(observed, *made, parent=self._parent, without=self._without))
        return True
