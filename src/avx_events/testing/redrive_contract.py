"""What a transport promises to those who ask the members of a group to redrive a dead letter, without its handler."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.deliveries import Delivery
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import DeadLetterNotFoundError
from avx_events.testing.bus_contract import BusContract, Collected, Sent, letters_of, new_namespace, until
from avx_events.testing.own_loop import on_its_own_loop


class _Members:
    """Members of a group with one handler, which fails until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.runs: Collected[int] = Collected()

    def run_by(self, bus: EventBus) -> None:
        @bus.on(Sent, name="handler", retry=None, concurrency=8)
        async def handler(event: Sent) -> None:
            self.runs.add(event.number)
            await self.may_go.wait()
            if not self.is_mended:
                raise RuntimeError(event.number)


class RedriveRequestContract(BusContract):
    """Whoever reaches the dead letters of a group can have its members redrive one, which one of them does, once.

    ``connect`` is given the option ``group`` of ``EventBus.connect``.
    """

    @asynccontextmanager
    async def group(
        self, namespace: str, *, members: int, letters: int
    ) -> AsyncGenerator[tuple[_Members, DeadLetterQueue, list[DeadLetter]], None]:
        """Give members that run, the queue of a bus that has no handler, and what is in it."""
        running = _Members()
        async with AsyncExitStack() as stack:
            buses = [await self.connect(namespace, group="billing") for _ in range(members)]
            for bus in buses:
                running.run_by(bus)
                await stack.enter_async_context(bus)
            outsider = await stack.enter_async_context(await self.connect(namespace, group="operators"))
            await buses[0].publish_many(Sent(f"key-{number}", number) for number in range(letters))
            found = await letters_of(outsider, letters)
            running.runs.values.clear()
            yield running, outsider.dead_letter_queue, found

    @on_its_own_loop
    async def test_a_member_redrives_what_somebody_asks_for_who_has_no_handler(self) -> None:
        async with self.group(new_namespace(), members=1, letters=3) as (running, queue, letters):
            running.is_mended = True

            asked = [await queue.ask_for_redrive(letter) for letter in letters[:2]]
            await running.runs.have(2)
            await until_gone(queue, letters[0].id)
            await until_gone(queue, letters[1].id)

            left = await queue.list()
        assert asked == letters[:2]
        assert left == letters[2:]

    @on_its_own_loop
    async def test_of_many_members_and_two_who_ask_at_once_one_handles_it(self) -> None:
        async with self.group(new_namespace(), members=3, letters=2) as (running, queue, letters):
            running.is_mended = True
            running.may_go.clear()

            async with asyncio.TaskGroup() as asking:
                for _ in range(2):
                    asking.create_task(_ask(queue, letters[0]))
            await running.runs.have(1)
            running.may_go.set()
            await until_gone(queue, letters[0].id)
            await _ask(queue, letters[1])  # what comes behind the others
            await until_gone(queue, letters[1].id)

        assert sorted(running.runs.values) == sorted(letter.event.number for letter in letters)

    @on_its_own_loop
    async def test_a_letter_that_fails_again_is_updated_and_not_redriven_for_who_asked_before_that(self) -> None:
        async with self.group(new_namespace(), members=3, letters=2) as (running, queue, letters):
            await _ask(queue, letters[0])
            await _ask(queue, letters[0])

            async def has_failed_again() -> bool:
                return (await queue.get(letters[0].id)).redrives > 0

            await until(has_failed_again)
            running.is_mended = True
            await _ask(queue, letters[1])
            await until_gone(queue, letters[1].id)
            (again,) = await queue.list()

            await _ask(queue, again)  # as it is now, it may be tried once more
            await until_gone(queue, again.id)

        assert (again.id, again.redrives) == (letters[0].id, 1)
        assert sorted(running.runs.values) == sorted([letters[0].event.number, *(one.event.number for one in letters)])

    @on_its_own_loop
    async def test_members_of_another_group_or_without_the_handler_do_nothing(self) -> None:
        namespace = new_namespace()
        async with self.group(namespace, members=1, letters=2) as (running, queue, letters):
            others, handled = _Members(), Collected[int]()
            others.is_mended = True
            shipping = await self.connect(namespace, group="shipping")
            others.run_by(shipping)
            colleague = await self.connect(namespace, group="billing")

            @colleague.on(Sent, name="another")
            async def another(event: Sent) -> None:
                handled.add(event.number)

            running.is_mended = True
            async with shipping, colleague:
                for letter in letters:
                    await _ask(queue, letter)
                    await until_gone(queue, letter.id)

        assert (others.runs.values, handled.values) == ([], [])
        assert len(running.runs) == 2

    @on_its_own_loop
    async def test_what_nobody_hears_changes_nothing(self) -> None:
        namespace = new_namespace()
        async with self.group(namespace, members=1, letters=1) as (_, queue, letters):
            pass
        async with await self.connect(namespace, group="operators") as outsider:
            queue = outsider.dead_letter_queue

            await _ask(queue, letters[0])

            assert await queue.list() == letters
            assert await queue.claim(letters[0].id) == letters[0]
            await queue.release(letters[0].id)

    @on_its_own_loop
    async def test_a_letter_that_is_not_there_is_not_asked_for(self) -> None:
        async with await self.connect(new_namespace(), group="operators") as outsider:
            assert outsider.dead_letter_queue.reaches_members
            with pytest.raises(DeadLetterNotFoundError):
                await outsider.dead_letter_queue.ask_for_redrive("gone")

    @on_its_own_loop
    async def test_readers_of_a_group_are_members_too(self) -> None:
        namespace = new_namespace()
        async with await self.connect(namespace, group="billing") as bus:
            subscriber = await bus.subscribe(Sent, name="reader", retry=None)
            deliveries = subscriber.deliveries()
            await bus.publish(Sent("a", 7))
            await _fail(await anext(deliveries))
            (letter,) = await letters_of(bus, 1)

            await _ask(bus.dead_letter_queue, letter)
            async with await anext(deliveries) as event:
                assert event == Sent("a", 7)
            await until_gone(bus.dead_letter_queue, letter.id)


async def until_gone(queue: DeadLetterQueue, letter_id: str) -> None:
    """Return when the queue does not hold the letter any more."""

    async def is_gone() -> bool:
        try:
            await queue.get(letter_id)
        except DeadLetterNotFoundError:
            return True
        return False

    await until(is_gone)


async def _ask(queue: DeadLetterQueue, letter: DeadLetter) -> None:
    await queue.ask_for_redrive(letter)


async def _fail(delivery: Delivery[Sent]) -> None:
    async with delivery:
        raise RuntimeError
