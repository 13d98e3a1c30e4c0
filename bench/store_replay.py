"""How fast is a stream of 100,000 events read back into typed objects?"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

from avx_events import EventStore
from bench.disk import folder_on_disk
from bench.limits.sqlite import LimitStore
from bench.rounds import Comparison, Contender, Round, Target, peer
from bench.workload import PlainUserCreated, UserCreated, per_second

STREAM = "user-123"
BATCH = 1_000


@asynccontextmanager
async def with_avx(count: int) -> AsyncGenerator[Round, None]:
    batches = -(-count // BATCH)
    with folder_on_disk() as folder:
        async with await EventStore.connect(f"sqlite:///{folder / 'events.db'}") as store:
            for number in range(batches):
                events = [UserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)]
                await store.append(STREAM, events, expected_version=number * BATCH)

            async def measure() -> float:
                started = perf_counter()
                replayed = 0
                async for _ in store.read_stream(STREAM):
                    replayed += 1
                speed = per_second(replayed, started)
                assert replayed == batches * BATCH
                return speed

            yield measure


@asynccontextmanager
async def filled_limit_store(batches: int) -> AsyncGenerator[LimitStore, None]:
    with folder_on_disk() as folder:
        store = LimitStore(folder / "events.db")
        try:
            for number in range(batches):
                events = [PlainUserCreated("123", "user@example.com", "John Doe") for _ in range(BATCH)]
                await store.append(STREAM, events, expected_version=number * BATCH)
            yield store
        finally:
            store.close()


@asynccontextmanager
async def at_the_limit(count: int) -> AsyncGenerator[Round, None]:
    batches = -(-count // BATCH)
    async with filled_limit_store(batches) as store:

        async def measure() -> float:
            started = perf_counter()
            replayed = 0
            async for page in store.read_bare(STREAM):
                replayed += len(page)
            speed = per_second(replayed, started)
            assert replayed == batches * BATCH
            return speed

        yield measure


@asynccontextmanager
async def at_the_limit_with_metadata(count: int) -> AsyncGenerator[Round, None]:
    batches = -(-count // BATCH)
    async with filled_limit_store(batches) as store:

        async def measure() -> float:
            started = perf_counter()
            replayed = 0
            async for page in store.read(STREAM):
                replayed += len(page)
            speed = per_second(replayed, started)
            assert replayed == batches * BATCH
            return speed

        yield measure


LIMIT = "limit: sqlite3 in a thread + msgspec, no metadata"

COMPARISONS = (
    Comparison(
        "replay 100,000 events of one stream into typed objects",
        "events/s",
        (
            Contender("avx-events", with_avx, 100_000),
            Contender(LIMIT, at_the_limit, 100_000),
            Contender("limit: the same with all metadata", at_the_limit_with_metadata, 100_000),
            Contender("eventsourcing", peer("bench.peers.eventsourcing:replayed"), 100_000, package="eventsourcing"),
        ),
        (Target(LIMIT, at_least=0.6), Target("eventsourcing", at_least=4.0)),
    ),
)
