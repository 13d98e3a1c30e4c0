"""Holds the write lock of a store until its standard input ends, and says ``held`` when it has it.

Usage: python -m tests.live.sqlite_holder URL
"""

import asyncio
import sys

from avx_events.store.event_store import EventStore


async def main(url: str) -> None:
    async with await EventStore.connect(url) as store, store.transaction() as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS held (at TEXT)")
        print("held", flush=True)  # noqa: T201 - the parent waits for it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
