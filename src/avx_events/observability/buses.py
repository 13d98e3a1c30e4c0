"""What can be observed, and in which steps it is measured."""

from typing import Final, TypeAlias

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import InvalidArgumentError

BOUNDS_S: Final = (
    *(1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of histograms, in seconds: a handler in memory takes microseconds, one that calls others seconds."""

ObservedBus: TypeAlias = DeliveringBus | RequestReplyBus


def check_bus(bus: object, *, kinds: tuple[type, ...] = (DeliveringBus, RequestReplyBus)) -> None:
    """Refuse what is no bus of ``kinds``.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(bus, kinds):
        also = ", or a RequestReplyBus" if RequestReplyBus in kinds else ""
        raise InvalidArgumentError("bus", bus, expected=f"an EventBus or a TopicBus{also}")
