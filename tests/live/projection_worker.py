"""Counts the events of a store until it is told to stop or killed; says how far it is, before it is kept.

Usage: projection_worker.py URL VERSION LAST_POSITION [switch|hurry]

It says ``ready`` once it follows the log, each position when it handles it, and ``done`` when it has come to
LAST_POSITION. With ``switch`` it says ``switching`` in the transaction in which its version takes the place of the
older one, and then does nothing any more; without, it does nothing after ``done``. With ``hurry`` a transaction has a
second.
"""

import asyncio
import logging
import sys
import threading

from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent


class Ticked(Event, event_type="kill.ticked", aggregate_id="counter"):
    counter: str
    number: int


class Counters(Projection, name="counters", tables=("counters", "ticks")):
    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('counters')} (counter TEXT PRIMARY KEY, ticks INTEGER)")
        # No key: an event that is counted twice is there twice.
        await connection.execute(f"CREATE TABLE {self.table('ticks')} (number INTEGER NOT NULL, version INTEGER)")

    @handles(Ticked)
    async def tick(self, event: Ticked, connection: Connection, stored: StoredEvent[Ticked]) -> None:
        counters, ticks = self.table("counters"), self.table("ticks")
        await execute(
            connection,
            f"INSERT INTO {counters} AS kept VALUES (?, 1)"  # noqa: S608 - the name of a table
            " ON CONFLICT (counter) DO UPDATE SET ticks = kept.ticks + 1",
            event.counter,
        )
        say(f"{stored.position}")
        await execute(connection, f"INSERT INTO {ticks} VALUES (?, ?)", event.number, self.version)  # noqa: S608


class CountersTwo(Counters, version=2):
    pass


class StopAtTheSwitch(logging.Handler):
    """Ends all activity of this process in the middle of the switch."""

    def emit(self, record: logging.LogRecord) -> None:
        if "takes the place" in record.msg:
            say("switching")
            threading.Event().wait()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(url: str, version: int, last_position: int, *, timeout_s: float) -> None:
    projection = Counters() if version == 1 else CountersTwo()
    async with (
        await EventStore.connect(url) as store,
        Projector(store, projection, batch_events=50, timeout_s=timeout_s) as projector,
    ):
        say("ready")
        await projector.caught_up(last_position, timeout_s=60)
        say("done")
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[4:] == ["switch"]:
        logging.getLogger("avx_events.projection").setLevel(logging.INFO)
        logging.getLogger("avx_events.projection").addHandler(StopAtTheSwitch())
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), timeout_s=1.0 if sys.argv[4:] == ["hurry"] else 30.0)
    )
