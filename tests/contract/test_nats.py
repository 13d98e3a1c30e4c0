"""NATS JetStream keeps what its contracts promise: they are the class line of its test."""

from typing import Any

import nats
import pytest

from avx_events import EventBus, RequestReplyBus, TopicBus
from avx_events.distributed.nats.names import lane_of
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


class OnNats:
    @pytest.fixture(autouse=True)
    def at(self, nats_url: str) -> None:
        self.url = nats_url

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return await TopicBus.connect(self.url, namespace=namespace, **options)


class TestNatsRequests(OnNats, SharedRequestContract):
    """Requests and replies over NATS itself."""

    async def connect_requests(self, namespace: str, **options: Any) -> RequestReplyBus:
        return await RequestReplyBus.connect(self.url, namespace=namespace, **options)


class TestNatsBroadcast(
    OnNats,
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


class TestNatsGroup(
    OnNats,
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
        untyped: Any = nats
        async with await untyped.connect(self.url) as client:
            await client.jetstream().publish(f"{namespace}.log.16.{lane_of('a', 16)}", document)
