"""Counts the events of a store until it is told to stop or killed; says how far it is, before it is kept.

Usage: projection_worker.py URL LAST_POSITION
"""

import asyncio
import sys

from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent


class Ticked(Event, event_type="kill.ticked", aggregate_id="counter"):
    counter: str
    number: int


class Counters(Projection, name="counters"):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE counters (counter TEXT PRIMARY KEY, ticks INTEGER NOT NULL)")
        # No key: an event that is counted twice is there twice.
        await connection.execute("CREATE TABLE ticks (number INTEGER NOT NULL)")

    @handles(Ticked)
    async def tick(self, event: Ticked, connection: Connection, stored: StoredEvent[Ticked]) -> None:
        await connection.execute(
            "INSERT INTO counters VALUES (?, 1) ON CONFLICT (counter) DO UPDATE SET ticks = ticks + 1", event.counter
        )
        sys.stdout.write(f"{stored.position}\n")
        sys.stdout.flush()
        await connection.execute("INSERT INTO ticks VALUES (?)", event.number)


async def main(url: str, last_position: int) -> None:
    async with await EventStore.connect(url) as store, Projector(store, Counters(), batch_events=50) as projector:
        await projector.caught_up(last_position, timeout_s=60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
