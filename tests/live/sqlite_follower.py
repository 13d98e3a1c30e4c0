"""Follows a store until it is killed, and writes down each event that it sees, as one line of JSON.

Usage: python -m tests.live.sqlite_follower URL AFTER
"""

import asyncio
import os
import sys

import msgspec

from avx_events.store.event_store import EventStore
from tests.live.sqlite_processes import entry_of
from tests.live.sqlite_writer import Counted


async def main(url: str, after: int) -> None:
    assert Counted.event_type  # imported, so that its events can be read
    async with await EventStore.connect(url) as store:
        async for stored in store.subscribe(after=after):
            os.write(1, msgspec.json.encode(entry_of(stored)) + b"\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
