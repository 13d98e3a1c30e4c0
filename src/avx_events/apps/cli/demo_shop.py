"""The shop of ``avx-events demo``: a small system that lives, with a handler that fails now and then."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event, Personal
from avx_events.core.metadata import context
from avx_events.core.policy import Retry
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.outbox import Relay
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

Say = Callable[[str], None]

_CUSTOMERS: Final = ("ada", "grace", "edsger", "barbara", "tony")
_GOODS: Final = (("tea", 450), ("a lamp", 3_900), ("two chairs", 12_800), ("a book", 1_990))
_BAD_CARDS: Final = 0.15
_RETRY: Final = Retry(attempts=3, initial_s=0.2, max_s=1.0)


class DemoEvent(Event, event_type="avx.demo", aggregate_id="order_id"):
    """Something that happened to an order."""

    order_id: str


class OrderPlaced(DemoEvent, event_type="avx.demo.order-placed"):
    """Somebody wants something, and gives a card."""

    what: str
    cents: int
    email: Personal[str]
    card: str = "valid"


class OrderPaid(DemoEvent, event_type="avx.demo.order-paid"):
    """The card was charged."""

    cents: int


class OrderShipped(DemoEvent, event_type="avx.demo.order-shipped"):
    """It is on its way."""


class Order(AggregateRoot):
    """What is known of an order."""

    what: str = ""
    cents: int = 0
    email: Personal[str] = ""
    status: str = "new"

    def apply(self, event: Event) -> None:
        """Take ``event`` in."""
        match event:
            case OrderPlaced(what=what, cents=cents, email=email):
                self.what, self.cents, self.email, self.status = what, cents, email, "placed"
            case OrderPaid():
                self.status = "paid"
            case OrderShipped():
                self.status = "shipped"
            case _:
                pass


class Sales(Projection, name="sales", tables=("sales",)):
    """How much of what was paid."""

    async def setup(self, connection: Connection) -> None:
        """Make the table."""
        await connection.execute(f"CREATE TABLE {self.table('sales')} (order_id TEXT PRIMARY KEY, cents INTEGER)")

    @handles(OrderPaid)
    async def add(self, event: OrderPaid, connection: Connection) -> None:
        """Note what was paid; an order that was mended and paid again counts once."""
        sql = f"INSERT INTO {self.table('sales')} VALUES (?, ?) ON CONFLICT DO NOTHING"  # noqa: S608 - our own name
        await connection.execute_later(sql, event.order_id, event.cents)


class CardDeclinedError(Exception):
    """The bank does not take the card."""


class Shop(msgspec.Struct, frozen=True):
    """The parts that run.

    Attributes:
        store: The events.
        bus: Where the handlers are.
        projector: Keeps the read model.
        relay: Brings what is in the store to the bus.
        letters: What the handlers gave up.
    """

    store: EventStore
    bus: EventBus
    projector: Projector
    relay: Relay
    letters: DeadLetterQueue


@asynccontextmanager
async def open_shop(url: str, say: Say) -> AsyncGenerator[Shop, None]:
    """Run a shop on the store at ``url``, which ``say`` is told of."""
    async with await EventStore.connect(url) as store, await DeadLetterQueue.connect(url) as letters:
        bus = EventBus(name="demo", dead_letter_queue=letters)
        _register(bus, store, say)
        async with bus, Projector(store, Sales()) as projector, Relay(store, bus, name="demo") as relay:
            yield Shop(store, bus, projector, relay, letters)


async def trade(shop: Shop, *, orders: int | None, each_s: float, say: Say, chance: random.Random) -> None:
    """Place an order every so often: so many, or for ever."""
    number = 0
    while orders is None or number < orders:
        number += 1
        what, cents = chance.choice(_GOODS)
        customer = chance.choice(_CUSTOMERS)
        card = "expired" if chance.random() < _BAD_CARDS else "valid"
        order = OrderPlaced(f"order-{number:04}", what, cents, f"{customer}@example.com", card)
        with context(user_id=customer):
            await shop.store.append(order.order_id, order)
        say(f"{order.order_id} is placed: {what} for {customer}")
        if orders is None or number < orders:
            await asyncio.sleep(each_s)
    await finish(shop)


async def finish(shop: Shop) -> None:
    """Wait until everything is done that follows from what is in the store."""
    before = -1
    while before != (last := await shop.store.last_position()):
        before = last
        await shop.relay.caught_up()
        await shop.bus.settled()
    await shop.projector.caught_up()


async def sales_of(shop: Shop) -> tuple[int, int]:
    """Return how many orders were paid, and how much that was, in cents."""
    row = await shop.store.fetch_one("SELECT count(*), coalesce(sum(cents), 0) FROM sales")
    return (0, 0) if row is None else (row[0], row[1])


def _register(bus: EventBus, store: EventStore, say: Say) -> None:
    @bus.on(OrderPlaced, name="charge", retry=_RETRY, concurrency=4)
    async def charge(order: OrderPlaced) -> None:
        if order.card != "valid":
            problem = f"the card of {order.order_id} is {order.card}; edit the event, and give it back"
            raise CardDeclinedError(problem)
        await store.append(order.order_id, OrderPaid(order.order_id, order.cents))
        say(f"{order.order_id} is paid")

    @bus.on(OrderPaid, name="ship", retry=_RETRY)
    async def ship(paid: OrderPaid) -> None:
        await store.append(paid.order_id, OrderShipped(paid.order_id))
        say(f"{paid.order_id} is shipped")

    _ = (charge, ship)
