"""FastStream on NATS JetStream, as its pages on pull subscribers show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default, and 100 messages a fetch instead of one,
each of which is a handler call, in a task, and an acknowledgement of its own. Left as it comes: pydantic models,
messages acknowledged one by one after the handler. Its batch subscribers are left out, as ours handles one event at a
time, too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.nats import JStream, NatsBroker, PullSub

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.peers.faststream_models import OrderPlaced, nothing_more, order_placed

SUBJECT: Final = "orders"
MOST_AT_ONCE: Final = 100


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with NatsBroker(url, logger=None) as broker:
        publisher = broker.publisher(SUBJECT, stream=JStream(SUBJECT))
        await broker.start()

        async def one(number: int) -> None:
            await publisher.publish(order_placed(number))

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    async with NatsBroker(url, logger=None) as broker:

        @broker.subscriber(SUBJECT, stream=JStream(SUBJECT), durable="bench", pull_sub=PullSub(MOST_AT_ONCE))
        async def handle(event: OrderPlaced) -> None:
            take(event.number, event.sent_at_ns)

        await broker.start()
        yield nothing_more
