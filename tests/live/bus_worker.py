"""Uses a bus in a way that real programs end in.

Usage: bus_worker.py leave-open | interrupted | blocked-thread
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from avx_events import Event, EventBus

EVENTS: Final = 200


class Worked(Event, event_type="worker.worked", aggregate_id="key"):
    key: str
    number: int


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def leave_open() -> None:
    """Forget to close a bus that is busy, with handlers of both kinds, readers and publishers that wait."""
    bus = EventBus()
    may_end = asyncio.Event()

    @bus.on(Worked)
    async def hangs(event: Worked) -> None:
        may_end.set()
        await asyncio.Event().wait()

    @bus.on(Worked)
    def in_a_thread(event: Worked) -> None:
        pass

    await bus.start()
    full = await bus.subscribe(Worked, capacity=2)
    for number in range(2):
        await bus.publish(Worked("a", number))
    for number in range(2, 5):
        bus.publish_threadsafe(Worked("a", number))
    await may_end.wait()
    while not full.statistics().waiting_publishers:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    say("left")


async def interrupted() -> None:
    """Be interrupted while handlers work on many events."""
    bus = EventBus()

    @bus.on(Worked, concurrency=4)
    async def works(event: Worked) -> None:
        await asyncio.sleep(0.001)  # its work takes a while
        say(f"handled {event.number}")

    async with bus:
        await bus.publish_many([Worked(f"key-{number % 7}", number) for number in range(EVENTS)])
        say("published")
        await asyncio.Event().wait()


async def blocked_thread() -> None:
    """End the loop while another thread waits for room on a bus that nobody closes."""
    bus = EventBus()
    full = await bus.subscribe(Worked, capacity=1)
    await bus.publish(Worked("a", 0))

    def publish() -> None:
        error = bus.publish_threadsafe(Worked("a", 1)).exception(30)
        say(type(error).__name__)

    threading.Thread(target=publish).start()
    while not full.statistics().waiting_publishers:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


DEEDS: Final[dict[str, Callable[[], Coroutine[Any, Any, None]]]] = {
    "leave-open": leave_open,
    "interrupted": interrupted,
    "blocked-thread": blocked_thread,
}

if __name__ == "__main__":
    asyncio.run(DEEDS[sys.argv[1]]())
