"""Three services and the process between them: reserve, charge, ship; or take back what was done, on SQLite.

    python examples/order_process.py

No service knows another one, or what comes next: that is in OrderProcess, in one place. It is told what happened, says
what is to be done, and its state, its commands and its deadlines are in the database with the place in the log: a
program that is killed anywhere in here goes on from there when it is started again.
"""

import asyncio
from tempfile import TemporaryDirectory

from avx_events import (
    Command,
    CommandBus,
    Event,
    EventStore,
    ProcessManager,
    ProcessRunner,
    ValidationError,
    on_deadline,
    on_failure,
    reacts,
    starts,
)
from avx_events.patterns.cqrs import idempotency_key

# What happened.


class OrderPlaced(Event, aggregate_id="order_id"):
    order_id: str
    card: str
    cents: int


class StockReserved(Event, aggregate_id="order_id"):
    order_id: str


class CardCharged(Event, aggregate_id="order_id"):
    order_id: str
    cents: int


class OrderShipped(Event, aggregate_id="order_id"):
    order_id: str


class StockReleased(Event, aggregate_id="order_id"):
    order_id: str


class OrderCancelled(Event, aggregate_id="order_id"):
    order_id: str
    why: str


# What is to be done, and by whom.


class ReserveStock(Command[None]):
    order_id: str


class ReleaseStock(Command[None]):
    order_id: str


class ShipOrder(Command[None]):
    order_id: str


class ChargeCard(Command[None]):
    order_id: str
    card: str
    cents: int


class CancelOrder(Command[None]):
    order_id: str
    why: str


class OrderProcess(ProcessManager, name="orders"):
    """One order, from its placing to its end."""

    card: str = ""
    cents: int = 0

    @starts(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.card, self.cents = event.card, event.cents
        self.send(ReserveStock(self.id))

    @reacts(StockReserved)
    def reserved(self, _: StockReserved) -> None:
        self.send(ChargeCard(self.id, self.card, self.cents))
        self.deadline("payment", after_s=1)  # days, in a shop

    @reacts(CardCharged)
    def charged(self, _: CardCharged) -> None:
        self.cancel("payment")
        self.send(ShipOrder(self.id))

    @reacts(OrderShipped)
    def shipped(self, _: OrderShipped) -> None:
        self.end()

    @on_failure(ChargeCard)
    def declined(self, _: ChargeCard, error: str) -> None:
        self._take_back(error)

    @on_deadline("payment")
    def unanswered(self) -> None:
        self._take_back("the bank does not answer")

    def _take_back(self, why: str) -> None:
        self.send(ReleaseStock(self.id))
        self.send(CancelOrder(self.id, why))
        self.end()


def open_shipping(commands: CommandBus, store: EventStore) -> None:
    @commands.handler
    async def reserve(command: ReserveStock) -> None:
        print("  shipping  reserves what was ordered")
        await store.append(f"shipping-{command.order_id}", StockReserved(command.order_id))

    @commands.handler
    async def release(command: ReleaseStock) -> None:
        print("  shipping  puts it back on the shelf")
        await store.append(f"shipping-{command.order_id}", StockReleased(command.order_id))

    @commands.handler
    async def ship(command: ShipOrder) -> None:
        print("  shipping  sends it off")
        await store.append(f"shipping-{command.order_id}", OrderShipped(command.order_id))


def open_payment(commands: CommandBus, store: EventStore) -> None:
    @commands.handler
    async def charge(command: ChargeCard) -> None:
        if command.card == "expired":
            print("  payment   refuses the card")
            raise ValidationError("the card has expired")  # never right, however often it is tried
        if command.card == "slow":
            print("  payment   asks the bank, and hears nothing")
            return
        print(f"  payment   charges {command.cents / 100:.2f}")
        await store.append(f"payment-{command.order_id}", CardCharged(command.order_id, command.cents))


def open_orders(commands: CommandBus, store: EventStore) -> None:
    @commands.handler
    async def cancel(command: CancelOrder) -> None:
        print(f"  orders    cancels it: {command.why}")
        await store.append(command.order_id, OrderCancelled(command.order_id, command.why))


async def place(store: EventStore, order: OrderPlaced) -> str:
    """Place an order, wait until it has come to its end, and return the id of everything that came of it."""
    print(f"\n{order.order_id} is placed, by a card that is {order.card}")
    placed = await store.append(order.order_id, order)
    async with asyncio.timeout(10):
        async for ended in store.subscribe(after=placed.position, types=[OrderShipped, OrderCancelled]):
            return ended.metadata.correlation_id
    raise AssertionError("a subscription ends when its store is closed")


async def main() -> None:
    with TemporaryDirectory() as folder:
        async with await EventStore.connect(f"sqlite:///{folder}/shop.db") as store:
            commands = CommandBus(middleware=[idempotency_key(store)])  # what comes again has its effect once
            for open_service in (open_orders, open_payment, open_shipping):
                open_service(commands, store)

            async with ProcessRunner(store, OrderProcess, commands=commands) as runner:
                await place(store, OrderPlaced("order-1", "good", 1250))
                await place(store, OrderPlaced("order-2", "expired", 900))
                chain = await place(store, OrderPlaced("order-3", "slow", 4000))
                await runner.settled()
                ended = await runner.processes(status="ended")

            print(f"\n{len(ended)} processes have ended, and nothing waits. All that came of order-3:")
            for entry in await store.correlated(chain):
                print(f"  {entry.stored.metadata.event_type} in {entry.stored.stream}")


if __name__ == "__main__":
    asyncio.run(main())
