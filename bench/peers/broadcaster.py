"""broadcaster, as its README shows it: a channel, ``publish``, and ``async for`` over a subscription."""

import asyncio
from contextlib import AsyncExitStack
from time import perf_counter

from broadcaster import Broadcast

from bench.rounds import Opening, each_round
from bench.workload import PlainUserCreated, per_second, read


def _to(subscribers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        async with Broadcast("memory://") as broadcast, AsyncExitStack() as subscriptions:
            channels = [
                await subscriptions.enter_async_context(broadcast.subscribe("users")) for _ in range(subscribers)
            ]
            started = perf_counter()
            async with asyncio.TaskGroup() as readers:
                for channel in channels:
                    readers.create_task(read(channel, count))  # type: ignore[arg-type]  # its __aiter__ is annotated as optional
                for _ in range(count):
                    await broadcast.publish("users", PlainUserCreated("123", "user@example.com", "John Doe"))
            return per_second(count, started)

    return measure


to_one = _to(1)
to_three = _to(3)
