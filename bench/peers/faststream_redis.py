"""FastStream on Redis Streams, as its pages on streams and consumer groups show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default. Left as it comes: pydantic models, one
worker, messages acknowledged one by one after the handler. Its batch subscribers and its publishing with a redis-py
pipeline are left out, as ours publishes and handles one event at a time, too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.redis import RedisBroker, StreamSub

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.peers.faststream_models import OrderPlaced, nothing_more, order_placed

STREAM: Final = "orders"


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with RedisBroker(url, logger=None) as broker:

        async def one(number: int) -> None:
            await broker.publish(order_placed(number), stream=STREAM)

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    async with RedisBroker(url, logger=None) as broker:

        @broker.subscriber(stream=StreamSub(STREAM, group="bench", consumer="one"))
        async def handle(event: OrderPlaced) -> None:
            take(event.number, event.sent_at_ns)

        await broker.start()
        yield nothing_more
