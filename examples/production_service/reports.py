"""What the service says of itself on the bus: events for whoever watches, made of real figures, never in anybody's way.

``Reports.tell`` costs a request one place in a queue. When ``CAPACITY`` of them wait, because the bus is slow or away,
what is newest is dropped; ``avx_service_events_dropped_total`` counts it.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Self

from prometheus_client import CollectorRegistry, Counter

from avx_events import AvxEventsError, Event, EventBus, context

CAPACITY: Final = 1_024
PUBLISH_TIMEOUT_S: Final = 5.0
FLUSH_TIMEOUT_S: Final = 1.0

log = logging.getLogger(__name__)


class ServiceStarted(Event, event_type="shop.service.started", aggregate_id="name"):
    name: str
    version: str
    address: str
    pid: int


class HealthCheckPerformed(Event, event_type="shop.health_check.performed"):
    """``status`` is ``ready`` or ``not ready``; ``problems`` has the parts that are not ready, with the reasons."""

    status: str
    problems: dict[str, str]
    duration_ms: float


class MetricsSnapshot(Event, event_type="shop.metrics.snapshot"):
    """Counts since the process began, and what waits now.

    ``published`` are the events that the process got onto its buses, those of the relay and its reports; what was
    appended to the store is in the log.
    """

    published: int
    handled: int
    dead_lettered: int
    queued: int
    requests: int
    uptime_s: float


class HttpRequestEvent(Event, event_type="shop.http.request"):
    """A request was answered; ``route`` is the pattern, so that neither query nor ids are in it."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str


class HttpErrorEvent(Event, event_type="shop.http.error"):
    """A request was answered with an error; beside its ``HttpRequestEvent``."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str
    error_type: str


REPORTS: Final = (ServiceStarted, HealthCheckPerformed, MetricsSnapshot, HttpRequestEvent, HttpErrorEvent)
"""All of them."""


class Reports:
    """Publishes reports one after the other while it is entered, each with the correlation id that it was told with.

    Attributes:
        bus: Where to.
    """

    def __init__(self, bus: EventBus, registry: CollectorRegistry) -> None:
        """Publish on ``bus``; what is dropped is counted in ``registry``."""
        self.bus: Final = bus
        self._waiting: Final = asyncio.Queue[tuple[Event, str | None]](CAPACITY)
        self._tasks: Final = asyncio.TaskGroup()
        self._dropped: Final = Counter(
            "avx_service_events_dropped", "Reports of the service that the bus could not take.", registry=registry
        )

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._run(), name="reports")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Publish what waits as far as that takes no longer than ``FLUSH_TIMEOUT_S``, and stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self.flushed()
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def tell(self, report: Event, *, correlation_id: str | None = None) -> None:
        """Have ``report`` published soon, or drop it where too many wait."""
        try:
            self._waiting.put_nowait((report, correlation_id))
        except asyncio.QueueFull:
            self._dropped.inc()

    async def flushed(self) -> None:
        """Return when all that was told was published, or dropped."""
        await self._waiting.join()

    async def _run(self) -> None:
        while True:
            report, correlation_id = await self._waiting.get()
            try:
                with context(correlation_id=correlation_id):
                    async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                        await self.bus.publish(report)
            except (AvxEventsError, TimeoutError) as exc:
                self._dropped.inc()
                log.debug("dropped a report: %s", exc)
            finally:
                self._waiting.task_done()
