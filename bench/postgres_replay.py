"""How fast are 100,000 events in PostgreSQL read back into typed objects?"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from avx_events import EventStore
from bench.limits.asyncpg_store import LimitStore
from bench.postgres import database
from bench.rounds import Comparison, Contender, Opening, Round, Target, peer
from bench.workload import PlainUserCreated, UserCreated, per_second

STREAM = "user-123"
BATCH = 1_000


def with_avx(*, whole_log: bool) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        batches = -(-count // BATCH)
        with database() as url:
            async with await EventStore.connect(url) as store:
                for number in range(batches):
                    events = [UserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)]
                    await store.append(STREAM, events, expected_version=number * BATCH)

                async def measure() -> float:
                    events = store.read_all() if whole_log else store.read_stream(STREAM)
                    started = perf_counter()
                    replayed = 0
                    async for _ in events:
                        replayed += 1
                    speed = per_second(replayed, started)
                    assert replayed == batches * BATCH
                    return speed

                yield measure

    return opened


def at_the_limit(*, whole_log: bool, with_metadata: bool) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        batches = -(-count // BATCH)
        with database() as url:
            store = await LimitStore.connect(url)
            for number in range(batches):
                events = [PlainUserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)]
                await store.fill(STREAM, events, version=number * BATCH)
            stream = None if whole_log else STREAM

            async def measure() -> float:
                pages: AsyncIterator[list[Any]] = store.read(stream) if with_metadata else store.read_bare(stream)
                started = perf_counter()
                replayed = 0
                async for page in pages:
                    replayed += len(page)
                speed = per_second(replayed, started)
                assert replayed == batches * BATCH
                return speed

            try:
                yield measure
            finally:
                await store.close()

    return opened


LIMIT = "limit: asyncpg + msgspec, no metadata"


def _comparison(title: str, *, whole_log: bool, replayed_by_peer: str) -> Comparison:
    return Comparison(
        title,
        "events/s",
        (
            Contender("avx-events", with_avx(whole_log=whole_log), 100_000),
            Contender(LIMIT, at_the_limit(whole_log=whole_log, with_metadata=False), 100_000),
            Contender(
                "limit: the same with all metadata", at_the_limit(whole_log=whole_log, with_metadata=True), 100_000
            ),
            Contender(
                "eventsourcing",
                peer(f"bench.peers.eventsourcing_postgres:{replayed_by_peer}"),
                100_000,
                package="eventsourcing",
            ),
        ),
        (Target(LIMIT, at_least=0.6), Target("eventsourcing", at_least=3.0)),
    )


COMPARISONS = (
    _comparison(
        "PostgreSQL, replay 100,000 events of one stream into typed objects",
        whole_log=False,
        replayed_by_peer="replayed_stream",
    ),
    _comparison(
        "PostgreSQL, replay a whole log of 100,000 events into typed objects",
        whole_log=True,
        replayed_by_peer="replayed_log",
    ),
)
