"""What can be observed, and in which steps it is measured."""

from typing import Final, TypeAlias

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.request_reply import RequestReplyBus

BOUNDS_S: Final = (
    *(1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of histograms, in seconds: a handler in memory takes microseconds, one that calls others seconds."""

ObservedBus: TypeAlias = DeliveringBus | RequestReplyBus
