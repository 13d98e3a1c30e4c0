"""What handlers and groups did lately: looked at once a second, and kept for five minutes."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from avx_events.apps.console.given import Given
from avx_events.bus.error_text import line_of
from avx_events.bus.remote.inspection import GroupStatus
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.patterns.pause import pause

EVERY_S: Final = 1.0
KEPT: Final = 300
MOST_HANDLERS: Final = 500
GROUPS_EVERY_S: Final = 2.0
"""A broker is asked for its groups no more often, however many look, and not at all while nobody does."""


class Sample(msgspec.Struct, frozen=True):
    """One handler at one instant.

    Attributes:
        at_s: When, in seconds of the clock.
        counts: What it has counted until then.
        latency: Seconds by percentile; none where nobody tells.
    """

    at_s: float
    counts: SubscriptionStatistics
    latency: Mapping[str, float]


class Sampler:
    """Keeps the last five minutes of each handler of the bus, and of each group that somebody looks at.

    Attributes:
        problem: Why there are no latencies; empty where all is well.
    """

    def __init__(self, given: Given) -> None:
        """Look at the bus and the inspector of ``given``."""
        self._given: Final = given
        self.problem = ""
        self._samples: dict[str, deque[Sample]] = {}
        self._groups: Sequence[GroupStatus] = ()
        self._lags: dict[tuple[str, str], deque[int | None]] = {}
        self._groups_at_s: float | None = None

    async def run(self) -> None:
        """Look once a second, for ever."""
        while self._given.bus is not None:
            self.look()
            await pause(self._given.clock, EVERY_S)

    def look(self) -> None:
        """Keep how the handlers are now; those that are there no more are forgotten."""
        if self._given.bus is None:
            return
        now_s = self._given.clock.monotonic()
        latencies = self._latencies()
        subscriptions = self._given.bus.statistics().subscriptions
        names = [name for name in subscriptions if name != "avx-console"][:MOST_HANDLERS]
        for gone in self._samples.keys() - set(names):
            del self._samples[gone]
        for name in names:
            sample = Sample(now_s, subscriptions[name], latencies.get(name, {}))
            self._samples.setdefault(name, deque(maxlen=KEPT)).append(sample)

    def _latencies(self) -> Mapping[str, Mapping[str, float]]:
        if self._given.latencies is None:
            return {}
        try:
            found = self._given.latencies()
        except Exception as exc:  # noqa: BLE001 - a function of the application; all else can be shown without it
            self.problem = f"latencies() raised {line_of(exc)}"
            return {}
        self.problem = ""
        return found

    def handlers(self) -> list[dict[str, Any]]:
        """Return each handler: its counts, and lines over time, the oldest point first."""
        return [_handler_view(name, [*samples]) for name, samples in sorted(self._samples.items())]

    async def groups(self) -> list[dict[str, Any]]:
        """Return each handler of each group, with its lag over time.

        Raises:
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user look.
            StoreUnavailableError: The database is away.
        """
        inspector = self._given.inspector
        now_s = self._given.clock.monotonic()
        if inspector is not None and (self._groups_at_s is None or now_s - self._groups_at_s >= GROUPS_EVERY_S):
            self._groups_at_s = now_s
            self._keep_groups(await inspector.groups())
        return [
            {**msgspec.structs.asdict(status), "lags": [*self._lags[status.group, status.handler]]}
            for status in self._groups
        ]

    def _keep_groups(self, groups: Sequence[GroupStatus]) -> None:
        self._groups = groups[:MOST_HANDLERS]
        there = {(status.group, status.handler) for status in self._groups}
        for gone in self._lags.keys() - there:
            del self._lags[gone]
        for status in self._groups:
            self._lags.setdefault((status.group, status.handler), deque(maxlen=KEPT)).append(status.lag_events)


def _handler_view(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    pairs = list(pairwise(samples))
    percentiles = sorted({percentile for sample in samples for percentile in sample.latency})
    return {
        "name": name,
        "counts": samples[-1].counts,
        "every_s": EVERY_S,
        "rate": [_rate(one, other, "handled") for one, other in pairs],
        "failures": [_rate(one, other, "retried") + _rate(one, other, "dead_lettered") for one, other in pairs],
        "queued": [sample.counts.queued for sample in samples],
        "in_flight": [sample.counts.in_flight for sample in samples],
        "latency": {name: [sample.latency.get(name) for sample in samples] for name in percentiles},
    }


def _rate(one: Sample, other: Sample, count: str) -> float:
    passed_s = other.at_s - one.at_s
    difference: int = getattr(other.counts, count) - getattr(one.counts, count)
    return round(max(difference, 0) / passed_s, 2) if passed_s > 0 else 0.0
