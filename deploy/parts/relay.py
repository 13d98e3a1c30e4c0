"""Publishes the orders in the service's store to a broker: ``python -m deploy.parts.relay``.

It opens the store of the service, so on SQLite it runs on the same machine and the same disk; any number may run, and
one of them publishes.

| environment | | if not set |
|---|---|---|
| ``AVX_EVENTS__BROKER_URL`` | where to | refused |
| ``AVX_EVENTS__STORE_URL`` | from where | as for the service |
| ``AVX__HTTP__BIND_ADDR`` | where it answers | as for the service |
"""

import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

from avx_events import EventBus, EventStore, Relay
from deploy.parts.edge import BROKER_URL, edge, main, required, serve
from examples.production_service.orders import OrderPlaced
from examples.production_service.prometheus import gauge
from examples.production_service.settings import settings_from


async def run(environment: Mapping[str, str]) -> None:
    """Publish until a signal comes.

    Raises:
        SettingError: A setting is missing or malformed.
        AvxEventsError: Store or broker cannot be opened.
        OSError: The address cannot be listened on.
    """
    settings = settings_from(environment)
    async with AsyncExitStack() as parts:
        bus = await parts.enter_async_context(await EventBus.connect(required(environment, BROKER_URL)))
        store = await parts.enter_async_context(await EventStore.connect(settings.store_url))
        relay = await parts.enter_async_context(Relay(store, bus, name="to-the-broker", types=[OrderPlaced]))

        def metrics() -> str:
            return gauge("avx_relay_position", "Up to here the broker has the log.", relay.statistics().position)

        await serve(edge(ask=relay.lag, metrics=metrics), settings)


if __name__ == "__main__":
    sys.exit(main(run(os.environ)))
