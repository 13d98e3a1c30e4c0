"""What carries out the commands of an order's process, and the stores that processes are tested on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from avx_events import CommandBus, EventStore, Retry
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.cqrs import CallNext
from tests.unit.patterns.process.orders import Cancel, Declined, Paid, Pay, Ship

NO_PAUSE: Final = Retry(attempts=3, initial_s=0, max_s=0)


class Shop:
    """The handlers of the commands; what they did, in order."""

    def __init__(self, store: EventStore, *, answer: str = "paid") -> None:
        self.store = store
        self.answer = answer
        self.done: list[Any] = []
        self.envelopes: list[EventEnvelope[Any]] = []
        self.bus = CommandBus()
        self.bus.handler(self.pay)
        self.bus.handler(self.ship)
        self.bus.handler(self.cancel)

    async def pay(self, command: Pay, envelope: EventEnvelope[Pay]) -> None:
        self.note(envelope)
        if self.answer == "paid":
            await self.store.append(f"payment-{command.order_id}", Paid(f"p-{command.order_id}", command.order_id))
        elif self.answer:
            await self.store.append(command.order_id, Declined(command.order_id, self.answer))

    async def ship(self, command: Ship, envelope: EventEnvelope[Ship]) -> None:
        self.note(envelope)

    async def cancel(self, command: Cancel, envelope: EventEnvelope[Cancel]) -> None:
        self.note(envelope)

    def note(self, envelope: EventEnvelope[Any]) -> None:
        self.done.append(envelope.event)
        self.envelopes.append(envelope)


class Stop:
    """A middleware that lets nobody through until it is open."""

    def __init__(self) -> None:
        self.is_open = False
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        self._reached.set()
        if not self.is_open:
            await self._opened.wait()
        return await call_next(envelope)

    async def reached(self) -> None:
        """Return when somebody has come."""
        async with asyncio.timeout(10):
            await self._reached.wait()

    def open(self) -> None:
        """Let all through."""
        self.is_open = True
        self._opened.set()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(url, **options) as store:
        yield store
