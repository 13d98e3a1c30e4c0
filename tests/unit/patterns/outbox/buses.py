"""Buses that a test holds in its hand, and the events that it sends over them."""

import asyncio
from typing import TYPE_CHECKING, Any

from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope

if TYPE_CHECKING:
    from collections.abc import Callable


class Noted(Event, event_type="outbox.noted", aggregate_id="key"):
    key: str
    number: int


class Other(Event, event_type="outbox.other", aggregate_id="key"):
    key: str


class Keyless(Event, event_type="outbox.keyless"):
    number: int


class OwnedBus:
    """Accepts what it is given, unless the test says otherwise.

    Attributes:
        accepted: What it has accepted, in order.
        begun: What it was given, in order.
        refuses: Returns what a publish fails of, or None.
        loses: Returns what a publish fails of that was accepted nevertheless, or None.
    """

    def __init__(self) -> None:
        self.accepted: list[EventEnvelope[Any]] = []
        self.begun: list[EventEnvelope[Any]] = []
        self.refuses: Callable[[Any], BaseException | None] = lambda _: None
        self.loses: Callable[[Any], BaseException | None] = lambda _: None
        self._is_open = asyncio.Event()
        self._is_open.set()

    def hold(self) -> None:
        """Answer to nobody."""
        self._is_open.clear()

    def release(self) -> None:
        """Answer to all who wait, and to those who come."""
        self._is_open.set()

    async def publish(self, event: EventEnvelope[Any], /) -> None:
        """Accept an envelope, or fail as the test says."""
        self.begun.append(event)
        await self._is_open.wait()
        error = self.refuses(event.event)
        if error is not None:
            raise error
        self.accepted.append(event)
        error = self.loses(event.event)
        if error is not None:
            raise error

    @property
    def numbers(self) -> list[Any]:
        """The numbers of the events that were accepted, in order."""
        return [envelope.event.number for envelope in self.accepted]

    def numbers_of(self, key: str) -> list[int]:
        """Return the numbers of one key's."""
        return [envelope.event.number for envelope in self.accepted if envelope.metadata.aggregate_id == key]
