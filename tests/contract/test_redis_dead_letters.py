"""Redis keeps dead letters as the contract asks, beside a bus in memory or for one on Redis."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from avx_events import DeadLetterQueue
from avx_events.testing import DurableDeadLetterStoreContract
from avx_events.testing.dead_letter_store_contract import a_letter
from avx_events.testing.own_loop import on_its_own_loop

pytestmark = pytest.mark.live


class TestRedisDeadLetters(DurableDeadLetterStoreContract):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, redis_url: str) -> None:
        self.place, self.namespace = redis_url, f"letters-{uuid4().hex}"

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await DeadLetterQueue.connect(f"{self.place}?namespace={self.namespace}", **options)

    @on_its_own_loop
    async def test_a_claim_that_nobody_renews_ends_and_not_before(self, tmp_path: Path) -> None:
        # The server's clock says when a claim is over. It is nobody's to move, so the claim's end is.
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
        """Let the claims be so much nearer to their end."""
        claims = f"{self.namespace}:letters:claims"
        async with Redis.from_url(self.place, decode_responses=True) as redis:  # pyright: ignore[reportUnknownMemberType]
            held: dict[Any, Any] = await redis.hgetall(claims)
            for letter_id, claim in held.items():
                holder, ends_ms = claim.split(" ")
                await redis.hset(claims, letter_id, f"{holder} {int(ends_ms) - int(for_s * 1000)}")
