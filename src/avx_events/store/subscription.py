"""Follows the log of any engine: what is there, then what comes, each event once and in order."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final, Self

from avx_events.core.errors import ClosedError
from avx_events.store.ports import PAGE_EVENTS, StoreEngine
from avx_events.store.stored_event import StoredEvent, stored_events


class StoreSubscription:
    """The events of the whole log, one by one, for ever; what ``EventStore.subscribe`` gives. Ends with the store.

    It holds nothing open between two steps, so it needs no closing. A step that is cancelled or raises gives no event:
    the next one goes on after ``position``. Tasks that share a subscription share its events.
    """

    __slots__ = ("_engine", "_is_at_end", "_keep_unknown", "_page", "_position", "_turn")

    def __init__(self, engine: StoreEngine, *, after: int, keep_unknown: bool) -> None:
        """Begin after position ``after`` of the log of ``engine``."""
        self._engine: Final = engine
        self._keep_unknown: Final = keep_unknown
        self._position = after
        self._page = _no_page()
        self._is_at_end = False
        self._turn: Final = asyncio.Lock()

    @property
    def position(self) -> int:
        """The position of the last event given, at first the one it began after."""
        return self._position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent[Any]:
        """Return the next event, as soon as there is one.

        Raises:
            StopAsyncIteration: The store is closed.
            UnknownEventTypeError: No class has the type of the next event.
            DecodeError: The next event does not fit its class.
            StoreUnavailableError: The log cannot be read now.
            StoreSchemaError: The database is damaged.
            WrongLoopError: The store belongs to another loop.
        """
        stored = self._next_of_page()
        if stored is not None:
            return stored
        async with self._turn:
            while (stored := self._next_of_page()) is None:
                await self._turn_page()
        return stored

    def _next_of_page(self) -> StoredEvent[Any] | None:
        try:
            stored = next(self._page, None)
        except BaseException:
            # A generator that raised is spent; what comes after the last event given is read again.
            self._page, self._is_at_end = _no_page(), False
            raise
        if stored is not None:
            self._position = stored.position
        return stored

    async def _turn_page(self) -> None:
        if self._is_at_end:
            await self._engine.wait_for_append(self._position)
        try:
            page = await self._engine.read_all(after=self._position, limit=PAGE_EVENTS)
        except ClosedError:
            raise StopAsyncIteration from None
        self._is_at_end = len(page) < PAGE_EVENTS
        self._page = stored_events(page, keep_unknown=self._keep_unknown)


def _no_page() -> Iterator[StoredEvent[Any]]:
    return iter(())
