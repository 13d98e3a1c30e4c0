"""Redis Streams keeps what its contracts promise: they are the class line of its test."""

from typing import Any

import pytest
from redis.asyncio import Redis

from avx_events import EventBus, RequestReplyBus, TopicBus
from avx_events.distributed.redis.names import lane_of
from avx_events.testing import (
    ContentModeContract,
    DeadLetterContract,
    GracefulStopContract,
    GroupContract,
    HostileBytesContract,
    InFlightContract,
    KeyOrderContract,
    OwnKeyContract,
    SharedRequestContract,
    TopicContract,
    TransportContract,
)

pytestmark = pytest.mark.live


class OnRedis:
    @pytest.fixture(autouse=True)
    def at(self, redis_url: str) -> None:
        self.url = redis_url

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return await TopicBus.connect(self.url, namespace=namespace, **options)


class TestRedisRequests(OnRedis, SharedRequestContract):
    """Requests and replies over channels."""

    async def connect_requests(self, namespace: str, **options: Any) -> RequestReplyBus:
        return await RequestReplyBus.connect(self.url, namespace=namespace, **options)


class TestRedisBroadcast(
    OnRedis,
    TransportContract,
    KeyOrderContract,
    OwnKeyContract,
    DeadLetterContract,
    GracefulStopContract,
    ContentModeContract,
    TopicContract,
):
    """Every listener gets everything."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return await EventBus.connect(self.url, namespace=namespace, **options)


class TestRedisGroup(
    OnRedis,
    GroupContract,
    HostileBytesContract,
    InFlightContract,
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    GracefulStopContract,
    TopicContract,
):
    """Members of a group share the events."""

    async def connect(self, namespace: str, *, group: str = "contract", **options: Any) -> EventBus:
        return await EventBus.connect(self.url, namespace=namespace, group=group, **options)

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return await super().connect_topics(namespace, group="contract", **options)

    async def publish_raw(self, namespace: str, document: bytes) -> None:
        async with Redis.from_url(self.url) as redis:  # pyright: ignore[reportUnknownMemberType]
            await redis.xadd(f"{namespace}:log:{lane_of('a', 16)}", {"event": document})
