"""Kafka keeps dead letters as the contract asks, beside a bus in memory or for one on Kafka."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from avx_events import DeadLetterQueue
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.dead_letters import Claim
from avx_events.distributed.kafka.names import Names
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.wire import Servers
from avx_events.testing import DurableDeadLetterStoreContract
from avx_events.testing.dead_letter_store_contract import a_letter
from avx_events.testing.own_loop import on_its_own_loop

pytestmark = pytest.mark.live


class TestKafkaDeadLetters(DurableDeadLetterStoreContract):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, kafka_url: str) -> None:
        self.place, self.namespace = kafka_url, f"letters-{uuid4().hex}"

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await DeadLetterQueue.connect(f"{self.place}?namespace={self.namespace}", **options)

    @on_its_own_loop
    async def test_a_claim_that_nobody_renews_ends_and_not_before(self, tmp_path: Path) -> None:
        # The broker's clock says when a claim is over. It is nobody's to move, so how long the claim lasts is.
        async with await self.connect(tmp_path) as dead, await self.connect(tmp_path) as other:
            await dead.add(a_letter(1))
            assert await dead.claim("letter-0001")
            await self.leave(10)
            assert await other.claim("letter-0001") is None
            await self.leave(0)
            assert await other.claim("letter-0001") is not None

            # It was not dead after all. What it does now does not take the letter away from who has it.
            await dead.add(a_letter(1, redrives=1))
            await dead.release("letter-0001")
            assert (await other.get("letter-0001")).redrives == 1
            assert await dead.claim("letter-0001") is None

    async def leave(self, for_s: float) -> None:
        """Let the claim last so much longer from now on."""
        cluster = Cluster(Servers(self.place, {}), timeout_s=10, clock=SYSTEM_CLOCK)
        publisher = Publisher(cluster, clock=SYSTEM_CLOCK)
        topic, key = Names(self.namespace).letters, b"claim:letter-0001"
        await cluster.refresh(topic)
        asked = requests.fetch(topic, {0: 0}, wait_s=0, most_bytes=1 << 20)
        answer = await cluster.ask(cluster.leaders(topic)[0], asked)
        records = [record for _, found in requests.records_in(requests.fetched(answer)[0].data) for record in found]
        claim = msgspec.json.decode(next(record.value or b"" for record in records if record.key == key), type=Claim)
        value = msgspec.json.encode(Claim(claim.holder, for_s))
        await publisher.submit(topic, 0, event_type="claim", key=key, value=value, headers=())
        await publisher.close()
        await cluster.close()
