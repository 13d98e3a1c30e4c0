"""FastStream on NATS JetStream, as its pages on pull subscribers show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default, and 100 messages a fetch instead of one,
each of which is a handler call, in a task, and an acknowledgement of its own. Left as it comes: pydantic models,
messages acknowledged one by one after the handler. Its batch subscribers are left out, as ours handles one event at a
time, too. Requests go as its pages on RPC show: a subscriber of the server itself that returns the reply.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.nats import JStream, NatsBroker, PullSub

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.peers.faststream_models import GetUser, OrderPlaced, User, nothing_more, order_placed, user_view
from bench.remote_requests import DEADLINE_S, EMAIL, Ask
from bench.workload import UserView

SUBJECT: Final = "orders"
REQUESTS: Final = "users"
MOST_AT_ONCE: Final = 100
ACCEPTED_WITHIN_S: Final = 5.0
"""As for nats-py; by default it gives up after half a second, which a busy machine takes now and then."""


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    async with NatsBroker(url, logger=None) as broker:
        publisher = broker.publisher(SUBJECT, stream=JStream(SUBJECT))
        await broker.start()

        async def one(number: int) -> None:
            await publisher.publish(order_placed(number), timeout=ACCEPTED_WITHIN_S)

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    async with NatsBroker(url, logger=None) as broker:

        @broker.subscriber(SUBJECT, stream=JStream(SUBJECT), durable="bench", pull_sub=PullSub(MOST_AT_ONCE))
        async def handle(event: OrderPlaced) -> None:
            take(event.number, event.sent_at_ns)

        await broker.start()
        yield nothing_more


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Ask, None]:
    async with NatsBroker(url, logger=None) as broker:
        await broker.start()

        async def ask(user_id: str) -> UserView:
            reply = await broker.request(GetUser(user_id=user_id), REQUESTS, timeout=DEADLINE_S)
            return user_view(await reply.decode())

        yield ask


@asynccontextmanager
async def answering(url: str) -> AsyncGenerator[None, None]:
    async with NatsBroker(url, logger=None) as broker:

        @broker.subscriber(REQUESTS, queue="responders")
        async def get_user(request: GetUser) -> User:
            return User(user_id=request.user_id, email=EMAIL)

        await broker.start()
        yield
