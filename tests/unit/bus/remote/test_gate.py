"""Publishers wait for room one after the other, and none of them is forgotten."""

import asyncio

from avx_events.bus.remote.gate import Gate
from tests.waiting import until


class Places:
    """So many places, and who has come in, in order."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.entered: list[int] = []
        self.gate = Gate(lambda: self.free > 0)

    async def enter(self, number: int) -> None:
        if self.gate.is_shut:
            await self.gate.wait()
        self.free -= 1
        self.entered.append(number)

    def leave(self, count: int) -> None:
        self.free += count
        self.gate.let_in()


async def test_whoever_comes_while_there_is_room_does_not_wait() -> None:
    places = Places(2)

    await places.enter(0)
    assert not places.gate.is_shut
    await places.enter(1)

    assert places.gate.is_shut
    assert places.entered == [0, 1]


async def test_those_who_wait_come_in_one_for_each_place_in_the_order_in_which_they_came() -> None:
    places = Places(0)
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(places.enter(number))
            await asyncio.sleep(0)

        places.leave(2)
        await until(lambda: len(places.entered) == 2)
        for _ in range(10):
            await asyncio.sleep(0)
        assert places.entered == [0, 1]
        places.leave(3)

    assert places.entered == [0, 1, 2, 3, 4]


async def test_one_who_is_cancelled_takes_nobodys_turn() -> None:
    for whose_turn in (False, True):
        places = Places(0)
        async with asyncio.TaskGroup() as tasks:
            cancelled = tasks.create_task(places.enter(0))
            following = tasks.create_task(places.enter(1))
            await asyncio.sleep(0)
            if whose_turn:
                places.leave(1)
            cancelled.cancel()
            if not whose_turn:
                await asyncio.sleep(0)
                places.leave(1)
            await following

        assert places.entered == [1]
