"""Appends to a store, reads and follows it at random, and writes down each call and each event that it saw.

Usage: python -m tests.live.history_worker URL NAME SEED

It prints a ``Story`` when the log's last position, a line of its standard input, is reached by its followers.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import msgspec

from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.store.event_store import EventStore
from avx_events.store.subscription import StoreSubscription
from tests.live.histories import Attempt, Entry
from tests.live.sqlite_processes import entry_of
from tests.live.sqlite_writer import Counted, attempt
from tests.waiting import until

ACTORS: Final = 4
STEPS: Final = 40
STREAMS: Final = ("a-1", "a-2", "b-1", "b-2", "c")

Batch: TypeAlias = tuple[str, list[EventEnvelope[Any]]]


class Tallied(Event, event_type="live.tallied", aggregate_id="writer"):
    writer: str
    number: int


class Read(msgspec.Struct, frozen=True):
    """One read of a stream: when, and the ids of what it gave."""

    stream: str
    began_ns: int
    ended_ns: int
    event_ids: tuple[str, ...]


class Story(msgspec.Struct, frozen=True):
    """What a worker did and saw; ``followed`` by the name of the filter."""

    attempts: list[Attempt]
    reads: list[Read]
    followed: dict[str, list[Entry]]


FILTERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "all": {},
    "tallied": {"types": Tallied},
    "b": {"stream_prefix": "b-"},
    "tallied in a": {"types": [Tallied], "stream_prefix": "a-"},
}


def is_wanted(entry: Entry, name: str) -> bool:
    """Tell whether the filter called ``name`` wants ``entry``; the last of an id tells its type."""
    is_tallied = entry.event_id.endswith("t")
    return {
        "all": True,
        "tallied": is_tallied,
        "b": entry.stream.startswith("b-"),
        "tallied in a": is_tallied and entry.stream.startswith("a-"),
    }[name]


class Actor:
    """One caller: it awaits each call before the next."""

    def __init__(self, store: EventStore, name: str, chance: random.Random, story: Story) -> None:
        self._store = store
        self._name = name
        self._chance = chance
        self._story = story
        self._batches: list[Batch] = []

    async def act(self) -> None:
        """Do as chance has it."""
        deeds: list[Callable[[], Awaitable[None]]] = [
            self._append,
            self._expect,
            self._expect,
            self._repeat,
            self._read,
        ]
        for _ in range(STEPS):
            await self._chance.choice(deeds)()

    async def _append(self) -> None:
        await self._attempt(self._new_batch(), None)

    async def _expect(self) -> None:
        stream, batch = self._new_batch()
        version = await self._store.version_of(stream)
        await self._attempt((stream, batch), max(0, version + self._chance.choice((-1, 0, 0, 0, 1))))

    async def _repeat(self) -> None:
        if self._batches:
            await self._attempt(self._chance.choice(self._batches), self._chance.choice((None, 0, 3)))

    async def _read(self) -> None:
        stream, began_ns = self._chance.choice(STREAMS), time.monotonic_ns()
        ids = tuple([stored.metadata.event_id for stored in await self._store.get_events(stream)])
        self._story.reads.append(Read(stream, began_ns, time.monotonic_ns(), ids))

    async def _attempt(self, batch: Batch, expected: int | None) -> None:
        self._story.attempts.append(await attempt(self._store, *batch, expected_version=expected))

    def _new_batch(self) -> Batch:
        stream, name = self._chance.choice(STREAMS), f"{self._name}-{len(self._batches)}"
        batch = [self._envelope(f"{name}-{number}", number) for number in range(self._chance.randint(1, 3))]
        self._batches.append((stream, batch))
        return stream, batch

    def _envelope(self, name: str, number: int) -> EventEnvelope[Any]:
        kind = self._chance.choice((Counted, Tallied))
        event_id = f"{name}-{kind.event_type[5]}"
        metadata = EventMetadata(event_id, kind.event_type, self._name, time.time_ns() // 1000, event_id)
        return EventEnvelope(kind(self._name, number), metadata, kind.event_type)


@asynccontextmanager
async def lived(
    store: EventStore, name: str, seed: int, *, actors: int = ACTORS
) -> AsyncGenerator[tuple[Story, list[StoreSubscription]], None]:
    """Act on ``store``; give the story when that is done, and the followers, which go on until the block ends."""
    story = Story([], [], {kind: [] for kind in FILTERS})
    followers = {kind: store.subscribe(**wanted) for kind, wanted in FILTERS.items()}
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(follow(follower, story.followed[kind])) for kind, follower in followers.items()]
        async with asyncio.TaskGroup() as acting:
            for number in range(actors):
                actor = Actor(store, f"{name}-{number}", random.Random(f"{seed} {name} {number}"), story)
                acting.create_task(actor.act())
        yield story, [*followers.values()]
        for follower in following:
            follower.cancel()


async def follow(follower: StoreSubscription, entries: list[Entry]) -> None:
    """Write down what a follower is given, for ever."""
    while True:
        entries.append(entry_of(await anext(follower)))


async def main(url: str, name: str, seed: int) -> None:
    async with await EventStore.connect(url) as store, lived(store, name, seed) as (story, followers):
        sys.stdout.write("done\n")
        sys.stdout.flush()
        last = int(await asyncio.to_thread(sys.stdin.readline))
        await until(lambda: all(follower.position >= last for follower in followers))
    sys.stdout.write(msgspec.json.encode(story).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
