"""The brokers, each with a server that keeps nothing on disk, for all contenders alike."""

from typing import Any, Final

from redis.asyncio import Redis

from bench.brokers import Broker
from tests.servers.redis import redis_in


async def _stored_in_redis(url: str) -> int:
    async with Redis.from_url(url, protocol=2) as client:
        return sum([await client.xlen(stream) async for stream in client.scan_iter(_type="stream")])


async def _unacknowledged_in_redis(url: str) -> int:
    async with Redis.from_url(url, protocol=2) as client:
        groups: list[Any] = []
        async for stream in client.scan_iter(_type="stream"):
            groups += await client.xinfo_groups(stream)
        return sum(group["pending"] + group["lag"] for group in groups)


REDIS: Final = Broker("redis-server", redis_in, stored=_stored_in_redis, unacknowledged=_unacknowledged_in_redis)
"""Without persistence: ``--save ''``, no append-only file."""
