"""A small shop for a console to look at: orders, receipts that fail, a read model, and people with accounts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from avx_events import (
    AggregateRoot,
    Connection,
    DeadLetterQueue,
    Event,
    EventStore,
    Projection,
    Projector,
    TopicBus,
    context,
    handles,
)
from avx_events.apps.console import Console, serve
from avx_events.core.event import Personal
from avx_events.core.tasks import TaskScope

SCRIPT: Final = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


class AccountOpened(Event, event_type="stall.account.opened", aggregate_id="account_id"):
    account_id: str
    name: str
    email: Personal[str]


class OrderPlaced(Event, event_type="stall.order.placed", aggregate_id="order_id"):
    order_id: str
    account_id: str
    email: Personal[str]
    total: float
    note: str = ""


class OrderPaid(Event, event_type="stall.order.paid", aggregate_id="order_id"):
    order_id: str
    total: float


class Order(AggregateRoot):
    account_id: str = ""
    email: Personal[str] = ""
    total: float = 0.0
    status: str = "new"
    notes: list[str] = []  # noqa: RUF012 - each instance has its own

    def apply(self, event: Event) -> None:
        match event:
            case OrderPlaced(account_id=account_id, email=email, total=total, note=note):
                self.account_id, self.email, self.total, self.status = account_id, email, total, "placed"
                self.notes.append(note)
            case OrderPaid():
                self.status = "paid"
            case _:
                pass


class Turnover(Projection, name="turnover", version=2):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE IF NOT EXISTS turnover (order_id TEXT, total REAL)")

    @handles(OrderPaid)
    async def add(self, event: OrderPaid, connection: Connection) -> None:
        await connection.execute("INSERT INTO turnover VALUES (?, ?)", event.order_id, event.total)


class MailServerDownError(Exception):
    """The server of the mails does not take any."""


class Shop:
    """What runs: a bus with two handlers, a store and a projector."""

    def __init__(self, bus: TopicBus, store: EventStore, url: str) -> None:
        self.bus = bus
        self.store = store
        self.url = url
        self.can_mail = True
        self.receipts: list[OrderPlaced] = []

    async def email_receipt(self, event: OrderPlaced) -> None:
        if not self.can_mail and event.total < 1000:
            raise MailServerDownError(f"550 mailbox of {event.email} is not there")
        self.receipts.append(event)

    async def sell(self, number: int) -> None:
        """Append and publish an order and its payment, one because of the other."""
        order_id = f"order-{number:03}"
        placed = OrderPlaced(order_id, f"account-{number % 7}", f"customer{number}@example.com", 19.9 + number, "gift")
        with context(user_id="ada", correlation_id=f"checkout-{number}"):
            await self.store.append(order_id, [placed])
        [stored] = await self.store.get_events(order_id)
        metadata = stored.metadata
        await self.bus.publish(stored)
        with context(user_id="bank", correlation_id=metadata.correlation_id, causation_id=metadata.event_id):
            await self.store.append(order_id, [OrderPaid(order_id, placed.total)])
        await self.bus.publish((await self.store.get_events(order_id, 1))[0])


@asynccontextmanager
async def open_shop(folder: Path, *, port: int = 0, token: str | None = None) -> AsyncGenerator[Shop]:
    """Open a shop whose store is in ``folder``, with a console on a port of its own."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bus = TopicBus(dead_letter_queue=DeadLetterQueue())
    scope = TaskScope()
    async with await EventStore.connect(f"sqlite:///{folder / 'shop.db'}") as store:
        shop = Shop(bus, store, "")
        bus.on("stall.order.placed", name="email_receipt", retry=None)(shop.email_receipt)
        bus.on("stall.order.*", name="count_orders", concurrency=4)(_count)
        async with Projector(store, Turnover()) as projector, bus:
            console = Console(
                bus=bus,
                store=store,
                projector=projector,
                aggregates={"order-": Order},
                latencies=_latencies,
                token=token,
            )
            scope.spawn(serve(console, port=port, on_started=url.set_result), name="console")
            shop.url = await url
            try:
                yield shop
            finally:
                await scope.cancel(grace_s=5)


async def _count(_: Event) -> None:
    """Count, as others do it."""


def _latencies() -> Mapping[str, Mapping[str, Any]]:
    slow = 0.08 + 0.03 * (time.monotonic() % 9 / 9)
    return {name: {"p50": slow / 6, "p99": slow} for name in ("count_orders", "email_receipt")}
