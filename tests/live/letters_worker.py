"""Buries, redrives or claims dead letters until it is done or killed, and writes down what has happened, line by line.

Usage: python -m tests.live.letters_worker MODE URL NAME

``bury``: a bus whose handler fails on everything, for ever; a line is the id of a letter that the queue has taken.
``redrive``: gives all letters back, again and again until there are none; a line is the number of an event handled.
``hang``: gives the first letter back to a handler that never ends; a line is the letter's id.
"""

import asyncio
import itertools
import os
import sys
from contextlib import suppress
from typing import Any

import msgspec

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import DeadLetterNotFoundError
from avx_events.core.event import Event
from avx_events.storage.sqlite.dead_letters import SqliteDeadLetters, connect


class Broken(Event, event_type="live.broken", aggregate_id="worker"):
    worker: str
    number: int


def tell(line: object) -> None:
    os.write(1, msgspec.json.encode(line) + b"\n")


class Telling:
    """Says which letters a store has taken; all else is the store's."""

    def __init__(self, store: SqliteDeadLetters) -> None:
        self._store = store

    async def put(self, letter: DeadLetter) -> None:
        await self._store.put(letter)
        tell(letter.id)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def bury(url: str, name: str) -> None:
    store: Any = Telling(await connect(url))
    queue = DeadLetterQueue(store=store)
    bus = EventBus(dead_letter_queue=queue)

    @bus.on(Broken, name="mend", retry=None, concurrency=50, key=lambda event: event.number)
    async def mend(event: Broken) -> None:
        raise RuntimeError(str(event.number))

    async with bus:
        for number in itertools.count():
            await bus.publish(Broken(name, number))


async def redrive(url: str, name: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        bus = EventBus(dead_letter_queue=queue)

        @bus.on(Broken, name="mend", retry=None)
        async def mend(event: Broken) -> None:
            tell(event.number)

        async with bus:
            while letters := await queue.list(limit=50):
                for letter in letters:
                    with suppress(DeadLetterNotFoundError):  # another was faster
                        await bus.republish(letter)
                await bus.settled()


async def hang(url: str, name: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        bus = EventBus(dead_letter_queue=queue, drain_timeout_s=0.1)
        [letter] = await queue.list(limit=1)

        @bus.on(Broken, name="mend", retry=None)
        async def mend(event: Broken) -> None:
            tell(letter.id)
            await asyncio.Event().wait()

        async with bus:
            await bus.republish(letter)
            await bus.settled()


if __name__ == "__main__":
    modes = {"bury": bury, "redrive": redrive, "hang": hang}
    asyncio.run(modes[sys.argv[1]](sys.argv[2], sys.argv[3]))
