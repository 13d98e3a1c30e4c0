"""Reads the log for one consumer, ahead of its handler as far as there is room."""

import asyncio
from collections.abc import Callable
from typing import Final

from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.store.ports import STRETCH_EVENTS, LogFilter, LogPage, StoreEngine

PAGE: Final = 512
"""Records in one page."""


class LogReader:
    """Gives pages of the log, one after the other, and waits for more at its end.

    Attributes:
        reached: Up to which position everything that is wanted was given.
    """

    def __init__(
        self,
        engine: StoreEngine,
        *,
        what: str,
        wanted: Callable[[], LogFilter | None],
        on_page: Callable[[LogPage], bool],
        on_error: Callable[[AvxEventsError], None],
    ) -> None:
        """Read nothing yet; ``begin`` does.

        Args:
            engine: Whose log.
            what: What logs call the consumer.
            wanted: Tells which records are wanted, as it is then.
            on_page: Given each page; tells whether there is room for another.
            on_error: Given what ended the reading; ``begin`` starts it again.
        """
        self.reached = 0
        self._engine: Final = engine
        self._what: Final = what
        self._wanted: Final = wanted
        self._on_page: Final = on_page
        self._on_error: Final = on_error
        self._has_room: Final = asyncio.Event()
        self._scope: Final = TaskScope()
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it was told where to begin."""
        return self._task is not None

    def begin(self, after: int) -> None:
        """Read on after this position, whatever was read before."""
        if self._task is not None:
            self._task.cancel()
        self.reached = after
        self._has_room.set()
        self._task = self._scope.spawn(self._run(), name=f"avx-events log bus: read the log for {self._what}")

    def go_on(self) -> None:
        """Read on: there is room."""
        self._has_room.set()

    async def close(self) -> None:
        """Read nothing more."""
        await self._scope.cancel()

    async def _run(self) -> None:
        try:
            await self._read()
        except AvxEventsError as exc:
            self._on_error(exc)

    async def _read(self) -> None:
        while True:
            await self._has_room.wait()
            after = self.reached
            page = await self._engine.read_all(after=after, limit=PAGE, wanted=self._wanted())
            self.reached = page.reached
            if not self._on_page(page):
                self._has_room.clear()
            if len(page.records) < PAGE and page.reached - after < STRETCH_EVENTS:
                await self._engine.wait_for_append(page.reached)
