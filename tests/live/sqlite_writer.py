"""Appends to a store until it is done or killed, and writes down each attempt, as one line of JSON, when it has ended.

Usage: python -m tests.live.sqlite_writer URL NAME APPENDERS TURNS MODE

So many appenders are at it at once, each awaits one append before the next. TURNS 0 is for ever. MODE is ``any``, or
``expect`` for appends that say which version they expect, and try again after a conflict.
"""

import asyncio
import itertools
import os
import sys
import time

import msgspec

from avx_events.core.errors import ConcurrencyError, StoreUnavailableError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Conflict, Kept, Outcome, Refused

STREAMS = 7

_encode = msgspec.json.Encoder().encode


class Counted(Event, event_type="live.counted", aggregate_id="writer"):
    writer: str
    number: int


def stream_of(appender: int) -> str:
    return f"stream-{appender % STREAMS}"


def batch_of(name: str, appender: int, turn: int) -> list[EventEnvelope[Counted]]:
    """One to three events, the same ones whoever asks: a batch whose fate nobody knows can be appended again."""
    return [envelope(name, f"{name}-{appender}-{turn}-{number}", number) for number in range(1 + turn % 3)]


def envelope(writer: str, event_id: str, number: int) -> EventEnvelope[Counted]:
    metadata = EventMetadata(event_id, Counted.event_type, writer, time.time_ns() // 1000, event_id)
    return EventEnvelope(Counted(writer, number), metadata, Counted.event_type)


async def attempt(
    store: EventStore, stream: str, batch: list[EventEnvelope[Counted]], *, expected_version: int | None = None
) -> Attempt:
    """Append once and say how it ended."""
    ids = tuple(one.metadata.event_id for one in batch)
    began_ns = time.monotonic_ns()
    outcome: Outcome
    try:
        result = await store.append(stream, batch, expected_version=expected_version)
        outcome = Kept(result.version, result.position)
    except ConcurrencyError as error:
        outcome = Conflict(error.expected, error.actual)
    except StoreUnavailableError as error:
        outcome = Refused(type(error).__name__)
    return Attempt(stream, ids, began_ns, expected_version, time.monotonic_ns(), outcome)


async def append_in_turns(store: EventStore, name: str, appender: int, turns: int, *, expects: bool) -> None:
    stream = stream_of(appender)
    for turn in range(turns) if turns else itertools.count():
        batch = batch_of(name, appender, turn)
        kept = False
        while not kept:
            expected = await store.version_of(stream) if expects else None
            ended = await attempt(store, stream, batch, expected_version=expected)
            os.write(1, _encode(ended) + b"\n")
            kept = isinstance(ended.outcome, Kept)


async def main(url: str, name: str, appenders: int, turns: int, *, expects: bool) -> None:
    async with await EventStore.connect(url) as store, asyncio.TaskGroup() as tasks:
        for appender in range(appenders):
            tasks.create_task(append_in_turns(store, name, appender, turns, expects=expects))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), expects=sys.argv[5] == "expect"))
