"""The raw client, nats-py, as its pages on requests show it: ``request``, and a queue subscription that responds."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.remote_requests import DEADLINE_S, EMAIL, Ask
from bench.workload import PlainGetUser, UserView

SUBJECT: Final = "users"
RESPONDERS: Final = "responders"

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(PlainGetUser).decode
decode_reply = msgspec.json.Decoder(UserView).decode


@asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Client, None]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Ask, None]:
    async with _client(url) as client:

        async def ask(user_id: str) -> UserView:
            reply = await client.request(SUBJECT, encode(PlainGetUser(user_id)), timeout=DEADLINE_S)
            return decode_reply(reply.data)

        yield ask


@asynccontextmanager
async def answering(url: str) -> AsyncGenerator[None, None]:
    async def get_user(request: PlainGetUser) -> UserView:
        return UserView(request.user_id, EMAIL)

    async def answer(message: Msg) -> None:
        await message.respond(encode(await get_user(decode_request(message.data))))

    async with _client(url) as client:
        await client.subscribe(SUBJECT, RESPONDERS, answer)
        await client.flush()
        yield
