"""An application for tests of the command line as a process; ``AVX_CLI_LETTERS`` says where its dead letters are."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event


class Slow(Event, event_type="live.cli.slow", aggregate_id="number"):
    number: int


@asynccontextmanager
async def app() -> AsyncGenerator[EventBus]:
    async with await DeadLetterQueue.connect(os.environ["AVX_CLI_LETTERS"]) as queue:
        bus = EventBus(dead_letter_queue=queue)

        @bus.on(Slow, name="mend")
        async def mend(event: Slow) -> None:
            await asyncio.sleep(0.005)

        yield bus


async def look(event: object) -> None:
    await asyncio.sleep(0.005)


def tell(event: object) -> None:
    print(event, flush=True)  # noqa: T201 - what an application's own code may do


def never_return(event: object) -> None:
    threading.Event().wait()
