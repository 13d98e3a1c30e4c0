"""Ours, through whatever broker a URL names, with everything as it comes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from avx_events import EventBus
from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.orders import OrderPlaced, order


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with await EventBus.connect(url) as bus:

        async def one(number: int) -> None:
            await bus.publish(OrderPlaced(*order(number)))

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    bus = await EventBus.connect(url, group="bench")

    @bus.on(OrderPlaced, name="take")
    async def handle(event: OrderPlaced) -> None:
        take(event.number, event.sent_at_ns)

    async with bus:
        yield bus.settled
