"""What the service counts: requests, events on the bus and in the store, and how far relay and read models are."""

from collections.abc import Mapping
from typing import Final

from examples.production_service.prometheus import Durations, Sample, counter, family, gauge
from examples.production_service.service import Service

_HANDLER_COUNTS: Final[Mapping[str, str]] = {
    "delivered": "Events given to the handler.",
    "handled": "Events that the handler is done with.",
    "retried": "Attempts that failed and were followed by another.",
    "dead_lettered": "Events that became dead letters.",
}
_HANDLER_GAUGES: Final[Mapping[str, str]] = {
    "queued": "Events that wait for the handler, or for its retry.",
    "in_flight": "Events that the handler has now.",
}


class RequestMetrics:
    """Requests by route, method and status, and how long they took.

    Attributes:
        in_progress: How many are being answered now.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.in_progress = 0
        self._counts: Final[dict[tuple[str, str, str], int]] = {}
        self._durations: Final[dict[str, Durations]] = {}

    def record(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is its pattern, since there are ids without end."""
        key = (route, method, str(status))
        self._counts[key] = self._counts.get(key, 0) + 1
        self._durations.setdefault(route, Durations()).add(seconds)

    def text(self) -> str:
        """Return their families."""
        counts: list[Sample] = [
            ("", {"route": route, "method": method, "status": status}, count)
            for (route, method, status), count in sorted(self._counts.items())
        ]
        durations = [
            sample for route, taken in sorted(self._durations.items()) for sample in taken.samples({"route": route})
        ]
        return (
            family("http_requests_total", "counter", "Requests answered.", counts)
            + gauge("http_requests_in_progress", "Requests being answered now.", self.in_progress)
            + family("http_request_duration_seconds", "histogram", "From request to answer.", durations)
        )


async def service_metrics(service: Service) -> str:
    """Return the families of bus, store, relay and read models.

    Raises:
        StoreUnavailableError: The store cannot be asked now.
    """
    last_position = await service.store.last_position()
    dead_letters = await service.bus.dead_letter_queue.count()
    return (
        _bus(service)
        + gauge("avx_dead_letters", "Dead letters that are kept now.", dead_letters)
        + gauge("avx_store_last_position", "The position of the newest event.", last_position)
        + gauge(
            "avx_relay_lag_events", "Positions that the relay is behind.", _lag(last_position, service.relay.position)
        )
        + _projections(service, last_position)
    )


def _bus(service: Service) -> str:
    counts = service.bus.statistics()
    published = counter("avx_bus_published_events_total", "Events that the relay published.", counts.published)
    handlers = counts.subscriptions.items()

    def samples(name: str) -> list[Sample]:
        return [("", {"handler": handler}, getattr(statistics, name)) for handler, statistics in handlers]

    return published + "".join(
        [
            family(f"avx_bus_{name}_events_total", "counter", what, samples(name))
            for name, what in _HANDLER_COUNTS.items()
        ]
        + [family(f"avx_bus_{name}_events", "gauge", what, samples(name)) for name, what in _HANDLER_GAUGES.items()]
    )


def _projections(service: Service, last_position: int) -> str:
    statistics = service.projector.statistics().items()
    lags: list[Sample] = [
        ("", {"projection": name}, _lag(last_position, projection.position)) for name, projection in statistics
    ]
    failures: list[Sample] = [("", {"projection": name}, projection.failures) for name, projection in statistics]
    return family("avx_projection_lag_events", "gauge", "Positions that a read model is behind.", lags) + family(
        "avx_projection_failures_total", "counter", "Attempts of a read model that were undone.", failures
    )


def _lag(last_position: int, position: int) -> int:
    return max(last_position - position, 0)  # the position may be the newer figure
