"""A member of a group whose handler fails until it is mended, in a process of its own, until it is killed.

Usage: python -m tests.live.redrive_member URL NAMESPACE FOLDER; ``FOLDER/mended`` has the handler succeed, and
``FOLDER/hanging`` has it never end; it succeeds with 100 and more anyway. A line is a number that it begins with, the
first one is 0: it runs.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from avx_events import Event, EventBus

GROUP = "billing"
HANDLER = "bill"
REDELIVER_AFTER_S = 2.0


class Bill(Event, event_type="live.redrive.bill", aggregate_id="number"):
    number: int


def tell(line: object) -> None:
    os.write(1, msgspec.json.encode(line) + b"\n")


async def main(url: str, namespace: str, folder: Path) -> None:
    bus = await EventBus.connect(url, group=GROUP, namespace=namespace, redeliver_after_s=REDELIVER_AFTER_S)

    @bus.on(Bill, name=HANDLER, retry=None)
    async def bill(event: Bill) -> None:
        tell(event.number)
        if (folder / "hanging").exists():
            await asyncio.Event().wait()
        if event.number < 100 and not (folder / "mended").exists():
            raise ValueError(event.number)

    async with bus:
        tell(0)
        await asyncio.Event().wait()


if __name__ == "__main__":
    at, in_namespace, in_folder = sys.argv[1:]
    asyncio.run(main(at, in_namespace, Path(in_folder)))
