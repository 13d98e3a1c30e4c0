"""NATS JetStream keeps what its contracts promise: they are the class line of its test."""

from typing import Any

import nats
import pytest

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
    RedriveRequestContract,
    SharedRequestContract,
    TopicContract,
    TransportContract,
)
from tests.contract.on_brokers import Listeners, Members, OnBroker, Requesters

pytestmark = pytest.mark.live


class OnNats(OnBroker):
    @pytest.fixture(autouse=True)
    def at(self, nats_url: str) -> None:
        self.url = nats_url


class TestNatsRequests(OnNats, Requesters, SharedRequestContract):
    """Requests and replies over NATS itself."""


class TestNatsBroadcast(
    OnNats,
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


class TestNatsGroup(
    OnNats,
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
        untyped: Any = nats
        async with await untyped.connect(self.url) as client:
            await client.jetstream().publish(f"{namespace}.log.16.{lane_of('a', 16)}", document)
