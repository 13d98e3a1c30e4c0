"""Runs a relay from a store to a bus until it is told to stop or killed; says when it is the active one.

Usage: relay_worker.py log | outbox STORE_URL BUS_URL NAMESPACE OPTIONS
"""

import asyncio
import json
import signal
import sys
from typing import Any

from avx_events import Event, EventBus, EventStore, OutboxRelay, Relay


class Moved(Event, event_type="relay.moved", aggregate_id="key"):
    key: str
    number: int


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def main(kind: str, store_url: str, bus_url: str, namespace: str, options: dict[str, Any]) -> None:
    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    async with (
        await EventStore.connect(store_url) as store,
        await EventBus.connect(bus_url, namespace=namespace) as bus,
        Relay(store, bus, name="to-bus", **options)
        if kind == "log"
        else OutboxRelay(store, bus, poll_s=0.02, **options) as relay,
    ):
        say("ready")
        while not relay.is_active and not ends.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing announces that another process is not the active one any more
        say("active")
        await ends.wait()


if __name__ == "__main__":
    kind, store_url, bus_url, namespace, options = sys.argv[1:]
    asyncio.run(main(kind, store_url, bus_url, namespace, json.loads(options)))
