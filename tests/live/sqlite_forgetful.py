"""Opens a store, appends and reads, writes down its attempts, and ends without closing it.

Usage: python -m tests.live.sqlite_forgetful URL
"""

import asyncio
import os
import sys

import msgspec

from avx_events.store.event_store import EventStore
from tests.live.sqlite_writer import attempt, batch_of


async def main(url: str) -> EventStore:
    store = await EventStore.connect(url)
    for turn in range(20):
        os.write(1, msgspec.json.encode(await attempt(store, "stream", batch_of("forgetful", 0, turn))) + b"\n")
    await anext(store.subscribe())
    return store


if __name__ == "__main__":
    kept_until_the_end = asyncio.run(main(sys.argv[1]))
