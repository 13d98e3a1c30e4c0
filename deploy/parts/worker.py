"""Writes an invoice for each order that comes from a broker: ``python -m deploy.parts.worker``, any number of them.

They are the group ``invoicing`` and share the orders; sixteen at most have something to do, since so many lanes has the
log. An invoice and the note that its order was handled are committed together, so that an order that is delivered again
has no second invoice.

| environment | | if not set |
|---|---|---|
| ``AVX_EVENTS__BUS_URL`` | from where: Redis, NATS or Kafka | refused |
| ``AVX_EVENTS__NAMESPACE`` | the prefix of every name in the broker | as for the service |
| ``INVOICES_URL`` | where the invoices are: PostgreSQL | refused |
| ``AVX__HTTP__BIND_ADDR`` | where it answers | as for the service |
"""

import os
import sys
from contextlib import AsyncExitStack
from typing import Final

from avx_events import Connection, EventBus, EventStore, Inbox, Retry
from avx_events.observability import Metrics, Settings, Tracing
from deploy.parts.edge import BUS_URL, edge, main, required, serve
from examples.production_service.orders import OrderPlaced

INVOICES_URL: Final = "INVOICES_URL"
GROUP: Final = "invoicing"
DRAIN_TIMEOUT_S: Final = 10.0

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS invoices"
    " (order_id text PRIMARY KEY, user_id text NOT NULL, total_cents bigint NOT NULL)"
)
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('invoices'))::text"  # IF NOT EXISTS alone fails one of two
_ADD: Final = "INSERT INTO invoices (order_id, user_id, total_cents) VALUES ($1, $2, $3)"


async def run(settings: Settings) -> None:
    """Handle orders until a signal comes, and what was begun then.

    Raises:
        SettingError: A setting is missing or malformed.
        AvxEventsError: Database or broker cannot be opened.
    """
    invoices_url = required(INVOICES_URL, os.environ.get(INVOICES_URL))
    url = required(BUS_URL, settings.events.bus_url)
    async with AsyncExitStack() as parts:
        invoices = await parts.enter_async_context(await EventStore.connect(invoices_url))
        await prepare(invoices)
        bus = await EventBus.connect(
            url,
            namespace=settings.events.namespace,
            group=GROUP,
            start="earliest",
            drain_timeout_s=DRAIN_TIMEOUT_S,
        )
        write_invoices(bus, invoices)
        await parts.enter_async_context(bus)

        async def ask() -> None:
            await invoices.fetch_one("SELECT 1")
            await bus.dead_letter_queue.count()

        Tracing(parent=True).observe(bus)
        metrics = Metrics()
        metrics.add_bus(bus, name=GROUP)
        await serve(edge(ask=ask, metrics=metrics), settings)


async def prepare(invoices: EventStore) -> None:
    """Make the table, where several workers that start at once all try to.

    Raises:
        AvxEventsError: The database refuses it, or is away.
    """
    async with invoices.transaction() as connection:
        await connection.fetch_one(_LOCK)
        await connection.execute(_TABLE)


def write_invoices(bus: EventBus, invoices: EventStore) -> None:
    """Register the handler."""

    @bus.on(OrderPlaced, name="invoice", retry=Retry(attempts=5), concurrency=16, timeout_s=10)
    @Inbox(invoices, name=GROUP).handler
    async def write_invoice(order: OrderPlaced, connection: Connection) -> None:
        await connection.execute(_ADD, order.order_id, order.user_id, order.total_cents)


if __name__ == "__main__":
    sys.exit(main(run, name=GROUP))
