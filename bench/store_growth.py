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

STREAM_EVENTS = 10

# As an append would write them, but a hundred times as fast: ids are random text, as of many processes.
FILL = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
INSERT INTO avx_events (position, stream, version, recorded_at, event_id, event_type, metadata, data)
SELECT n, 'user-' || ((n - 1) / ?2), (n - 1) % ?2 + 1, n, lower(hex(randomblob(16))), 'bench.user.created',
    CAST('[1,"123"]' AS BLOB), CAST('{"user_id":"123","email":"user@example.com","name":"John Doe"}' AS BLOB)
FROM number
"""


def appended_to(events: int, *, full: int, appenders: int, among_old: bool = False) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        with folder_on_disk() as folder:
            path = folder / "events.db"
            async with await EventStore.connect(f"sqlite:///{path}"):
                pass
            _fill(path, max(SHORT, events * count // full))  # a quick run has a shorter log, too
            async with await EventStore.connect(f"sqlite:///{path}") as store:
                rounds = 0

                async def measure() -> float:
                    nonlocal rounds
                    rounds += 1

                    async def append(stream: str, version: int) -> None:
                        event = UserCreated("123", "user@example.com", "John Doe")
                        # As names, user-7-1 stands between user-7 and user-70, visit-1-user-7 behind all of them.
                        name = f"{stream}-{rounds}" if among_old else f"visit-{rounds}-{stream}"
                        await store.append(name, [event], expected_version=version)

                    return 1_000_000 / await append_from(appenders, append, count)

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


LONG = 10_000_000
SHORT = 10_000
LONG_LOG = "avx-events, a log of 10,000,000 events"
SHORT_LOG = "avx-events, a log of 10,000 events"


def _comparison(title: str, count: int, *, appenders: int, among_old: bool = False) -> Comparison:
    return Comparison(
        title,
        "us",
        (
            Contender(LONG_LOG, appended_to(LONG, full=count, appenders=appenders, among_old=among_old), count),
            Contender(SHORT_LOG, appended_to(SHORT, full=count, appenders=appenders, among_old=among_old), count),
        ),
        (Target(SHORT_LOG, at_most=1.5),),
    )


COMPARISONS = (
    _comparison("SQLite, one awaited append to a log of 10,000,000 events", 500, appenders=1),
    _comparison(
        "SQLite, an append of 1,000 concurrent appenders to a log of 10,000,000 events, to new streams",
        20_000,
        appenders=1_000,
    ),
    _comparison(
        "SQLite, the same to streams whose names lie all over the index", 20_000, appenders=1_000, among_old=True
    ),
)
