"""Tries to append to a store as a user who may not write to its folder; says which error that is.

Usage: python -m tests.live.sqlite_reader URL
"""

import asyncio
import os
import sys

from avx_events.core.errors import AvxEventsError
from avx_events.store.event_store import EventStore
from tests.live.sqlite_writer import batch_of

NOBODY = 65_534


async def main(url: str) -> None:
    await (await EventStore.connect("sqlite://")).close()  # what is imported on first use, is, while it may be read
    if os.geteuid() == 0:  # who may write everywhere
        os.seteuid(NOBODY)
    try:
        async with await EventStore.connect(url) as store:
            await store.append("stream", batch_of("reader", 0, 0))
    except AvxEventsError as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
