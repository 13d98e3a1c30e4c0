"""Does finding the subscriptions of a topic cost more where there are many that do not match?"""

import asyncio
import gc
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count as numbers
from time import perf_counter

from avx_events import TopicBus
from avx_events.core.topic import TopicTrie
from bench.rounds import Comparison, Contender, Opening, Round, Target
from bench.workload import CAPACITY, UserCreated, read

FEW, SOME, MANY = 10, 1_000, 100_000
MANY_SUBSCRIBERS = 10_000  # each with a queue of its own, so that making them takes longest
DISTINCT_TOPICS = 1_000


def pattern(number: int) -> str:
    return f"tenant-{number}.orders.*"


def topics(count: int, *, first: int = 0) -> list[str]:
    """Return topics that differ, each selected by one of the first ten patterns."""
    return [f"tenant-{number % FEW}.orders.{number}" for number in range(first, first + count)]


def filled_trie(subscriptions: int) -> TopicTrie[int]:
    trie: TopicTrie[int] = TopicTrie()
    gc.disable()  # it would look through all that grows here, again and again
    try:
        for number in range(subscriptions):
            trie.add(pattern(number), number)
    finally:
        gc.enable()
    return trie


def ns_a_match(match: Callable[[str], Sequence[int]], wanted: list[str]) -> float:
    started = perf_counter()
    for topic in wanted:
        match(topic)
    spent = perf_counter() - started
    assert match(wanted[-1]) == match(wanted[-1]) != ()
    return spent / len(wanted) * 1e9


def recurring(subscriptions: int) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        match = filled_trie(subscriptions).match
        wanted = (topics(min(count, DISTINCT_TOPICS)) * -(-count // DISTINCT_TOPICS))[:count]

        async def measure() -> float:
            return ns_a_match(match, wanted)

        yield measure

    return opening


def new_each_time(subscriptions: int) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        match = filled_trie(subscriptions).match
        rounds = numbers()

        async def measure() -> float:
            return ns_a_match(match, topics(count, first=next(rounds) * count))

        yield measure

    return opening


def a_regex_each(subscriptions: int) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        patterns = [
            (re.compile(pattern(number).replace(".", r"\.").replace("*", r"[^.]+")), number)
            for number in range(subscriptions)
        ]

        def match(topic: str) -> list[int]:
            return [number for compiled, number in patterns if compiled.fullmatch(topic)]

        async def measure() -> float:
            return ns_a_match(match, topics(count))

        yield measure

    return opening


def published(subscriptions: int) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        async with TopicBus() as bus:
            subscribers = [await bus.subscribe(pattern(number), capacity=CAPACITY) for number in range(subscriptions)]
            each = -(-count // FEW)
            wanted = topics(min(each * FEW, DISTINCT_TOPICS))

            async def measure() -> float:
                started = perf_counter()
                async with asyncio.TaskGroup() as readers:
                    for subscriber in subscribers[:FEW]:
                        readers.create_task(read(subscriber, each))
                    for number in range(each * FEW):
                        topic = wanted[number % len(wanted)]
                        await bus.publish_to(topic, UserCreated("123", "user@example.com", "John Doe"))
                return (perf_counter() - started) / (each * FEW) * 1e9

            yield measure

    return opening


OURS = f"avx-events, {MANY:,} subscriptions"
OURS_WITH_FEW = f"avx-events, {FEW} subscriptions"

COMPARISONS = (
    Comparison(
        "match a topic that comes again",
        "ns",
        (Contender(OURS, recurring(MANY), 500_000), Contender(OURS_WITH_FEW, recurring(FEW), 500_000)),
        (Target(OURS_WITH_FEW, at_most=2.0),),
    ),
    Comparison(
        "match a topic that was never seen",
        "ns",
        (
            Contender(OURS, new_each_time(MANY), 30_000),
            Contender(OURS_WITH_FEW, new_each_time(FEW), 30_000),
            Contender(f"one compiled regex each, {FEW} subscriptions", a_regex_each(FEW), 10_000),
            Contender(f"one compiled regex each, {SOME:,} subscriptions", a_regex_each(SOME), 200),
        ),
        (Target(OURS_WITH_FEW, at_most=2.0),),
    ),
    Comparison(
        "`publish_to` → the one subscriber of ten that reads the topic",
        "ns",
        (
            Contender(f"avx-events, {MANY_SUBSCRIBERS:,} subscriptions", published(MANY_SUBSCRIBERS), 50_000),
            Contender(OURS_WITH_FEW, published(FEW), 50_000),
        ),
        (Target(OURS_WITH_FEW, at_most=2.0),),
    ),
)
