"""Ours, through whatever broker a URL names, with everything as it comes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from avx_events import EventBus, RequestReplyBus
from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.orders import OrderPlaced, order
from bench.remote_requests import EMAIL, Ask
from bench.workload import GetUser, UserView


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


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Ask, None]:
    async with await RequestReplyBus.connect(url) as bus:

        async def ask(user_id: str) -> UserView:
            return await bus.request(GetUser(user_id))

        yield ask


@asynccontextmanager
async def answering(url: str) -> AsyncGenerator[None, None]:
    bus = await RequestReplyBus.connect(url)

    @bus.respond(GetUser)
    async def get_user(request: GetUser) -> UserView:
        return UserView(request.user_id, EMAIL)

    async with bus:
        yield
