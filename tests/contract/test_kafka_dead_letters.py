"""Kafka keeps dead letters as the contract asks, beside a bus in memory or for one on Kafka."""

import msgspec
import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.dead_letters import Claim
from avx_events.distributed.kafka.names import Names
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.wire import Servers
from tests.contract.letters_in_brokers import LettersInBroker

pytestmark = pytest.mark.live


class TestKafkaDeadLetters(LettersInBroker):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, kafka_url: str) -> None:
        self.be_at(kafka_url)

    async def pass_by(self, for_s: float) -> None:
        cluster = Cluster(Servers(self.place, {}), timeout_s=10, clock=SYSTEM_CLOCK)
        publisher = Publisher(cluster, clock=SYSTEM_CLOCK)
        topic, key = Names(self.namespace).letters, b"claim:letter-0001"
        await cluster.refresh(topic)
        asked = requests.fetch(topic, {0: 0}, wait_s=0, most_bytes=1 << 20)
        answer = await cluster.ask(cluster.leaders(topic)[0], asked)
        records = [record for _, found in requests.records_in(requests.fetched(answer)[0].data) for record in found]
        claims = [msgspec.json.decode(record.value or b"", type=Claim) for record in records if record.key == key]
        holder = claims[0].holder  # the others came too late
        left_s = [claim.seconds for claim in claims if claim.holder == holder][-1]
        value = msgspec.json.encode(Claim(holder, left_s - for_s))
        await publisher.submit(topic, 0, event_type="claim", key=key, value=value, headers=())
        await publisher.close()
        await cluster.close()
