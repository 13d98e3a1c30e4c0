"""Follows the log of any engine: what is there, then what comes, each event once and in order."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final, Self

from avx_events.core.errors import ClosedError
from avx_events.store.ports import PAGE_EVENTS, STRETCH_EVENTS, LogFilter, StoreEngine
from avx_events.store.stored_event import StoredEvent, stored_events


class StoreSubscription:
    """The events of the whole log, one by one, for ever; what ``EventStore.subscribe`` gives. Ends with the store.

    It holds nothing open between two steps, so it needs no closing. A step that is cancelled or raises gives no event:
    the next one goes on after ``position``. Tasks that share a subscription share its events.
    """

    __slots__ = ("_engine", "_is_at_end", "_keep_unknown", "_page", "_position", "_reached", "_turn", "_wanted")

    def __init__(self, engine: StoreEngine, *, after: int, keep_unknown: bool, wanted: LogFilter | None = None) -> None:
        """Begin after position ``after`` of the log of ``engine``, and give what is ``wanted``; None for all."""
        self._engine: Final = engine
        self._wanted: Final = wanted
        self._keep_unknown: Final = keep_unknown
        self._position = self._reached = after
        self._page = _no_page()
        self._is_at_end = False
        self._turn: Final = asyncio.Lock()

    @property
    def position(self) -> int:
        """Up to where everything that was wanted was given; at first the position that it began after.

        The position of the last event given, unless there is a filter: then later where later events are passed over.
        """
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
            self._page, self._is_at_end, self._reached = _no_page(), False, self._position
            raise
        self._position = self._reached if stored is None else stored.position
        return stored

    async def _turn_page(self) -> None:
        if self._is_at_end:
            await self._engine.wait_for_append(self._position)
        try:
            page = await self._engine.read_all(after=self._position, limit=PAGE_EVENTS, wanted=self._wanted)
        except ClosedError:
            raise StopAsyncIteration from None
        looked_at = page.reached - self._position
        self._is_at_end = len(page.records) < PAGE_EVENTS and looked_at < STRETCH_EVENTS
        self._reached = page.reached
        self._page = stored_events(page.records, keep_unknown=self._keep_unknown)


def _no_page() -> Iterator[StoredEvent[Any]]:
    return iter(())
