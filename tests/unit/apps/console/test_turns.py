"""What takes long is done in turns: a page makes nobody else on the loop wait for all of it."""

import asyncio
import threading
from typing import Any

import httpx

from avx_events import Event, EventBus, EventEnvelope, UnknownEvent
from avx_events.apps.console import Console
from avx_events.apps.console.turns import LONGEST_TURN_S
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import stamp
from avx_events.patterns.projection.letters import now
from tests.unit.apps.console.visitors import visiting
from tests.waiting import until

SLOW = 4


class Loop:
    """Counts the turns of everybody else."""

    def __init__(self) -> None:
        self.turn = 0
        self.shown_in: list[int] = []

    async def run(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


class Slow(dict[str, Any]):
    """Fields that take long to be looked at."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(number=1)
        self.loop = loop

    def items(self) -> Any:
        threading.Event().wait(LONGEST_TURN_S * 1.5)
        self.loop.shown_in.append(self.loop.turn)
        return super().items()


class Quick(Event, event_type="turns.quick"):
    number: int = 1


def slow_envelope(loop: Loop) -> EventEnvelope[UnknownEvent]:
    metadata = stamp(Quick(), clock=SYSTEM_CLOCK).metadata
    return EventEnvelope(UnknownEvent("turns.quick", Slow(loop)), metadata, "turns.quick")


def slow_letter(number: int, loop: Loop) -> DeadLetter:
    at = now(SYSTEM_CLOCK)
    return DeadLetter(
        id=f"letter-{number}",
        handler="slow",
        reason="failed",
        error="ValueError: no",
        error_type="ValueError",
        attempts=1,
        first_failed_at=at,
        dead_at=at,
        envelope=slow_envelope(loop),
    )


async def asked(client: httpx.AsyncClient, loop: Loop, path: str) -> int:
    """Return the status of the answer to ``path``, while others use the loop."""
    async with asyncio.TaskGroup() as tasks:
        others = tasks.create_task(loop.run())
        answer = await client.get(path)
        others.cancel()
    return answer.status_code


async def test_others_go_on_between_the_letters_of_a_page() -> None:
    loop, queue = Loop(), DeadLetterQueue()
    for number in range(SLOW):
        await queue.add(slow_letter(number, loop))
    async with visiting(Console(dead_letter_queue=queue)) as client:
        status = await asked(client, loop, "/api/letters?handler=slow&error_type=ValueError")

    assert status == 200
    assert len(set(loop.shown_in)) == SLOW


async def test_others_go_on_between_the_events_that_came_while_nobody_looked() -> None:
    loop = Loop()
    async with EventBus() as bus, visiting(console := Console(bus=bus)) as client:
        await until(lambda: bus.statistics().subscriptions)
        for _ in range(SLOW):
            console._feed._take_in(slow_envelope(loop))
        loop.shown_in.clear()
        status = await asked(client, loop, "/api/live/nothing")

    assert status == 404
    assert len(set(loop.shown_in)) == SLOW
