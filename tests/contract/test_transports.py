"""Every transport keeps what its contracts promise: they are the class line of its test."""

from typing import Any

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.bus.topic_bus import TopicBus
from avx_events.testing import (
    BackPressureContract,
    DeadLetterContract,
    GracefulStopContract,
    InProcessContract,
    KeyOrderContract,
    OwnKeyContract,
    RequestReplyContract,
    TopicContract,
    TransportContract,
)


class TestMemory(
    TransportContract,
    KeyOrderContract,
    OwnKeyContract,
    DeadLetterContract,
    BackPressureContract,
    GracefulStopContract,
    InProcessContract,
    TopicContract,
    RequestReplyContract,
):
    """Queues of this process."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return EventBus(dead_letter_queue=DeadLetterQueue(), **options)

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return TopicBus(**options)

    async def connect_requests(self, namespace: str, **options: Any) -> RequestReplyBus:
        return RequestReplyBus(**options)


class TestMemoryWithLettersInSqlite(DeadLetterContract, GracefulStopContract):
    """Queues of this process, whose dead letters are in a database."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return EventBus(dead_letter_queue=await DeadLetterQueue.connect("sqlite://"), **options)
