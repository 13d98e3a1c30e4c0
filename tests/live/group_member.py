"""A member of a group, in a process of its own: it writes down what its handler does, until it is told to stop.

Usage: group_member.py URL NAMESPACE FILE NAME OPTIONS, where OPTIONS is JSON: those of ``EventBus.connect``, and
``work_s`` (how long a handler takes), ``concurrency``, ``attempts``, and ``deadly``: publisher and number of the event
that ends the process.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from avx_events import Event, EventBus, Retry
from tests.live.deliveries import Step, Steps


class Numbered(Event, event_type="live.numbered", aggregate_id="key"):
    publisher: str
    number: int
    key: str


async def main(url: str, namespace: str, path: str, name: str, options: dict[str, Any]) -> None:
    steps = Steps(Path(path))
    work_s, deadly = options.pop("work_s", 0.001), options.pop("deadly", None)
    concurrency, attempts = options.pop("concurrency", 8), options.pop("attempts", 5)
    bus = await EventBus.connect(url, group="faults", namespace=namespace, start="earliest", **options)

    @bus.on(Numbered, name="handler", concurrency=concurrency, retry=Retry(attempts=attempts))
    async def handler(event: Numbered) -> None:
        steps.write(Step("began", name, event.publisher, event.number, event.key))
        if [event.publisher, event.number] == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(work_s)
        steps.write(Step("ended", name, event.publisher, event.number, event.key))

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with bus:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    at, in_namespace, file, name_of_member, given = sys.argv[1:]
    asyncio.run(main(at, in_namespace, file, name_of_member, json.loads(given)))
