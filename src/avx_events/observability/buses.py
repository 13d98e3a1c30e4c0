"""What can be observed."""

from typing import TypeAlias

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import InvalidArgumentError

ObservedBus: TypeAlias = DeliveringBus | RequestReplyBus


def check_bus(bus: object, *, kinds: tuple[type, ...] = (DeliveringBus, RequestReplyBus)) -> None:
    """Refuse what is no bus of ``kinds``.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(bus, kinds):
        also = ", or a RequestReplyBus" if RequestReplyBus in kinds else ""
        raise InvalidArgumentError("bus", bus, expected=f"an EventBus or a TopicBus{also}")
