"""NATS keeps dead letters as the contract asks, beside a bus in memory or for one on NATS."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import nats
import pytest

from avx_events import DeadLetterQueue
from avx_events.distributed.nats.dead_letters import Claim
from avx_events.distributed.nats.names import Names
from avx_events.testing import DurableDeadLetterStoreContract
from avx_events.testing.dead_letter_store_contract import a_letter
from avx_events.testing.own_loop import on_its_own_loop

pytestmark = pytest.mark.live


class TestNatsDeadLetters(DurableDeadLetterStoreContract):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, nats_url: str) -> None:
        self.place, self.namespace = nats_url, f"letters-{uuid4().hex}"

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await DeadLetterQueue.connect(f"{self.place}?namespace={self.namespace}", **options)

    @on_its_own_loop
    async def test_a_claim_that_nobody_renews_ends_and_not_before(self, tmp_path: Path) -> None:
        # The server's clock says when a claim is over. It is nobody's to move, so how long the claim lasts is.
        async with await self.connect(tmp_path) as dead, await self.connect(tmp_path) as other:
            await dead.add(a_letter(1))
            assert await dead.claim("letter-0001")
            await self.pass_by(self.lease_s - 10)
            assert await other.claim("letter-0001") is None
            await self.pass_by(10)
            assert await other.claim("letter-0001") is not None

            # It was not dead after all. What it does now does not take the letter away from who has it.
            await dead.add(a_letter(1, redrives=1))
            await dead.release("letter-0001")
            assert (await other.get("letter-0001")).redrives == 1
            assert await dead.claim("letter-0001") is None

    async def pass_by(self, for_s: float) -> None:
        """Let the claim be so much nearer to its end."""
        untyped: Any = nats
        subject = Names(self.namespace, lanes=0).claim("letter-0001")
        async with await untyped.connect(self.place) as client:
            bucket = await client.jetstream().key_value(f"{self.namespace}-claims")
            entry = await bucket.get(subject.rpartition(".")[2])
            claim = msgspec.json.decode(entry.value, type=Claim)
            claim.life_s -= for_s
            await bucket.put(entry.key, msgspec.json.encode(claim))
