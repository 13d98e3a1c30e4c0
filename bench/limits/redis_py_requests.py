"""The raw client, redis-py with hiredis: requests in a list that responders share, replies on a channel of the caller.

It is the least that a program does which speaks to Redis by itself. Requests that come while others are being sent go
out together, in one ``RPUSH``; a responder takes up to a hundred at once, and answers them in one pipeline. Nobody
learns that no one responds, and a request outlives its deadline.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

from bench.brokers import TASKS
from bench.remote_requests import DEADLINE_S, EMAIL, Ask
from bench.workload import UserView

REQUESTS: Final = "users"
BLOCK_S: Final = 1


class Asked(msgspec.Struct, array_like=True, gc=False):
    number: int
    inbox: str
    user_id: str


class Answered(msgspec.Struct, array_like=True, gc=False):
    number: int
    view: UserView


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Asked).decode
decode_reply = msgspec.json.Decoder(Answered).decode


class Caller:
    """Sends what is asked, and tells whoever waits what was answered."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._inbox = uuid4().hex
        self._asked = 0
        self._unsent: list[bytes] = []
        self._waiting: dict[int, asyncio.Future[UserView]] = {}
        self._has_unsent = asyncio.Event()

    async def ask(self, user_id: str) -> UserView:
        self._asked = number = self._asked + 1
        reply: asyncio.Future[UserView] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        self._unsent.append(encode(Asked(number, self._inbox, user_id)))
        self._has_unsent.set()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await reply
        finally:
            del self._waiting[number]

    async def send(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            requests, self._unsent = self._unsent, []
            await self._client.rpush(REQUESTS, *requests)

    async def receive(self, is_listening: asyncio.Event) -> None:
        async with self._client.pubsub() as inbox:
            await inbox.subscribe(self._inbox)
            async for message in inbox.listen():
                if message["type"] == "subscribe":
                    is_listening.set()
                    continue
                answered = decode_reply(message["data"])
                reply = self._waiting.get(answered.number)
                if reply is not None:
                    reply.set_result(answered.view)


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Ask, None]:
    is_listening = asyncio.Event()
    async with Redis.from_url(url, protocol=2) as client, asyncio.TaskGroup() as running:
        caller = Caller(client)
        tasks = [running.create_task(caller.send()), running.create_task(caller.receive(is_listening))]
        await is_listening.wait()
        yield caller.ask
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def answering(url: str) -> AsyncGenerator[None, None]:
    async def get_user(user_id: str) -> UserView:
        return UserView(user_id, EMAIL)

    async def answer(client: Redis) -> None:
        while True:
            taken: Any = await client.blmpop(BLOCK_S, 1, REQUESTS, direction="LEFT", count=TASKS)
            if taken is None:
                continue
            replies = client.pipeline(transaction=False)
            for request in map(decode_request, taken[1]):
                view = await get_user(request.user_id)
                replies.publish(request.inbox, encode(Answered(request.number, view)))
            await replies.execute()

    async with Redis.from_url(url, protocol=2) as client, asyncio.TaskGroup() as running:
        responder = running.create_task(answer(client))
        yield
        responder.cancel()
