"""What does a load cost, of an aggregate with a long history and a snapshot, beside one with a short history?"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

from avx_events import AggregateRoot, Event, EventStore
from bench.disk import folder_on_disk
from bench.rounds import Comparison, Contender, Opening, Round, Target
from bench.workload import UserCreated

STREAM = "user-123"
EVERY = 100
"""Events between two snapshots; half as many lie behind the newest one, as they do on the average."""

BATCH = 1_000


class User(AggregateRoot):
    email: str = ""
    events: int = 0

    def apply(self, event: Event) -> None:
        match event:
            case UserCreated(email=email):
                self.email = email
                self.events += 1
            case _:
                pass


def loaded(events: int) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with folder_on_disk() as folder:
            url = f"sqlite:///{folder / 'events.db'}"
            async with await EventStore.connect(url, snapshot_every=EVERY) as store:
                await _fill(store, events)

                async def measure() -> float:
                    started = perf_counter()
                    for _ in range(count):
                        user = await store.load(User, STREAM)
                        assert user.events == events
                    return (perf_counter() - started) / count * 1_000_000

                yield measure

    return opened


async def _fill(store: EventStore, events: int) -> None:
    behind = EVERY // 2 if events > EVERY else events
    await _append(store, events - behind)
    if events > behind:
        await store.load(User, STREAM)  # which takes the snapshot
        assert store.statistics()["snapshots_taken"] == 1
    await _append(store, behind)


async def _append(store: EventStore, count: int) -> None:
    for start in range(0, count, BATCH):
        some = min(BATCH, count - start)
        await store.append(STREAM, [UserCreated("123", "user@example.com", "John Doe") for _ in range(some)])


SHORT = "avx-events, 10 events"

COMPARISONS = (
    Comparison(
        "load an aggregate of 10,000 events with a snapshot 50 events back, SQLite",
        "us",
        (
            Contender("avx-events, 10,000 events", loaded(10_000), 500),
            Contender(SHORT, loaded(10), 500),
        ),
        (Target(SHORT, at_most=2.0),),
    ),
)
