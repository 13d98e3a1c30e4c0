"""Every transport keeps what its contracts promise: they are the class line of its test."""

from typing import Any

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.testing import (
    BackPressureContract,
    DeadLetterContract,
    GracefulStopContract,
    InProcessContract,
    KeyOrderContract,
    TransportContract,
)


class TestMemory(
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    BackPressureContract,
    GracefulStopContract,
    InProcessContract,
):
    """Queues of this process."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return EventBus(dead_letter_queue=DeadLetterQueue(), **options)
