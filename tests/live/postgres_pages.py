"""Reads a store from its beginning to its end, and writes down how much memory that took.

Usage: python -m tests.live.postgres_pages URL
"""

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore

STREAM: Final = "long"


class Weighed(Event, event_type="pages.weighed"):
    number: int
    text: str


class Weight(AggregateRoot):
    """The sum of what was weighed."""

    count: int = 0
    total: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Weighed):
            self.count += 1
            self.total += event.number


class Growth(msgspec.Struct, frozen=True):
    """What was read, and by how many bytes the process grew since it had read a tenth of it.

    Attributes:
        read_all: Events of the log, and growth.
        read_stream: Events of the stream, and growth.
        loaded: Of an aggregate from all its events: their number.
        from_snapshot: Of the same from its snapshot.
        snapshots_used: How many of the two loads used one.
    """

    read_all: tuple[int, int]
    read_stream: tuple[int, int]
    loaded: int
    from_snapshot: int
    snapshots_used: int


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


class Meter:
    """Counts, and looks at the memory at a tenth and at the end."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._before = 0
        self.count = 0

    def tick(self) -> None:
        self.count += 1
        if self.count == self._expected // 10:
            self._before = resident_bytes()

    def result(self) -> tuple[int, int]:
        return self.count, resident_bytes() - self._before


async def main(url: str) -> None:
    async with await EventStore.connect(url, snapshot_every=1000) as store:
        expected = await store.last_position()
        whole = Meter(expected)
        async for _ in store.read_all():
            whole.tick()
        stream = Meter(await store.version_of(STREAM))
        async for _ in store.read_stream(STREAM):
            stream.tick()
        loaded = await store.load(Weight, STREAM)
        again = await store.load(Weight, STREAM)
        used = int(store.statistics()["snapshots_used"])
    growth = Growth(whole.result(), stream.result(), loaded.count, again.count, used)
    sys.stdout.write(msgspec.json.encode(growth).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
