"""Kafka keeps what its contracts promise: they are the class line of its test."""

from typing import Any, Final

import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.names import Names, lane_of
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.wire import Servers
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

PARTITIONS: Final = 4
"""Each test makes a topic of its own, and a topic takes as long as it has partitions."""

SOON: Final[dict[str, Any]] = {"partitions": PARTITIONS, "heartbeat_interval_ms": 100}


class OnKafka(OnBroker):
    options = SOON

    @pytest.fixture(autouse=True)
    def at(self, kafka_url: str) -> None:
        self.url = kafka_url


class TestKafkaRequests(OnKafka, Requesters, SharedRequestContract):
    """Requests and replies in a topic that all read."""


class TestKafkaBroadcast(
    OnKafka,
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


class TestKafkaGroup(
    OnKafka,
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
        cluster = Cluster(Servers(self.url, {}), timeout_s=10, clock=SYSTEM_CLOCK)
        publisher = Publisher(cluster, clock=SYSTEM_CLOCK)
        topic = Names(namespace).log
        await cluster.refresh(topic)
        lane = lane_of(b"a", PARTITIONS)
        await publisher.submit(topic, lane, event_type="raw", key=b"a", value=document, headers=())
        await publisher.close()
        await cluster.close()
