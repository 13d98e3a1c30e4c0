"""Follows the log for one process manager: each event is reacted to exactly once, by whichever runner comes first."""

import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

from avx_events.core.clock import Clock
from avx_events.core.errors import ClosedError, PermanentError
from avx_events.core.tasks import Changes
from avx_events.patterns.process.definition import Definition
from avx_events.patterns.process.rows import Rows
from avx_events.patterns.process.steps import Steps
from avx_events.patterns.shared_time import shared_now_us
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

log = logging.getLogger("avx_events.process")

# Events without a reaction that may lie behind the checkpoint: a restart looks at them again, which is quick.
_MOST_UNKEPT: Final = 10_000


class Reader:
    """Brings events to their processes.

    Attributes:
        position: The position in the log up to which everything is done.
    """

    def __init__(
        self,
        store: EventStore,
        definition: Definition,
        rows: Rows,
        steps: Steps,
        *,
        batch_events: int,
        clock: Clock,
        changes: Changes,
    ) -> None:
        """Read ``store``; ``changes`` are told after each transaction."""
        self._store: Final = store
        self._types: Final = definition.event_classes
        self._rows: Final = rows
        self._steps: Final = steps
        self._batch_events: Final = batch_events
        self._clock: Final = clock
        self._changes: Final = changes
        self._kept = 0
        self.position = 0

    async def begin(self) -> None:
        """Go to the checkpoint: at first, and after trouble.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        async with self._store.transaction() as connection:
            self._kept = self.position = await self._rows.position(connection)

    async def follow(self) -> None:
        """React to everything there is, and to what comes, until the store closes.

        Raises:
            ClosedError: The store is closed.
            AvxEventsError: It cannot be read or written now, or an event of these types cannot be decoded.
        """
        while True:
            last = await self._store.last_position()
            if self.position < last:
                await self._catch_up(last)
            else:
                await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        """Return when there is something after what is done, whatever it is; it is read where it is reacted to."""
        try:
            await anext(self._store.subscribe(after=self.position, unknown="keep"))
        except StopAsyncIteration:
            raise ClosedError("the event store", "follow it") from None
        except PermanentError as exc:
            log.debug("an event after position %d: %s", self.position, exc)

    async def _catch_up(self, until: int) -> None:
        batch: list[StoredEvent[Any]] = []
        async with aclosing(self._store.read_all(self.position, until=until, types=self._types)) as events:
            async for stored in events:
                batch.append(stored)
                if len(batch) >= self._batch_events:
                    await self._commit(batch, stored.position)
                    batch = []
        if batch or until - self._kept >= _MOST_UNKEPT:
            await self._commit(batch, until)
        self._advance(until)

    async def _commit(self, batch: Sequence[StoredEvent[Any]], until: int) -> None:
        async with self._store.transaction() as connection:
            reached = await self._rows.position(connection)
            if reached < until:  # else another runner was here
                now_us = await shared_now_us(connection, self._clock)
                left = [stored for stored in batch if stored.position > reached]
                await self._steps.react(connection, left, now_us=now_us)
                await self._rows.move(connection, until)
        self._kept = max(until, reached)
        self._advance(until)

    def _advance(self, position: int) -> None:
        self.position = max(self.position, position)
        self._changes.tell()
