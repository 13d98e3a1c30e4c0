"""Publishes the orders in the service's store to a broker: ``python -m deploy.parts.relay``.

It opens the store of the service, so on SQLite it runs on the same machine and the same disk; any number may run, and
one of them publishes. It also tells Prometheus how far the groups are behind: once, and not from each of their members.

| environment | | if not set |
|---|---|---|
| ``AVX_EVENTS__BUS_URL`` | where to | refused |
| ``AVX_EVENTS__STORE_URL`` | from where | as for the service |
| ``AVX__HTTP__BIND_ADDR`` | where it answers | as for the service |
"""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from typing import Final

from avx_events import AvxEventsError, EventBus, EventStore, Inspector, Relay, TransportUnavailableError
from avx_events.observability import Metrics, Settings, Tracing
from deploy.parts.edge import BUS_URL, edge, main, required, serve
from examples.production_service.orders import OrderPlaced

_PAUSE_S: Final = 5.0  # connect() has waited for timeout_s before

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Publish until a signal comes. A broker that is away is waited for, so that the service beside it is not held up.

    Raises:
        SettingError: A setting is missing or malformed.
        AvxEventsError: The store cannot be opened, or the broker refuses.
    """
    url = required(BUS_URL, settings.events.bus_url)
    async with await EventStore.connect(settings.events.store_url) as store:
        metrics = Metrics()
        try:
            async with asyncio.TaskGroup() as tasks:
                relaying = tasks.create_task(relay(store, url, metrics))
                await serve(edge(ask=store.last_position, metrics=metrics), settings)
                relaying.cancel()
        except* AvxEventsError as failures:
            raise failures.exceptions[0] from None


async def relay(store: EventStore, url: str, metrics: Metrics) -> None:
    """Publish to the broker at ``url`` until it is cancelled, and count it and what the groups have not done.

    Raises:
        AvxEventsError: The broker refuses.
    """
    async with AsyncExitStack() as parts:
        bus = await parts.enter_async_context(await connected(url))
        Tracing(parent=True).observe(bus)
        metrics.add_bus(bus, name="relay")
        metrics.add_groups(await parts.enter_async_context(await Inspector.connect(url)))
        await parts.enter_async_context(Relay(store, bus, name="to-the-broker", types=[OrderPlaced]))
        await asyncio.Event().wait()


async def connected(url: str) -> EventBus:
    """Return a bus on the broker, once it answers.

    Raises:
        AvxEventsError: The broker refuses, or the URL is none.
    """
    while True:
        try:
            return await EventBus.connect(url)
        except TransportUnavailableError as exc:
            log.warning("waiting for the broker: %s", exc)
            await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.exit(main(run, name="relay"))
