"""Redis Streams keeps what its contracts promise: they are the class line of its test."""

import pytest
from redis.asyncio import Redis

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
    RedriveRequestContract,
    SharedRequestContract,
    TopicContract,
    TransportContract,
)
from tests.contract.on_brokers import Listeners, Members, OnBroker, Requesters

pytestmark = pytest.mark.live


class OnRedis(OnBroker):
    @pytest.fixture(autouse=True)
    def at(self, redis_url: str) -> None:
        self.url = redis_url


class TestRedisRequests(OnRedis, Requesters, SharedRequestContract):
    """Requests and replies over channels."""


class TestRedisBroadcast(
    OnRedis,
    Listeners,
    TransportContract,
    KeyOrderContract,
    OwnKeyContract,
    DeadLetterContract,
    GracefulStopContract,
    ContentModeContract,
    TopicContract,
):
    """Every listener gets everything."""


class TestRedisGroup(
    OnRedis,
    Members,
    GroupContract,
    RedriveRequestContract,
    HostileBytesContract,
    InFlightContract,
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    GracefulStopContract,
    TopicContract,
):
    """Members of a group share the events."""

    async def publish_raw(self, namespace: str, document: bytes) -> None:
        async with Redis.from_url(self.url) as redis:  # pyright: ignore[reportUnknownMemberType]
            await redis.xadd(f"{namespace}:log:{lane_of('a', 16)}", {"event": document})
