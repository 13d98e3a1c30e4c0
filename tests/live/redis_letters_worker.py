"""A member of a group on Redis that gives its dead letter back to a handler that never ends.

Usage: python -m tests.live.redis_letters_worker URL NAMESPACE

It writes down the letter's id when the handler has it again.
"""

import asyncio
import os
import sys
from typing import Final

import msgspec

from avx_events import Event, EventBus

GROUP: Final = "menders"
LEASE_S: Final = 1.5
"""How long a claim outlives its process: long enough to be looked at, short enough to be waited for."""


class Cracked(Event, event_type="live.cracked", aggregate_id="cup"):
    cup: str


async def redrive_and_hang(url: str, namespace: str) -> None:
    bus = await EventBus.connect(url, namespace=namespace, group=GROUP, redeliver_after_s=LEASE_S)
    redriven: list[str] = []

    @bus.on(Cracked, name="mend", retry=None)
    async def mend(event: Cracked) -> None:
        if not redriven:
            raise RuntimeError(event.cup)
        os.write(1, msgspec.json.encode(redriven[0]) + b"\n")
        await asyncio.Event().wait()

    async with bus:
        await bus.publish(Cracked("blue"))
        while not (letters := await bus.dead_letter_queue.list()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        redriven.append(letters[0].id)
        await bus.republish(letters[0])
        await bus.settled()


if __name__ == "__main__":
    asyncio.run(redrive_and_hang(*sys.argv[1:]))
