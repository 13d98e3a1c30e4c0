"""How fast does an event get from ``publish`` to an ``async for``, one by one?"""

import asyncio
from time import perf_counter

from avx_events import EventBus
from bench.limits.bus import LimitBus
from bench.rounds import Comparison, Contender, Opening, Target, each_round, peer
from bench.workload import CAPACITY, PlainUserCreated, UserCreated, per_second, read


def with_avx(subscribers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        async with EventBus() as bus:
            started = perf_counter()
            async with asyncio.TaskGroup() as readers:
                for _ in range(subscribers):
                    readers.create_task(read(await bus.subscribe(UserCreated, capacity=CAPACITY), count))
                for _ in range(count):
                    await bus.publish(UserCreated("123", "user@example.com", "John Doe"))
            return per_second(count, started)

    return measure


def at_the_limit(subscribers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        bus = LimitBus()
        started = perf_counter()
        async with asyncio.TaskGroup() as readers:
            for _ in range(subscribers):
                readers.create_task(read(bus.subscribe(PlainUserCreated), count))
            for _ in range(count):
                await bus.publish(PlainUserCreated("123", "user@example.com", "John Doe"))
        return per_second(count, started)

    return measure


COMPARISONS = (
    Comparison(
        "publish one by one, all metadata → one `async for` subscriber",
        "events/s",
        (
            Contender("avx-events", with_avx(1), 100_000),
            Contender("limit: deque, waiter, envelope", at_the_limit(1), 150_000),
            Contender("broadcaster, memory://", peer("bench.peers.broadcaster:to_one"), 50_000, package="broadcaster"),
        ),
        (
            Target("limit: deque, waiter, envelope", at_least=0.75),
            Target("broadcaster, memory://", at_least=2.5),
            Target(100_000.0, at_least=15.0, name="the original's published figure"),
        ),
    ),
    Comparison(
        "publish one by one, all metadata → three `async for` subscribers",
        "events/s",
        (
            Contender("avx-events", with_avx(3), 60_000),
            Contender("limit: deque, waiter, envelope", at_the_limit(3), 100_000),
            Contender(
                "broadcaster, memory://", peer("bench.peers.broadcaster:to_three"), 30_000, package="broadcaster"
            ),
        ),
        (Target("limit: deque, waiter, envelope", at_least=0.75),),
    ),
)
