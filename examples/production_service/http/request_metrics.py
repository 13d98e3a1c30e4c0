"""What is counted of requests, in Prometheus's own library, beside what ``Metrics`` gathers.

| family | labels | kind |
|---|---|---|
| ``avx_http_requests_total`` | route, method, status | counter |
| ``avx_http_requests_in_progress`` | - | gauge |
| ``avx_http_request_duration_seconds`` | route | histogram |
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestMetrics:
    """Requests by route, method and status, and how long they took.

    Attributes:
        in_progress: How many are being answered now.
        count: How many were answered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begin at zero, in ``registry``."""
        self.count = 0
        self.in_progress: Final = Gauge(
            "avx_http_requests_in_progress", "Requests being answered now.", registry=registry
        )
        self._requests: Final = Counter(
            "avx_http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self._durations: Final = Histogram(
            "avx_http_request_duration_seconds",
            "From request to answer.",
            ("route",),
            buckets=_BOUNDS_S,
            registry=registry,
        )

    def record(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is its pattern, since there are ids without end."""
        self.count += 1
        self._requests.labels(route, method, str(status)).inc()
        self._durations.labels(route).observe(seconds)
