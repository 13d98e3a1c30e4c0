"""How fast does an event get from ``publish`` to an ``async def`` handler, with retry and dead letters configured?"""

import asyncio
from time import perf_counter

from avx_events import DeadLetterQueue, EventBus, Retry
from bench.limits.bus import Envelope, LimitBus
from bench.rounds import Comparison, Contender, Target, each_round, peer
from bench.workload import CAPACITY, PlainUserCreated, UserCreated, per_second


@each_round
async def with_avx(count: int) -> float:
    handled = 0
    bus = EventBus(dead_letter_queue=DeadLetterQueue())

    @bus.on(UserCreated, retry=Retry(attempts=5, initial_s=0.1, max_s=30), capacity=CAPACITY)
    async def count_up(_: UserCreated) -> None:
        nonlocal handled
        handled += 1

    async with bus:
        started = perf_counter()
        for _ in range(count):
            await bus.publish(UserCreated("123", "user@example.com", "John Doe"))
        await bus.settled()
        speed = per_second(count, started)
    assert handled == count
    return speed


@each_round
async def at_the_limit(count: int) -> float:
    handled = 0

    async def count_up(_: Envelope) -> None:
        nonlocal handled
        handled += 1

    bus = LimitBus()
    subscription = bus.subscribe(PlainUserCreated)
    started = perf_counter()
    async with asyncio.TaskGroup() as handlers:
        handlers.create_task(subscription.handle(count_up, count))
        for _ in range(count):
            await bus.publish(PlainUserCreated("123", "user@example.com", "John Doe"))
    speed = per_second(count, started)
    assert handled == count
    return speed


COMPARISONS = (
    Comparison(
        "publish → `@bus.on` async handler, retry and dead letters configured",
        "events/s",
        (
            Contender("avx-events", with_avx, 60_000),
            Contender("limit: handler behind a queue", at_the_limit, 150_000),
            Contender("blinker, send_async (no queue)", peer("bench.peers.blinker:handled"), 60_000, package="blinker"),
            Contender("bubus", peer("bench.peers.bubus:handled"), 100, package="bubus"),
        ),
        (
            Target("limit: handler behind a queue", at_least=0.5),
            Target("bubus", at_least=500.0),
            Target("blinker, send_async (no queue)", at_least=1.0),
        ),
    ),
)
