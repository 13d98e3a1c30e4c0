"""Dead letters whose handlers run in other processes: the console asks their members, and says what it knows of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import msgspec

from avx_events import DeadLetter, DeadLetterQueue, Event, EventBus
from avx_events.apps.console import Console
from avx_events.bus.dead_letters import MemoryDeadLetters
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import stamp
from avx_events.testing import ManualClock
from tests.unit.apps.console.visitors import TOKEN, visiting
from tests.waiting import until


class Asked(Event, event_type="console.asked", aggregate_id="number"):
    number: int


AT = datetime(2026, 1, 31, tzinfo=UTC)
LETTER = DeadLetter(
    id="letter",
    handler="bill",
    group="billing",
    reason="failed",
    error="ValueError: 7",
    error_type="ValueError",
    attempts=1,
    first_failed_at=AT,
    dead_at=AT,
    envelope=stamp(Asked(7), clock=SYSTEM_CLOCK),
)
REDRIVE = f"/api/letters/{LETTER.id}/redrive"


class Broker(MemoryDeadLetters):
    """Counts how often its members were asked."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked = 0

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        assert letter.id == LETTER.id
        self.asked += 1


@asynccontextmanager
async def console(
    *, bus: EventBus | None = None
) -> AsyncGenerator[tuple[Broker, DeadLetterQueue, ManualClock, httpx.AsyncClient]]:
    queue, clock = DeadLetterQueue(store=(broker := Broker())), ManualClock()
    await queue.add(LETTER)
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Operator": "Ada"}
    page = Console(dead_letter_queue=queue, bus=bus, token=TOKEN, clock=clock)
    async with visiting(page, headers=headers) as client:
        yield broker, queue, clock, client


async def test_a_member_that_handles_it_has_it_handled() -> None:
    async with console() as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await queue.resolve(LETTER.id)
        clock.advance(1)
        outcome = (await asking).json()
        gone = (await client.post(REDRIVE)).json()

    assert (outcome["state"], gone["state"]) == ("handled", "gone")
    assert gone["says"].startswith("Ada asked to redrive it at ")


async def test_a_member_whose_handler_fails_again_is_said_to() -> None:
    async with console() as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await queue.add(msgspec.structs.replace(LETTER, redrives=1, error="ValueError: again"))
        clock.advance(1)
        outcome = (await asking).json()

    assert outcome["state"] == "failed_again"
    assert "ValueError: again" in outcome["says"]


async def test_where_no_member_answers_that_is_said_and_the_letter_stays_free() -> None:
    async with console() as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await clock.planned()
        clock.advance(15)
        outcome = (await asking).json()
        claimed = await queue.claim(LETTER.id)

    assert outcome["state"] == "refused"
    assert "group 'billing' that has bill has answered" in outcome["says"]
    assert claimed == LETTER


async def test_a_member_that_has_not_ended_has_it_in_line() -> None:
    async with console() as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await queue.claim(LETTER.id)
        await clock.planned()
        clock.advance(15)
        outcome = (await asking).json()

    assert outcome["state"] == "in_line"


async def test_a_letter_that_another_removes_meanwhile_is_not_said_to_be_handled() -> None:
    async with console() as (broker, _, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await client.post(f"/api/letters/{LETTER.id}/remove", headers={"X-Operator": "Bob"})
        clock.advance(1)
        outcome = (await asking).json()

    assert outcome["state"] == "gone"
    assert outcome["says"].startswith("Bob removed it at ")


async def test_while_one_waits_for_members_another_is_told_who_was_first() -> None:
    async with console() as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        second = (await client.post(REDRIVE, headers={"X-Operator": "Bob"})).json()
        await queue.resolve(LETTER.id)
        clock.advance(1)
        first = (await asking).json()

    assert (first["state"], second["state"], broker.asked) == ("handled", "taken", 1)
    assert second["says"].startswith("Ada was first")


async def test_members_are_asked_for_what_the_bus_of_the_console_has_no_handler_of() -> None:
    async with EventBus() as bus, console(bus=bus) as (broker, queue, clock, client), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.post(REDRIVE))
        await until(lambda: broker.asked)
        await queue.resolve(LETTER.id)
        clock.advance(1)

        assert (await asking).json()["state"] == "handled"
