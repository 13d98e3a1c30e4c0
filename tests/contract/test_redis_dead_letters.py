"""Redis keeps dead letters as the contract asks, beside a bus in memory or for one on Redis."""

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.contract.letters_in_brokers import LettersInBroker

pytestmark = pytest.mark.live


class TestRedisDeadLetters(LettersInBroker):
    """A namespace for each test."""

    @pytest.fixture(autouse=True)
    def at(self, redis_url: str) -> None:
        self.be_at(redis_url)

    async def pass_by(self, for_s: float) -> None:
        claims = f"{self.namespace}:letters:claims"
        async with Redis.from_url(self.place, decode_responses=True) as redis:  # pyright: ignore[reportUnknownMemberType]
            held: dict[Any, Any] = await redis.hgetall(claims)
            for letter_id, claim in held.items():
                holder, ends_ms = claim.split(" ")
                await redis.hset(claims, letter_id, f"{holder} {int(ends_ms) - int(for_s * 1000)}")
