"""Appends to a store and stands still, as by a debugger, in the middle of it, while the log is locked.

Usage: python -m tests.live.postgres_holder URL

It prints what came of its append when it was let go on.
"""

import asyncio
import os
import signal
import sys
import time

from avx_events.core.clock import SystemClock
from avx_events.core.errors import RetryableError
from avx_events.store.event_store import EventStore
from tests.live.sqlite_writer import envelope


class StoppingClock(SystemClock):
    """The machine's clock, which stops the process once when it is asked; between two appends nobody asks it."""

    is_armed = False

    def time_ns(self) -> int:
        if self.is_armed:
            self.is_armed = False
            os.write(1, b"held\n")
            os.kill(os.getpid(), signal.SIGSTOP)
        return time.time_ns()


async def outcome_of(store: EventStore, stream: str, expected_version: int | None = None) -> str:
    """Append once; return the error's name, or nothing."""
    try:
        await store.append(stream, envelope(stream, f"{stream}-1", 1), expected_version=expected_version)
    except RetryableError as error:
        return type(error).__name__
    return ""


async def main(url: str) -> None:
    clock = StoppingClock()
    async with await EventStore.connect(url, clock=clock) as store:
        clock.is_armed = True
        async with asyncio.TaskGroup() as tasks:
            # One that cannot be, so that the group is looked at with the log locked.
            conflict = tasks.create_task(outcome_of(store, "b", 7))
            appending = tasks.create_task(outcome_of(store, "a"))
        again = await outcome_of(store, "b", 7), await outcome_of(store, "a")
    os.write(1, f"{conflict.result()} {appending.result()}; {again[0]} {again[1]}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
