"""How fast do events get from ``publish_many`` to ``recv_many``, a hundred at a time?"""

import asyncio
from time import perf_counter

from avx_events import EventBus
from avx_events.bus.subscriber import Subscriber
from bench.limits.bus import LimitBus, LimitSubscription
from bench.rounds import Comparison, Contender, Target, each_round
from bench.workload import CAPACITY, PlainUserCreated, UserCreated, per_second

BATCH = 100


async def read_batches(subscriber: Subscriber[UserCreated], count: int) -> None:
    received = 0
    while received < count:
        received += len(await subscriber.recv_many(CAPACITY))
    assert received == count


async def read_limit_batches(subscription: LimitSubscription, count: int) -> None:
    received = 0
    while received < count:
        received += len(await subscription.recv_many())
    assert received == count


@each_round
async def with_avx(count: int) -> float:
    batches = -(-count // BATCH)
    async with EventBus() as bus:
        subscriber = await bus.subscribe(UserCreated, capacity=CAPACITY)
        started = perf_counter()
        async with asyncio.TaskGroup() as readers:
            readers.create_task(read_batches(subscriber, batches * BATCH))
            for _ in range(batches):
                await bus.publish_many([UserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)])
        return per_second(batches * BATCH, started)


@each_round
async def at_the_limit(count: int) -> float:
    batches = -(-count // BATCH)
    bus = LimitBus()
    subscription = bus.subscribe(PlainUserCreated)
    started = perf_counter()
    async with asyncio.TaskGroup() as readers:
        readers.create_task(read_limit_batches(subscription, batches * BATCH))
        for _ in range(batches):
            await bus.publish_many([PlainUserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)])
    return per_second(batches * BATCH, started)


COMPARISONS = (
    Comparison(
        "`publish_many` of 100 → `recv_many`",
        "events/s",
        (
            Contender("avx-events", with_avx, 300_000),
            Contender("limit: one extend a batch", at_the_limit, 500_000),
        ),
        (Target("limit: one extend a batch", at_least=0.70),),
    ),
)
