"""Prometheus: what buses, their dead letters, read models and groups are at, for a scrape.

| family | labels | kind | what |
|---|---|---|---|
| ``avx_events_published_total`` | bus, system | counter | events that publishers got onto the bus |
| ``avx_events_handled_total`` | bus, handler | counter | events whose handler succeeded |
| ``avx_events_retried_total`` | bus, handler | counter | attempts that failed and were followed by another |
| ``avx_events_dead_lettered_total`` | bus, handler | counter | events that became dead letters |
| ``avx_events_discarded_total`` | bus, handler | counter | events that the handler gave up with ``Discard`` |
| ``avx_events_dropped_total`` | bus, handler | counter | events that the overflow policy refused or threw out |
| ``avx_events_queued`` | bus, handler | gauge | events that wait, those for a retry included |
| ``avx_events_in_flight`` | bus, handler | gauge | events that are being handled |
| ``avx_events_dead_letters`` | bus | gauge | dead letters that are kept now |
| ``avx_events_publish_duration_seconds`` | bus, system | histogram | from the call until it is accepted |
| ``avx_events_handle_duration_seconds`` | bus, handler | histogram | one attempt |
| ``avx_events_projection_lag_events`` | projection | gauge | positions that a read model is behind |
| ``avx_events_projection_lag_seconds`` | projection | gauge | the age of the oldest event it has not seen |
| ``avx_events_group_lag_events`` | group, handler | gauge | events that a group of a broker has not done |
| ``avx_events_group_lag_seconds`` | group, handler | gauge | the age of the oldest of these |

Counts and gauges are read from what the bus counts anyway, when they are asked for: they cost a publish nothing. Only
the histograms are told of each event, and only with ``durations=True``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.subscription import AnyEnvelope
from avx_events.core.arguments import text
from avx_events.core.errors import (
    AvxEventsError,
    InvalidArgumentError,
    MissingExtraError,
    NoDeadLetterQueueError,
    UnsupportedError,
)
from avx_events.observability.buses import BOUNDS_S

try:
    from prometheus_client import CollectorRegistry, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ImportError as exc:
    raise MissingExtraError("avx_events.observability.Metrics", "prometheus") from exc

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Of what ``Metrics.text`` returns."""

Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""Sends a message of ASGI."""

_COUNTERS: Final = {
    "handled": "Events whose handler succeeded.",
    "retried": "Attempts that failed and were followed by another.",
    "dead_lettered": "Events that became dead letters.",
    "discarded": "Events that a handler gave up.",
    "dropped": "Events that the overflow policy refused or threw out.",
}
_GAUGES: Final = {
    "queued": "Events that wait for the handler, or for its retry.",
    "in_flight": "Events that are being handled.",
}
_LONGEST_LOOK_S: Final = 5.0
_LATELY: Final = 512
_PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class LaggingProjector(Protocol):
    """What ``Metrics`` asks of a ``Projector``."""

    async def lag_events(self) -> Mapping[str, int]:
        """Return by projection how many positions it is behind."""
        ...

    async def lag_seconds(self) -> Mapping[str, float]:
        """Return by projection for how many seconds there has been something that it has not seen."""
        ...


class LaggingGroup(Protocol):
    """One consumer of a group, as an inspector of a broker tells of it."""

    @property
    def group(self) -> str:
        """Return the group."""
        ...

    @property
    def handler(self) -> str:
        """Return the handler."""
        ...

    @property
    def lag_events(self) -> int | None:
        """Return how many events it has not done; None where nobody knows."""
        ...

    @property
    def lag_seconds(self) -> float | None:
        """Return the age of the oldest of these; None where nobody knows."""
        ...


class Groups(Protocol):
    """What ``Metrics`` asks of an inspector."""

    async def groups(self) -> Sequence[LaggingGroup]:
        """Return what the groups of a broker are at."""
        ...


class Metrics:
    """Gathers the families of one process; ``text`` is what a scrape is answered with, and it is an ASGI application.

    What cannot be asked for at the moment, since a database or a broker is away, is left out of that scrape, and
    ``avx_events_scrape_failures_total`` says so: a gauge that does not move would look as if all were well.
    """

    def __init__(self, *, durations: bool = True) -> None:
        """Begin with nothing.

        Args:
            durations: Whether the buses that are added are observed, for the histograms.
        """
        self._durations: Final = durations
        self._buses: Final[dict[str, DeliveringBus]] = {}
        self._timed: Final[list[_Timed]] = []
        self._projectors: Final[list[LaggingProjector]] = []
        self._groups: Final[list[Groups]] = []
        self._registry: Final = CollectorRegistry(auto_describe=False)
        self._scraped: list[Metric] = []
        self._failures: Final[dict[str, int]] = {}
        self._registry.register(_Scraped(lambda: self._scraped))
        self._publishing: Final = Histogram(
            "avx_events_publish_duration_seconds",
            "From the call of publish until the bus or the broker has accepted it.",
            ("bus", "system"),
            buckets=BOUNDS_S,
            registry=self._registry,
        )
        self._handling: Final = Histogram(
            "avx_events_handle_duration_seconds",
            "One attempt of a handler.",
            ("bus", "handler"),
            buckets=BOUNDS_S,
            registry=self._registry,
        )

    def add_bus(self, bus: DeliveringBus, *, name: str | None = None) -> None:
        """Tell of ``bus``, under a name that no other has.

        Raises:
            InvalidArgumentError: It is no event bus or topic bus, or the name is taken.
            ClosedError: It is closed, and cannot be observed.
        """
        if not isinstance(bus, DeliveringBus):  # pyright: ignore[reportUnnecessaryIsInstance]  # of untyped code
            raise InvalidArgumentError("bus", bus, expected="an EventBus or a TopicBus")
        label = text("name", bus.name if name is None else name)
        if label in self._buses:
            raise InvalidArgumentError("name", label, expected="one that no other bus has here; give another, name=")
        if self._durations:
            timed = _Timed(self._publishing.labels(label, bus.system), label, self._handling)
            bus.observe(timed)
            self._timed.append(timed)
        self._buses[label] = bus

    def add_projector(self, projector: LaggingProjector) -> None:
        """Tell of the lag of each projection of ``projector``."""
        self._projectors.append(projector)

    def add_groups(self, inspector: Groups) -> None:
        """Tell of the lag of each group of a broker that ``inspector`` looks into."""
        self._groups.append(inspector)

    def latencies(self) -> dict[str, dict[str, float]]:
        """Return for each handler the 50th, 95th and 99th percentile of its last 512 attempts, in seconds.

        Handlers that had none are left out, and so are all without ``durations``. ``Console(latencies=...)`` takes it.
        """
        return {
            handler: {name: _percentile(taken, share) for name, share in _PERCENTILES.items()}
            for bus in self._timed
            for handler, durations in bus.lately.items()
            if (taken := sorted(durations))
        }

    @property
    def registry(self) -> CollectorRegistry:
        """Where a user's own metrics go: ``Counter("orders", "Orders.", registry=metrics.registry)``.

        They come with the next scrape; a name that is taken is prometheus_client's ``ValueError``.
        """
        return self._registry

    async def text(self) -> bytes:
        """Return all families in the text format, for the content type ``CONTENT_TYPE``."""
        families = [*self._of_buses()]
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(self._asked(what, ask))
                for what, ask in (
                    ("dead letters", self._of_dead_letters),
                    ("projections", self._of_projections),
                    ("groups", self._of_groups),
                )
            ]
        for task in asked:
            families += task.result()
        failures = CounterMetricFamily(
            "avx_events_scrape_failures", "Families that a scrape had to leave out.", labels=("what",)
        )
        for what, count in self._failures.items():
            failures.add_metric([what], count)
        self._scraped = [*families, failures]
        return generate_latest(self._registry)

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Answer a scrape: an ASGI application, to be mounted or served as it is.

        Raises:
            UnsupportedError: It is served something else than HTTP.
        """
        if scope["type"] == "lifespan":  # nothing of it is started
            problem = "it has no lifespan"
            raise UnsupportedError("Metrics", problem, remedy="serve it with the lifespan off, or mount it in an app")
        if scope["type"] != "http":
            raise UnsupportedError("Metrics", f"it cannot answer {scope['type']!r}", remedy="ask it by HTTP")
        is_asked = scope["method"] in {"GET", "HEAD"}
        body = await self.text() if is_asked else b"only GET and HEAD are answered here\n"
        kind = CONTENT_TYPE if is_asked else "text/plain; charset=utf-8"
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        if not is_asked:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": 200 if is_asked else 405, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _asked(self, what: str, ask: Callable[[], Awaitable[list[Metric]]]) -> list[Metric]:
        try:
            async with asyncio.timeout(_LONGEST_LOOK_S):
                return await ask()
        except (AvxEventsError, TimeoutError):
            self._failures[what] = self._failures.get(what, 0) + 1
            return []

    def _of_buses(self) -> Iterator[Metric]:
        published = CounterMetricFamily(
            "avx_events_published", "Events that publishers got onto the bus.", labels=("bus", "system")
        )
        counters = {
            name: CounterMetricFamily(f"avx_events_{name}", what, labels=("bus", "handler"))
            for name, what in _COUNTERS.items()
        }
        gauges = {
            name: GaugeMetricFamily(f"avx_events_{name}", what, labels=("bus", "handler"))
            for name, what in _GAUGES.items()
        }
        for label, bus in self._buses.items():
            counts = bus.statistics()
            published.add_metric([label, bus.system], counts.published)
            for handler, of_handler in counts.subscriptions.items():
                for name, counter in counters.items():
                    counter.add_metric([label, handler], getattr(of_handler, name))
                for name, gauge in gauges.items():
                    gauge.add_metric([label, handler], getattr(of_handler, name))
        yield published
        yield from counters.values()
        yield from gauges.values()

    async def _of_dead_letters(self) -> list[Metric]:
        family = GaugeMetricFamily("avx_events_dead_letters", "Dead letters that are kept now.", labels=("bus",))
        for label, bus in self._buses.items():
            with suppress(NoDeadLetterQueueError):
                family.add_metric([label], await bus.dead_letter_queue.count())
        return [family]

    async def _of_projections(self) -> list[Metric]:
        events = GaugeMetricFamily(
            "avx_events_projection_lag_events", "Positions that a read model is behind.", labels=("projection",)
        )
        seconds = GaugeMetricFamily(
            "avx_events_projection_lag_seconds",
            "The age of the oldest event that a read model has not seen.",
            labels=("projection",),
        )
        for projector in self._projectors:
            _add(events, (((name,), lag) for name, lag in (await projector.lag_events()).items()))
            _add(seconds, (((name,), lag) for name, lag in (await projector.lag_seconds()).items()))
        return [events, seconds]

    async def _of_groups(self) -> list[Metric]:
        labels = ("group", "handler")
        events = GaugeMetricFamily(
            "avx_events_group_lag_events", "Events that a group of a broker has not done.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "avx_events_group_lag_seconds", "The age of the oldest event that a group has not done.", labels=labels
        )
        for inspector in self._groups:
            found = await inspector.groups()
            _add(events, (((each.group, each.handler), each.lag_events) for each in found))
            _add(seconds, (((each.group, each.handler), each.lag_seconds) for each in found))
        return [events, seconds]


class _Scraped:
    """What was gathered for this scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


class _Timed:
    """Observes one bus for the histograms.

    Attributes:
        lately: The durations of the last attempts of each handler, in seconds.
    """

    def __init__(self, publishing: Any, label: str, handling: Histogram) -> None:
        self._publishing = publishing
        self._label = label
        self._handling = handling
        self._known: dict[str, Any] = {}
        self.lately: dict[str, deque[float]] = {}

    @contextmanager
    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> Generator[Sequence[AnyEnvelope], None, None]:
        began_s = perf_counter()
        try:
            yield envelopes
        finally:
            self._publishing.observe(perf_counter() - began_s)

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        pass

    @contextmanager
    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> Generator[None, None, None]:  # noqa: ARG002 - an Observer's
        durations = self._known.get(handler)
        if durations is None:
            durations = self._known[handler] = self._handling.labels(self._label, handler)
            self.lately[handler] = deque(maxlen=_LATELY)
        began_s = perf_counter()
        try:
            yield
        finally:
            taken_s = perf_counter() - began_s
            durations.observe(taken_s)
            self.lately[handler].append(taken_s)

    @contextmanager
    def settling(self, handler: str, count: int) -> Generator[None, None, None]:  # noqa: ARG002 - an Observer's
        yield


def _percentile(ascending: Sequence[float], share: float) -> float:
    """Return the nearest rank: the least value that ``share`` of all are not above."""
    return ascending[max(ceil(share * len(ascending)) - 1, 0)]


def _add(family: GaugeMetricFamily, samples: Iterable[tuple[Sequence[str], float | None]]) -> None:
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
