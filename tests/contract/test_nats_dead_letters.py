"""NATS keeps dead letters as the contract asks, beside a bus in memory or for one on NATS."""

from typing import Any

import msgspec
import nats
import pytest

from avx_events.distributed.nats.dead_letters import Claim
from avx_events.distributed.nats.names import Names
from tests.contract.letters_in_brokers import LettersInBroker

pytestmark = pytest.mark.live


class TestNatsDeadLetters(LettersInBroker):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, nats_url: str) -> None:
        self.be_at(nats_url)

    async def pass_by(self, for_s: float) -> None:
        untyped: Any = nats
        subject = Names(self.namespace, lanes=0).claim("letter-0001")
        async with await untyped.connect(self.place) as client:
            bucket = await client.jetstream().key_value(f"{self.namespace}-claims")
            entry = await bucket.get(subject.rpartition(".")[2])
            claim = msgspec.json.decode(entry.value, type=Claim)
            claim.life_s -= for_s
            await bucket.put(entry.key, msgspec.json.encode(claim))
