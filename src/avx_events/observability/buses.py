"""What can be observed."""

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.core.errors import InvalidArgumentError


def check_bus(bus: object) -> None:
    """Refuse what is no bus that delivers.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(bus, DeliveringBus):
        raise InvalidArgumentError("bus", bus, expected="an EventBus or a TopicBus")
