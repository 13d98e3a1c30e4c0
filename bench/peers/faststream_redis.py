"""FastStream on Redis Streams, as its pages on streams and consumer groups show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default. Left as it comes: pydantic models, one
worker, messages acknowledged one by one after the handler. Its batch subscribers and its publishing with a redis-py
pipeline are left out, as ours publishes and handles one event at a time, too. Requests go as its pages on RPC show.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.redis import RedisBroker, StreamSub

from bench.brokers import TASKS, Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.peers.faststream_models import GetUser, OrderPlaced, User, nothing_more, order_placed, user_view
from bench.remote_requests import DEADLINE_S, EMAIL, Ask
from bench.workload import UserView

STREAM: Final = "orders"
REQUESTS: Final = "users"
CONNECTIONS: Final = 3 * TASKS
"""A request takes two of its own while it is answered; by default there are a hundred."""


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


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Ask, None]:
    async with RedisBroker(f"{url}?max_connections={CONNECTIONS}", logger=None) as broker:
        await broker.start()

        async def ask(user_id: str) -> UserView:
            reply = await broker.request(GetUser(user_id=user_id), REQUESTS, timeout=DEADLINE_S)
            return user_view(await reply.decode())

        yield ask


@asynccontextmanager
async def answering(url: str) -> AsyncGenerator[None, None]:
    async with RedisBroker(url, logger=None) as broker:

        @broker.subscriber(REQUESTS)
        async def get_user(request: GetUser) -> User:
            return User(user_id=request.user_id, email=EMAIL)

        await broker.start()
        yield
