"""Orders that are killed: what happens, what is ordered to be done, the process between them, and who carries it out.

What a handler does to the world is an event ``Done`` of its own, so that the log tells what was done, how often and in
which order. What it appends as its answer it appends once, however often it runs.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from avx_events import Command, CommandBus, ConcurrencyError, Event, EventStore, ValidationError
from avx_events.patterns.cqrs import Middleware
from avx_events.patterns.process import ProcessManager, on_deadline, on_failure, reacts, starts

MANAGER = "live-fulfilment"

Reach: TypeAlias = Callable[[str], Awaitable[None]]
"""Is told which point a handler has come to."""


class Placed(Event, event_type="live.order.placed", aggregate_id="order_id"):
    order_id: str
    kind: str


class Paid(Event, event_type="live.order.paid", aggregate_id="order_id"):
    order_id: str


class Shipped(Event, event_type="live.order.shipped", aggregate_id="order_id"):
    order_id: str


class Cancelled(Event, event_type="live.order.cancelled", aggregate_id="order_id"):
    order_id: str
    why: str


class Done(Event, event_type="live.done", aggregate_id="order_id"):
    order_id: str
    what: str


class Pay(Command[None], event_type="live.pay", aggregate_id="order_id"):
    order_id: str
    kind: str


class Ship(Command[None], event_type="live.ship", aggregate_id="order_id"):
    order_id: str


class Cancel(Command[None], event_type="live.cancel", aggregate_id="order_id"):
    order_id: str
    why: str


class Fulfilment(ProcessManager, name=MANAGER):
    """A ``good`` order is paid and shipped, one that is ``declined`` or ``silent`` is cancelled."""

    status: str = "new"

    @starts(Placed)
    def placed(self, event: Placed) -> None:
        self.status = "paying"
        self.send(Pay(self.id, event.kind))
        self.deadline("payment", after_s=0.5 if event.kind == "silent" else 30)

    @reacts(Paid)
    def paid(self, event: Paid) -> None:
        self.status = "shipping"
        self.cancel("payment")
        self.send(Ship(self.id))

    @reacts(Shipped)
    def shipped(self, event: Shipped) -> None:
        self.status = "shipped"
        self.end()

    @on_deadline("payment")
    def late(self) -> None:
        self.status = "late"
        self.send(Cancel(self.id, "late"))
        self.end()

    @on_failure(Pay)
    def unpaid(self, command: Pay, error: str) -> None:
        self.status = "declined"
        self.send(Cancel(self.id, "declined"))
        self.end()


def command_bus(store: EventStore, *middleware: Middleware, reach: Reach) -> CommandBus:
    """Return the bus with the handlers of an order's commands; ``reach`` hears of the points of ``Pay``."""
    bus = CommandBus(middleware=middleware)

    async def done(order_id: str, what: str) -> None:
        await store.append(f"done-{order_id}", Done(order_id, what))

    async def answer(stream: str, event: Event) -> None:
        with suppress(ConcurrencyError):  # an attempt before this one has answered
            await store.append(stream, event, expected_version=0)

    @bus.handler
    async def pay(command: Pay) -> None:
        await reach("before the effect")
        if command.kind == "declined":
            raise ValidationError("no money")
        await done(command.order_id, "pay")
        await reach("after the effect")
        if command.kind == "good":
            await answer(f"payment-{command.order_id}", Paid(command.order_id))

    @bus.handler
    async def ship(command: Ship) -> None:
        await done(command.order_id, "ship")
        await answer(f"end-{command.order_id}", Shipped(command.order_id))

    @bus.handler
    async def cancel(command: Cancel) -> None:
        await done(command.order_id, "cancel")
        await answer(f"end-{command.order_id}", Cancelled(command.order_id, command.why))

    return bus
