"""The relay: what is appended to the store's log is published to the event bus, also what was appended before a crash.

Handlers see each event *at least once*. The checkpoint, kept in the store's own database, moves when the handlers are
done with all events up to it: each succeeded, or became a dead letter, which is as durable.

| the process ends | after the next start |
|---|---|
| before an event is published | it is published |
| after that, before every handler is done with it | it is published again, to all handlers, those that were done too |
| after that, before the checkpoint is moved | the same: handlers must recognise what they did |
| after the checkpoint is moved | it is not published again |

Up to ``BATCH_EVENTS`` positions share one move of the checkpoint; what no handler is given moves it in memory alone.
While a handler's retries go on, the batch after theirs waits, so retries here end within seconds. One relay for each
store: a second one would publish the same again.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Self

from avx_events import EventBus, EventStore, Retry, RetryableError

BATCH_EVENTS: Final = 500
MOST_UNKEPT_EVENTS: Final = 10_000
"""Positions that may lie behind the checkpoint though they are done, since no handler was given anything."""


log = logging.getLogger(__name__)

# How long it waits before it looks at a store again that was away; it never gives up.
_PAUSES: Final = Retry(attempts=2**31, initial_s=0.1, max_s=5.0)
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS relay_checkpoint (only INTEGER PRIMARY KEY CHECK (only = 1), position INTEGER)"
)
_BEGIN: Final = "INSERT OR IGNORE INTO relay_checkpoint VALUES (1, 0)"
_READ: Final = "SELECT position FROM relay_checkpoint"
_MOVE: Final = "UPDATE relay_checkpoint SET position = ?"


class Relay:
    """Follows the log from its checkpoint and publishes each event, metadata and all, while it is entered.

    Attributes:
        position: Up to here every handler is done.
        failure: What it stopped at for good, as an event that no class of this process can read; None while it runs.
    """

    def __init__(self, store: EventStore, bus: EventBus, *, drain_timeout_s: float = 5.0) -> None:
        """Publish the log of ``store`` to ``bus``, which must be running.

        Args:
            store: Whose log; the checkpoint is in its database.
            bus: Where to.
            drain_timeout_s: How long it lets handlers finish their batch when it stops, in seconds.
        """
        self.position = 0
        self.failure: Exception | None = None
        self._drain_timeout_s: Final = drain_timeout_s
        self._store: Final = store
        self._bus: Final = bus
        self._tasks: Final = asyncio.TaskGroup()
        self._kept = 0  # where the checkpoint is
        self._delivered = 0
        self._is_stopping = False
        self._is_idle: Final = asyncio.Event()
        self._is_idle.set()

    async def __aenter__(self) -> Self:
        """Begin to follow.

        Raises:
            StoreUnavailableError: The checkpoint cannot be read now.
        """
        async with self._store.transaction() as connection:
            await connection.execute(_TABLE)
            await connection.execute(_BEGIN)
            row = await connection.fetch_one(_READ)
        self.position = self._kept = 0 if row is None else row[0]
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._run(), name="relay")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Let handlers finish the batch that they have, and stop; what they have not finished comes again."""
        self._is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout_s):
                await self._is_idle.wait()
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        attempt = 1
        while not self._is_stopping:
            before = self.position
            try:
                await self._follow()
            except RetryableError as exc:
                attempt = 2 if self.position != before else attempt + 1
                delay_s = _PAUSES.delay_before(attempt, jitter=1.0) or 0.0
                log.warning("the relay goes on after position %d in %.1f s: %s", self.position, delay_s, exc)
                self._is_idle.set()
                await asyncio.sleep(delay_s)
            except Exception as exc:  # what it is, /ready says; nothing is skipped
                log.exception("the relay stopped after position %d", self.position)
                self.failure = exc
                self._is_idle.set()
                return
            else:
                return

    async def _follow(self) -> None:
        known = await self._store.last_position()
        async for stored in self._store.subscribe(after=self.position):
            self._is_idle.clear()
            await self._bus.publish(stored)
            if stored.position < known and stored.position - self.position < BATCH_EVENTS:
                continue
            await self._bus.settled()
            await self._advance(stored.position)
            self._is_idle.set()
            if self._is_stopping:
                return
            known = await self._store.last_position()

    async def _advance(self, position: int) -> None:
        delivered = self._bus.statistics().delivered
        if delivered != self._delivered or position - self._kept >= MOST_UNKEPT_EVENTS:
            async with self._store.transaction() as connection:
                await connection.execute(_MOVE, position)
            self._delivered, self._kept = delivered, position
        self.position = position
