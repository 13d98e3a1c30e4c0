"""A member of a group on the log of a store, in a process of its own; it takes the arguments of ``group_member.py``.

OPTIONS are those of ``LogBus.connect``, and ``work_s``, ``concurrency``, ``attempts`` and ``deadly`` as there.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from avx_events import EventStore, LogBus, Retry
from tests.live.deliveries import Step, Steps
from tests.live.group_member import Numbered


async def main(url: str, path: str, name: str, options: dict[str, Any]) -> None:
    steps = Steps(Path(path))
    work_s, deadly = options.pop("work_s", 0.001), options.pop("deadly", None)
    concurrency, attempts = options.pop("concurrency", 8), options.pop("attempts", 5)
    async with await EventStore.connect(url) as store:
        bus = await LogBus.connect(store, group="faults", start="earliest", **options)

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
    at, _, file, name_of_member, given = sys.argv[1:]
    asyncio.run(main(at, file, name_of_member, json.loads(given)))
