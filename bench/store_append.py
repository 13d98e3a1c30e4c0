"""How fast are events appended to a SQLite file, each durable before its ``append`` returns?"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from avx_events import EventStore
from bench.disk import folder_on_disk
from bench.limits.sqlite import LimitStore
from bench.rounds import Comparison, Contender, Opening, Target, each_round, peer
from bench.workload import PlainUserCreated, UserCreated, per_second

AppendOne = Callable[[str, int], Awaitable[object]]
"""Appends one event to a stream that is at a version."""


async def append_from(appenders: int, append: AppendOne, count: int) -> float:
    """Let each appender fill its own stream, one awaited event at a time."""
    each = -(-count // appenders)

    async def fill(stream: str) -> None:
        for version in range(each):
            await append(stream, version)

    started = perf_counter()
    async with asyncio.TaskGroup() as filling:
        for number in range(appenders):
            filling.create_task(fill(f"user-{number}"))
    return per_second(each * appenders, started)


def with_avx(appenders: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        with folder_on_disk() as folder:
            async with await EventStore.connect(f"sqlite:///{folder / 'events.db'}") as store:

                def append(stream: str, version: int) -> Awaitable[object]:
                    event = UserCreated("123", "user@example.com", "John Doe")
                    return store.append(stream, [event], expected_version=version)

                return await append_from(appenders, append, count)

    return measure


def at_the_limit(appenders: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        with folder_on_disk() as folder:
            store = LimitStore(folder / "events.db")

            def append(stream: str, version: int) -> Awaitable[object]:
                event = PlainUserCreated("123", "user@example.com", "John Doe")
                return store.append(stream, [event], expected_version=version)

            try:
                return await append_from(appenders, append, count)
            finally:
                store.close()

    return measure


GROUP_LIMIT = "limit: sqlite3, writer thread, group commit"
THREAD_LIMIT = "limit: sqlite3 in a thread"

COMPARISONS = (
    Comparison(
        "SQLite, `synchronous=FULL`, 1,000 concurrent appenders",
        "events/s",
        (
            Contender("avx-events", with_avx(1_000), 20_000),
            Contender(GROUP_LIMIT, at_the_limit(1_000), 20_000),
            Contender(
                "eventsourcing, one thread",
                peer("bench.peers.eventsourcing:appended_in_one_thread"),
                1_000,
                package="eventsourcing",
            ),
            Contender(
                "eventsourcing, 16 threads",
                peer("bench.peers.eventsourcing:appended_in_16_threads"),
                1_000,
                package="eventsourcing",
            ),
        ),
        (Target(GROUP_LIMIT, at_least=0.7), Target("eventsourcing, one thread", at_least=20.0)),
    ),
    Comparison(
        "SQLite, `synchronous=FULL`, one awaited append at a time",
        "events/s",
        (
            Contender("avx-events", with_avx(1), 500),
            Contender(THREAD_LIMIT, at_the_limit(1), 500),
            Contender(
                "eventsourcing, on the loop (blocks it)",
                peer("bench.peers.eventsourcing:appended_on_the_loop"),
                500,
                package="eventsourcing",
            ),
        ),
        (Target(THREAD_LIMIT, at_least=0.7),),
    ),
)
