"""The next one is made while the one before is used, and no more."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from avx_events.patterns.projection.ahead import one_ahead
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)


class Numbers:
    """Counts what was made of it; raises at a number, if it is given one."""

    def __init__(self, count: int, *, bad: int | None = None, error: type[BaseException] = LookupError) -> None:
        self.count, self.bad, self.error = count, bad, error
        self.made = 0
        self.is_closed = False

    async def give(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.count):
                self.made += 1
                if number == self.bad:
                    raise self.error
                yield number
        finally:
            self.is_closed = True


async def test_all_are_given_in_their_order() -> None:
    numbers = Numbers(20)

    assert [number async for number in one_ahead(numbers.give())] == [*range(20)]
    assert numbers.is_closed


async def test_the_next_ones_are_made_while_one_is_used_and_no_more_than_two() -> None:
    numbers = Numbers(20)
    async with aclosing(one_ahead(numbers.give())) as ahead:
        async for number in ahead:
            if number == 3:
                await until(lambda: numbers.made == 6)
                for _ in range(10):
                    await asyncio.sleep(0)
                break

    assert numbers.made == 6
    assert numbers.is_closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_an_error_comes_in_its_place(error: type[BaseException]) -> None:
    ahead = one_ahead(Numbers(9, bad=4, error=error).give())

    assert [await anext(ahead) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(error):
        await anext(ahead)


async def test_who_is_cancelled_leaves_nothing_running() -> None:
    numbers, reached = Numbers(20), asyncio.Event()

    async def use() -> None:
        async with aclosing(one_ahead(numbers.give())) as ahead:
            async for _ in ahead:
                reached.set()
                await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(use())
        await reached.wait()
        task.cancel()

    assert numbers.is_closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
