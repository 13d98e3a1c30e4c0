"""Appends to a store until the system lets no file of this process grow, then with more room; writes down each attempt.

Usage: python -m tests.live.sqlite_small_disk URL LIMIT_BYTES
"""

import asyncio
import os
import resource
import signal
import sys

import msgspec

from avx_events.store.event_store import EventStore
from tests.live.histories import Kept
from tests.live.sqlite_writer import attempt, batch_of

REFUSALS = 5


async def is_kept(store: EventStore, turn: int) -> bool:
    ended = await attempt(store, "stream", batch_of("small", 0, turn))
    os.write(1, msgspec.json.encode(ended) + b"\n")
    return isinstance(ended.outcome, Kept)


async def main(url: str, limit_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is an error then, as on a full disk
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with await EventStore.connect(url) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
        turns = refusals = 0
        while refusals < REFUSALS:
            refusals += not await is_kept(store, turns)
            turns += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        for turn in range(turns):  # what was kept is there, what was refused is appended now
            await is_kept(store, turn)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
