"""A shop: what happens, what is ordered to be done, and the process between them."""

from avx_events import Command, Event
from avx_events.patterns.process import ProcessManager, on_deadline, on_failure, reacts, starts


class Placed(Event, event_type="process.order.placed", aggregate_id="order_id"):
    order_id: str
    total: int


class Paid(Event, event_type="process.order.paid", aggregate_id="payment_id"):
    payment_id: str
    order_id: str


class Declined(Event, event_type="process.order.declined", aggregate_id="order_id"):
    order_id: str
    reason: str


class Noticed(Event, event_type="process.noticed"):
    text: str


class Pay(Command[None], event_type="process.pay", aggregate_id="order_id"):
    order_id: str
    total: int


class Ship(Command[None], event_type="process.ship", aggregate_id="order_id"):
    order_id: str


class Cancel(Command[None], event_type="process.cancel", aggregate_id="order_id"):
    order_id: str
    why: str


class Fulfilment(ProcessManager, name="fulfilment"):
    status: str = "new"
    seen: list[str] = []  # noqa: RUF012 - each process has its own

    @starts(Placed, by="order_id")
    def placed(self, event: Placed) -> None:
        self.status = "paying"
        self.seen.append(event.order_id)
        self.send(Pay(event.order_id, event.total))
        self.deadline("payment", after_s=60)

    @reacts(Paid, by="order_id")
    def paid(self, event: Paid) -> None:
        self.status = "shipping"
        self.cancel("payment")
        self.send(Ship(event.order_id))

    @reacts(Declined, by="order_id")
    def declined(self, event: Declined) -> None:
        if event.reason == "bug":
            message = "cannot cope"
            raise ValueError(message)
        self.status = "declined"
        self.send(Cancel(event.order_id, event.reason))
        self.end()

    @on_deadline("payment")
    def too_late(self) -> None:
        self.status = "too late"
        self.send(Cancel(self.id, "no answer"))
        self.end()

    @on_failure(Ship)
    def cannot_ship(self, command: Ship, error: str) -> None:
        self.status = f"not shipped: {error}"
        self.send(Cancel(command.order_id, error))
        self.end()
