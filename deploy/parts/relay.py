"""Brings the log of the service's store to a broker: ``python -m deploy.parts.relay``.

The service does that itself where it has ``AVX_EVENTS__BUS_URL``. Apart from it, requests are answered from the first
moment though the broker is away, what the service reports of itself stays with it, and a backlog costs requests no
processor. It is the same relay, by name: of all that run, in either place, one publishes.

It opens the store of the service, so on SQLite it runs on the same machine and the same disk. It also tells Prometheus
how far the groups are behind: once, and not from each of their members.

| environment | | if not set |
|---|---|---|
| ``AVX_EVENTS__BUS_URL`` | where to | refused |
| ``AVX_EVENTS__NAMESPACE``, ``AVX_EVENTS__STORE_URL`` | the broker's names, and from where | as for the service |
| ``AVX__HTTP__BIND_ADDR`` | where it answers | as for the service |
"""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from typing import Final

from avx_events import AvxEventsError, DeadLetterQueue, EventBus, EventStore, Inspector, TransportUnavailableError
from avx_events.observability import Metrics, Settings, Tracing
from avx_events.observability.settings import EventsSettings
from deploy.parts.edge import BUS_URL, edge, main, required, serve
from examples.production_service.service import relay_to

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
                relaying = tasks.create_task(relay(store, url, settings.events, metrics))
                await serve(edge(ask=store.last_position, metrics=metrics), settings)
                relaying.cancel()
        except* AvxEventsError as failures:
            raise failures.exceptions[0] from None


async def relay(store: EventStore, url: str, events: EventsSettings, metrics: Metrics) -> None:
    """Publish to the broker at ``url`` until it is cancelled, and count it and what the groups have not done.

    Raises:
        AvxEventsError: The broker refuses.
    """
    async with AsyncExitStack() as parts:
        letters = await parts.enter_async_context(await DeadLetterQueue.connect(events.store_url))
        bus = await parts.enter_async_context(await connected(url, namespace=events.namespace))
        Tracing(parent=True).observe(bus)
        metrics.add_bus(bus, name="relay")
        inspector = await Inspector.connect(url, namespace=events.namespace)
        metrics.add_groups(await parts.enter_async_context(inspector))
        await parts.enter_async_context(relay_to(bus, store, letters, events))
        await asyncio.Event().wait()


async def connected(url: str, *, namespace: str) -> EventBus:
    """Return a bus on the broker, once it answers.

    Raises:
        AvxEventsError: The broker refuses, or the URL is none.
    """
    while True:
        try:
            return await EventBus.connect(url, namespace=namespace)
        except TransportUnavailableError as exc:
            log.warning("waiting for the broker: %s", exc)
            await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.exit(main(run, name="relay"))
