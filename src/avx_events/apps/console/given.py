"""What a console is given to look at: all of it optional."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.remote.inspection import Inspector
from avx_events.core.clock import Clock
from avx_events.patterns.projection import Projector
from avx_events.store.event_store import EventStore

if TYPE_CHECKING:
    from avx_events.store.aggregates import Aggregate

Latencies: TypeAlias = Callable[[], Mapping[str, Mapping[str, float]]]
"""Gives for each handler, by name, how long it takes: seconds by percentile, as ``{"p50": 0.01, "p99": 0.2}``."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What a console is given.

    Attributes:
        store: Streams, states and causes.
        bus: A bus of this process: its handlers, its events, and redrives.
        broker_url: Where live events come from.
        namespace: Of the buses at ``broker_url``.
        queue: The dead letters.
        projector: The projections.
        inspector: The groups.
        latencies: How long handlers take.
        aggregates: Aggregate classes by what the names of their streams begin with.
        clock: Time.
    """

    store: EventStore | None
    bus: DeliveringBus | None
    broker_url: str | None
    namespace: str
    queue: DeadLetterQueue | None
    projector: Projector | None
    inspector: Inspector | None
    latencies: Latencies | None
    aggregates: "Mapping[str, type[Aggregate]]"
    clock: Clock

    def aggregate_of(self, stream: str) -> "type[Aggregate] | None":
        """Return the class of the longest prefix that ``stream`` begins with; None where there is none."""
        prefixes = [prefix for prefix in self.aggregates if stream.startswith(prefix)]
        return self.aggregates[max(prefixes, key=len)] if prefixes else None
