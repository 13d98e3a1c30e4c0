"""The raw client, redis-py with hiredis: pipelines of a hundred, and up to 500 events a read, acknowledged together.

It is the least that a program does which speaks to Redis by itself: one stream, events written and read by msgspec,
no metadata, no retry, and what fails is lost.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from bench.brokers import TASKS, Publisher
from bench.consumer import Settled, Take
from bench.orders import PlainOrderPlaced, order

STREAM: Final = "orders"
GROUP: Final = "bench"
MOST_AT_ONCE: Final = 500
BLOCK_MS: Final = 1_000

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(PlainOrderPlaced).decode


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with Redis.from_url(url, protocol=2) as client:

        async def one(number: int) -> None:
            await client.xadd(STREAM, {"event": encode(PlainOrderPlaced(*order(number)))})

        async def many(numbers: range) -> None:
            for first in range(0, len(numbers), TASKS):
                pipeline = client.pipeline(transaction=False)
                for number in numbers[first : first + TASKS]:
                    pipeline.xadd(STREAM, {"event": encode(PlainOrderPlaced(*order(number)))})
                await pipeline.execute()

        yield Publisher(one, many)


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    acknowledged = asyncio.Event()

    async def handle(event: PlainOrderPlaced) -> None:
        take(event.number, event.sent_at_ns)

    async def read(client: Redis) -> None:
        while True:
            reply: Any = await client.xreadgroup(GROUP, "one", {STREAM: ">"}, count=MOST_AT_ONCE, block=BLOCK_MS)
            acknowledged.clear()
            for _, entries in reply:
                for _, fields in entries:
                    await handle(decode(fields[b"event"]))
                await client.xack(STREAM, GROUP, *(entry for entry, _ in entries))
            acknowledged.set()

    async with Redis.from_url(url, protocol=2) as client, asyncio.TaskGroup() as reading:
        await client.xgroup_create(STREAM, GROUP, "$", mkstream=True)
        reader = reading.create_task(read(client))
        yield acknowledged.wait
        reader.cancel()
