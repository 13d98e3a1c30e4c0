"""A member reads no lane that another one holds by now, though nobody has told it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from avx_events.bus.remote.ports import Consumer, Incoming, Lane, Outgoing, Source, TransportOptions
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.distributed.redis.transport import RedisTransport, connect
from avx_events.testing.own_loop import interrupted

pytestmark = pytest.mark.live

FAR_AHEAD_MS = 10**13


class Given:
    """What a bus would do about lanes."""

    def __init__(self) -> None:
        self.lost: list[Lane] = []

    def lose(self, lane: Lane) -> None:
        self.lost.append(lane)

    async def give_up(self, lane: Lane) -> None:
        del lane


@pytest.fixture
def namespace() -> str:
    return f"fence-{uuid4().hex}"


@pytest.fixture
async def transport(redis_url: str, namespace: str) -> AsyncIterator[RedisTransport]:
    options = TransportOptions(namespace=namespace, partitions=2)
    transport = await connect(redis_url, options, clock=SYSTEM_CLOCK)
    yield transport
    await transport.close()


@pytest.fixture
async def source(transport: RedisTransport) -> AsyncIterator[Source]:
    source = await transport.source(Consumer(name="handler", group="g", start="earliest"), Given())
    yield source
    await source.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:  # pyright: ignore[reportUnknownMemberType]
        yield client


def event(number: int) -> Outgoing:
    return Outgoing("a", "a", f"key-{number}", b"%d" % number, str(number))


async def some(source: Source, count: int) -> list[Incoming]:
    received: list[Incoming] = []
    async with asyncio.timeout(10):
        while len(received) < count:
            received += await source.fetch(100)
    return received


async def transactions(redis: Any) -> int:
    statistics = await redis.info("commandstats")
    return int(statistics.get("cmdstat_exec", {"calls": 0})["calls"])


async def give_all_lanes_to_another(redis: Any, namespace: str) -> None:
    consumer = f"{namespace}:consumer:g:handler"
    async with redis.pipeline(transaction=True) as together:
        together.zadd(f"{consumer}:members", {"another": FAR_AHEAD_MS})
        together.hset(f"{consumer}:owners", mapping={"0": "another", "1": "another"})
        for lane in range(2):
            together.xadd(f"{namespace}:log:{lane}", {"event": "unread"})
        await together.execute()


async def test_a_lane_that_was_taken_away_is_not_read(
    transport: RedisTransport, source: Source, redis: Any, namespace: str
) -> None:
    for number in range(10):
        await transport.submit(event(number))
    received = await some(source, 10)
    before = await transactions(redis)
    await transport.submit(event(10))
    received += await some(source, 1)  # by now it only looks for what is new
    assert await transactions(redis) > before
    lanes = {incoming.lane.number: incoming.lane for incoming in received if incoming.lane is not None}

    await give_all_lanes_to_another(redis, namespace)

    async with asyncio.timeout(10):
        while not all(lane.is_lost for lane in lanes.values()):
            assert await source.fetch(100) == []
    for lane in range(2):
        assert (await redis.xpending(f"{namespace}:log:{lane}", "g:handler"))["pending"] <= len(received)
        groups = await redis.xinfo_groups(f"{namespace}:log:{lane}")
        assert [group["lag"] for group in groups] == [1]


async def test_what_a_lost_connection_may_have_read_comes_again(
    transport: RedisTransport, source: Source, redis: Any, namespace: str
) -> None:
    await transport.submit(event(1))
    await some(source, 1)
    await transport.submit(event(2))
    await some(source, 1)

    await redis.client_kill_filter(_type="normal", skipme=True)
    await redis.xadd(f"{namespace}:log:0", {"event": "3"})

    assert [incoming.document for incoming in await some(source, 1)] == [b"3"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_read_that_is_cancelled_loses_nothing(transport: RedisTransport, source: Source, turns: int) -> None:
    received = 0
    for number in range(20):
        await transport.submit(event(number))
        received += len(await interrupted(source.fetch(100), after_turns=turns) or ())

    assert len(await some(source, 20 - received)) == 20 - received
