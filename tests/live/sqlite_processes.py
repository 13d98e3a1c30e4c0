"""Starts the worker processes of the live tests on SQLite, and reads what they write down."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent
from tests.live.histories import Attempt, Entry, Kept
from tests.live.sqlite_writer import batch_of, stream_of

LineT = TypeVar("LineT")

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(worker: str, *arguments: object) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Run a worker module of this folder; it is killed when the block ends, if it has not ended by then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.live.{worker}",
        *map(str, arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lines(process: asyncio.subprocess.Process, kind: type[LineT]) -> AsyncGenerator[LineT, None]:
    """Give what ``process`` writes, line by line; a last one that a kill cut off is left out."""
    assert process.stdout is not None
    decode = msgspec.json.Decoder(kind).decode
    async for line in process.stdout:
        if line.endswith(b"\n"):
            yield decode(line)


async def killed(url: str, name: str, *, appenders: int, after: int) -> list[Attempt]:
    """Kill a writer a moment after so many of its appends have ended.

    Returns:
        All attempts that it made, without an outcome where nobody knows it: each appender was in the middle of one.
    """
    began_ns = time.monotonic_ns()
    attempts: list[Attempt] = []
    turns: Counter[int] = Counter()
    async with running("sqlite_writer", url, name, appenders, 0, "any") as writer:
        async for ended in lines(writer, Attempt):
            attempts.append(ended)
            turns[int(ended.event_ids[0].split("-")[1])] += isinstance(ended.outcome, Kept)
            if len(attempts) == after:
                asyncio.get_running_loop().call_later(random.uniform(0, 0.02), writer.kill)
    for appender in range(appenders):
        ids = tuple(one.metadata.event_id for one in batch_of(name, appender, turns[appender]))
        attempts.append(Attempt(stream_of(appender), ids, began_ns))
    return attempts


def entry_of(stored: StoredEvent[Any]) -> Entry:
    """Return the place of an event in the log."""
    return Entry(stored.position, stored.stream, stored.version, stored.recorded_us, stored.metadata.event_id)


async def log_of(store: EventStore) -> list[Entry]:
    """Return the whole log."""
    return [entry_of(stored) async for stored in store.read_all()]
