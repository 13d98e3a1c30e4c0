"""A service with tables of its own publishes what happened, and another one acts on it once, on SQLite.

    python examples/outbox.py

A shop writes its orders into a table. If it published an event before the commit, an order that is undone would be
billed; after it, a crash in between would leave an order that nobody hears of. So the event is committed with the
order, and a relay publishes it. What is published may come twice: the consumer's inbox sees to that.
"""

import asyncio
import logging
import sqlite3
import sys
from contextlib import closing
from tempfile import TemporaryDirectory

from avx_events import Connection, Event, EventBus, EventStore, Inbox, Outbox, OutboxRelay, PublishUnknownError
from avx_events.testing import MockEventBus


class OrderPlaced(Event, aggregate_id="order_id"):
    order_id: str
    cents: int


class Shop:
    """Plain code on a plain connection: it knows the outbox, and neither relay nor bus."""

    def __init__(self, database: sqlite3.Connection, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    def place(self, order_id: str, cents: int) -> None:
        with self._database:  # one transaction: both are committed, or neither is
            self._database.execute("INSERT INTO orders VALUES (?, ?)", (order_id, cents))
            self._outbox.add_nowait(OrderPlaced(order_id, cents), self._database)
            if cents <= 0:
                raise ValueError(f"order {order_id} costs nothing")


def place_orders(path: str, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, cents INTEGER)")
        shop = Shop(database, outbox)
        shop.place("order-1", 1250)
        try:
            shop.place("order-2", 0)
        except ValueError as exc:
            print(f"Undone: {exc}")
        shop.place("order-3", 4000)
        (count,) = database.execute("SELECT count(*) FROM orders").fetchone()
        print(f"{count} orders are in the table")


async def create_bills(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute("CREATE TABLE bills (order_id TEXT, cents INTEGER)")


def bill_orders(bus: EventBus, store: EventStore) -> None:
    inbox = Inbox(store, name="billing")

    @bus.on(OrderPlaced)
    @inbox.handler  # its connection is in the transaction that also remembers the event
    async def bill(event: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO bills VALUES (?, ?)", event.order_id, event.cents)
        print(f"Billed: {event.order_id}, {event.cents / 100:.2f}")


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="  log: %(message)s")
    with TemporaryDirectory() as folder:
        shop_url, billing_url = f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/billing.db"
        outbox = Outbox()
        # The bus does what every broker may do: it takes the first event, and the confirmation is lost.
        bus = MockEventBus()
        bus.faults.lose_confirmation(PublishUnknownError("the bus", "order.placed", "no answer"))

        async with await EventStore.connect(shop_url) as shop_store, await EventStore.connect(billing_url) as billing:
            await outbox.prepare(shop_store)  # or run outbox_ddl("sqlite") with your other migrations
            await create_bills(billing)
            bill_orders(bus, billing)
            await asyncio.to_thread(place_orders, f"{folder}/shop.db", outbox)

            async with bus, OutboxRelay(shop_store, bus) as relay:
                await relay.caught_up()
                await bus.settled()
                published, delivered = relay.statistics().published, len(bus.published_events())
                print(f"\n{published} events, one of them twice: {delivered} deliveries")

            bills = await billing.fetch("SELECT count(*), sum(cents) FROM bills")
            left = await shop_store.fetch("SELECT count(*) FROM avx_outbox")
            print(f"{bills[0][0]} bills over {bills[0][1] / 100:.2f}; {left[0][0]} events wait in the outbox")


if __name__ == "__main__":
    asyncio.run(main())
