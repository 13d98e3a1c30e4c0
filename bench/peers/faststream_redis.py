"""FastStream on Redis Streams, as its pages on streams and consumer groups show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default. Left as it comes: pydantic models (its
msgspec serializer is no faster), one worker, messages acknowledged one by one after the handler. Its batch subscribers
and its publishing with a redis-py pipeline are left out, as ours publishes and handles one event at a time, too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.redis import RedisBroker, StreamSub
from pydantic import BaseModel

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.orders import order

STREAM: Final = "orders"


class OrderPlaced(BaseModel):
    number: int
    order_id: str
    sent_at_ns: int
    note: str


def order_placed(number: int) -> OrderPlaced:
    number, order_id, sent_at_ns, note = order(number)
    return OrderPlaced(number=number, order_id=order_id, sent_at_ns=sent_at_ns, note=note)


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
        yield _nothing_more


async def _nothing_more() -> None:
    """Return at once: all but the last event are acknowledged before the next one is handled."""
