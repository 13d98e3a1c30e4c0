"""The raw client, nats-py: a hundred publishes to JetStream outstanding, up to 500 events a fetch, each acknowledged.

It is the least that a program does which speaks to NATS by itself: one stream, events written and read by msgspec, no
metadata, no retry, and what fails is lost. An acknowledgement is sent and not waited for, as nats-py does by default.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import nats
from nats.js import JetStreamContext

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.orders import PlainOrderPlaced, order

SUBJECT: Final = "orders"
GROUP: Final = "bench"
MOST_AT_ONCE: Final = 500
FETCH_S: Final = 1.0

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(PlainOrderPlaced).decode


@asynccontextmanager
async def _stream(url: str) -> AsyncGenerator[JetStreamContext, None]:
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        await stream.add_stream(name=SUBJECT, subjects=[SUBJECT])
        yield stream
    finally:
        await client.close()


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with _stream(url) as stream:

        async def one(number: int) -> None:
            await stream.publish(SUBJECT, encode(PlainOrderPlaced(*order(number))))

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    async def handle(event: PlainOrderPlaced) -> None:
        take(event.number, event.sent_at_ns)

    async def read(subscription: JetStreamContext.PullSubscription) -> None:
        while True:
            with suppress(TimeoutError):
                for message in await subscription.fetch(MOST_AT_ONCE, timeout=FETCH_S):
                    await handle(decode(message.data))
                    await message.ack()

    async with _stream(url) as stream, asyncio.TaskGroup() as reading:
        reader = reading.create_task(read(await stream.pull_subscribe(SUBJECT, durable=GROUP)))
        yield _acknowledged
        reader.cancel()


async def _acknowledged() -> None:
    """Return at once: all but the last event were acknowledged before the next one was handled."""
