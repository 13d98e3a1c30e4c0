"""Appends to PostgreSQL whose outcome may be unknown, written down for ``histories.violations``, and repeated."""

import asyncio
import itertools
import time
from collections.abc import Callable

from avx_events.core.errors import AppendUnknownError
from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Kept
from tests.live.sqlite_writer import attempt, batch_of, stream_of


async def attempted(store: EventStore, name: str, appender: int, turn: int, *, expected: int | None = None) -> Attempt:
    """Append a batch once; an attempt without an outcome is one that nobody knows the fate of."""
    stream, batch, began_ns = stream_of(appender), batch_of(name, appender, turn), time.monotonic_ns()
    try:
        return await attempt(store, stream, batch, expected_version=expected)
    except AppendUnknownError as error:
        unknown = error
    assert (unknown.stream, [*unknown.envelopes]) == (stream, batch)
    ids = tuple(one.metadata.event_id for one in batch)
    return Attempt(stream, ids, began_ns, expected, time.monotonic_ns())


async def repeated(store: EventStore, unknown: list[Attempt]) -> list[Attempt]:
    """Append again what nobody knows the fate of."""

    async def repeat(one: Attempt) -> Attempt:
        name, appender, turn, _ = one.event_ids[0].split("-")
        return await attempted(store, name, int(appender), int(turn))

    async with asyncio.TaskGroup() as tasks:
        repeats = [tasks.create_task(repeat(one)) for one in unknown]
    return [task.result() for task in repeats]


class Load:
    """Appenders that append, each one batch after the other, until they are told to end.

    Attributes:
        attempts: All that have ended.
    """

    def __init__(self, store: EventStore, name: str) -> None:
        self.attempts: list[Attempt] = []
        self._store = store
        self._name = name
        self._is_over = False

    async def run(self, appenders: int) -> None:
        """Append until ``end``."""
        async with asyncio.TaskGroup() as tasks:
            for appender in range(appenders):
                tasks.create_task(self._append(appender))

    def end(self) -> None:
        """Let the appenders end, each after the append that it is at."""
        self._is_over = True

    @property
    def kept(self) -> int:
        """How many appends have returned."""
        return sum(isinstance(one.outcome, Kept) for one in self.attempts)

    def kept_more(self, count: int) -> Callable[[], bool]:
        """Return a condition: ``count`` more appends have returned than now."""
        wanted = self.kept + count
        return lambda: self.kept >= wanted

    async def _append(self, appender: int) -> None:
        for turn in itertools.count():
            if self._is_over:
                return
            self.attempts.append(await attempted(self._store, self._name, appender, turn))
