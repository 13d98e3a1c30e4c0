"""What does an append to a SQLite file cost when the log is long? One that has 10,000,000 events is made for it."""

import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from avx_events import EventStore
from bench.disk import folder_on_disk
from bench.rounds import Comparison, Contender, Opening, Round, Target
from bench.store_append import append_from
from bench.workload import UserCreated

APPENDERS = 1_000
APPENDS = 20_000
STREAM_EVENTS = 10

# As an append would write them, but a hundred times as fast: ids are random text, as of many processes.
FILL = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
INSERT INTO avx_events (position, stream, version, recorded_at, event_id, event_type, metadata, data)
SELECT n, 'user-' || ((n - 1) / ?2), (n - 1) % ?2 + 1, n, lower(hex(randomblob(16))), 'bench.user.created',
    CAST('[1,"123"]' AS BLOB), CAST('{"user_id":"123","email":"user@example.com","name":"John Doe"}' AS BLOB)
FROM number
"""


def appended_to(events: int) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with folder_on_disk() as folder:
            path = folder / "events.db"
            async with await EventStore.connect(f"sqlite:///{path}"):
                pass
            _fill(path, events)
            async with await EventStore.connect(f"sqlite:///{path}") as store:
                rounds = 0

                async def measure() -> float:
                    nonlocal rounds
                    rounds += 1

                    async def append(stream: str, version: int) -> None:
                        event = UserCreated("123", "user@example.com", "John Doe")
                        await store.append(f"{stream}-{rounds}", [event], expected_version=version)

                    return 1_000_000 / await append_from(APPENDERS, append, count)

                yield measure

    return opened


def _fill(path: Path, events: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -2000000")
        connection.execute("BEGIN")
        connection.execute(FILL, (events, STREAM_EVENTS))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    with path.open("rb+") as file:  # or the first commits would wait for what was left in memory
        os.fsync(file.fileno())


SHORT = "avx-events, a log of 10,000 events"

COMPARISONS = (
    Comparison(
        "SQLite, an append of 1,000 concurrent appenders, to a log of 10,000,000 events",
        "us",
        (
            Contender("avx-events, a log of 10,000,000 events", appended_to(10_000_000), APPENDS),
            Contender(SHORT, appended_to(10_000), APPENDS),
        ),
        (Target(SHORT, at_most=1.5),),
    ),
)
