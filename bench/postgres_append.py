"""How fast are events appended to PostgreSQL, each durable before its ``append`` returns?"""

from collections.abc import Awaitable

from avx_events import EventStore
from bench.limits.asyncpg_store import LimitStore
from bench.postgres import SETTINGS, database
from bench.rounds import Comparison, Contender, Opening, Target, each_round, peer
from bench.store_append import append_from
from bench.workload import PlainUserCreated, UserCreated


def with_avx(appenders: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        with database() as url:
            async with await EventStore.connect(url) as store:

                def append(stream: str, version: int) -> Awaitable[object]:
                    event = UserCreated("123", "user@example.com", "John Doe")
                    return store.append(stream, [event], expected_version=version)

                return await append_from(appenders, append, count)

    return measure


def at_the_limit(appenders: int, *, in_groups: bool) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        with database() as url:
            store = await LimitStore.connect(url)
            append_one = store.append if in_groups else store.insert

            def append(stream: str, version: int) -> Awaitable[object]:
                event = PlainUserCreated("123", "user@example.com", "John Doe")
                return append_one(stream, event, version=version + 1)

            try:
                return await append_from(appenders, append, count)
            finally:
                await store.close()

    return measure


GROUP_LIMIT = "limit: asyncpg, group commit by COPY"
INSERT_LIMIT = "limit: asyncpg, a prepared INSERT"
PEER_THREADS = "eventsourcing, 16 threads"
PEER_LOOP = "eventsourcing, on the loop (blocks it)"

COMPARISONS = (
    Comparison(
        f"{SETTINGS}, 1,000 concurrent appenders",
        "events/s",
        (
            Contender("avx-events", with_avx(1_000), 20_000),
            Contender(GROUP_LIMIT, at_the_limit(1_000, in_groups=True), 20_000),
            Contender(
                PEER_THREADS,
                peer("bench.peers.eventsourcing_postgres:appended_in_16_threads"),
                1_000,
                package="eventsourcing",
            ),
        ),
        (Target(GROUP_LIMIT, at_least=0.7), Target(PEER_THREADS, at_least=40.0)),
    ),
    Comparison(
        f"{SETTINGS}, one awaited append at a time",
        "events/s",
        (
            Contender("avx-events", with_avx(1), 1_000),
            Contender(INSERT_LIMIT, at_the_limit(1, in_groups=False), 1_000),
            Contender(
                PEER_LOOP,
                peer("bench.peers.eventsourcing_postgres:appended_on_the_loop"),
                1_000,
                package="eventsourcing",
            ),
        ),
        (Target(INSERT_LIMIT, at_least=0.7), Target(PEER_LOOP, at_least=2.0)),
    ),
)
