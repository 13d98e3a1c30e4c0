"""Lanes are held for as long as their member gives signs of life, and what it did not do is done by the next one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from avx_events import Event, EventStore, LogBus
from avx_events.bus.remote.ports import Lane
from avx_events.bus.remote.position import Position
from avx_events.patterns.log_bus.held_lane import AHEAD, HeldLane
from avx_events.patterns.log_bus.rows import TakenLane
from avx_events.store.ports import RecordTuple
from avx_events.testing import ManualClock
from tests.waiting import until

LEASE_S = 30.0


class Worked(Event, event_type="lanes.worked", aggregate_id="key"):
    key: str
    number: int = 0


class Other(Event, event_type="lanes.other"):
    pass


class Worker:
    """A member, whose handler goes on when it is told to, with a clock of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.began: list[int] = []
        self.ended: list[int] = []
        self.may_end = asyncio.Event()

    @asynccontextmanager
    async def at_work(self, store: EventStore, *, lanes: int = 4) -> AsyncGenerator[LogBus]:
        bus = await LogBus.connect(
            store, group="work", start="earliest", lanes=lanes, lease_s=LEASE_S, clock=self.clock
        )

        @bus.on(Worked, name="handler", concurrency=8)
        async def handler(event: Worked) -> None:
            self.began.append(event.number)
            await self.may_end.wait()
            self.ended.append(event.number)

        async with bus:
            try:
                yield bus
            finally:
                self.may_end.set()  # no clock moves any more that would cut it short


@pytest.fixture
async def memory() -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect("sqlite://") as opened:
        yield opened


async def holders(store: EventStore) -> list[str]:
    return [member for (member,) in await store.fetch("SELECT member FROM avx_log_lanes ORDER BY lane")]


async def append(store: EventStore, *numbers: int, key: str = "a") -> None:
    await store.append(key, [Worked(key, number) for number in numbers])


# Taking over


async def test_a_member_without_a_sign_of_life_is_replaced_after_its_lease_and_not_before(memory: EventStore) -> None:
    still, following = Worker(), Worker()
    following.may_end.set()
    following.clock.advance(LEASE_S - 1)
    await append(memory, 1, 2, 3)
    async with still.at_work(memory), following.at_work(memory):
        await until(lambda: still.began == [1])
        first = await holders(memory)
        assert len(set(first)) == 1
        assert following.began == []

        following.clock.advance(1)
        await until(lambda: following.ended == [1, 2, 3])

        assert set(await holders(memory)).isdisjoint(first)
        still.may_end.set()


async def test_what_a_member_does_after_it_was_replaced_changes_nothing(memory: EventStore) -> None:
    still, following = Worker(), Worker()
    following.clock.advance(LEASE_S)
    await append(memory, 1, 2, 3)
    async with still.at_work(memory) as first, following.at_work(memory):
        await until(lambda: still.began == following.began == [1])
        still.clock.advance(LEASE_S)  # it stood still, and goes on
        still.may_end.set()

        await until(lambda: first.statistics().queued == 0 and still.ended)
        positions = await memory.fetch("SELECT position FROM avx_log_lanes")
        assert not any('"done":1' in position for (position,) in positions)
        assert still.ended == [1]
        following.may_end.set()
        await until(lambda: following.ended == [1, 2, 3])

    assert still.ended == [1]


async def test_a_member_that_stood_still_and_was_not_replaced_goes_on_and_repeats_nothing(memory: EventStore) -> None:
    still = Worker()
    await append(memory, 1, 2, 3)
    async with still.at_work(memory) as bus:
        await until(lambda: still.began == [1])
        still.clock.advance(2 * LEASE_S)  # its lease is over, and nobody was there to take it
        still.may_end.set()
        while still.ended != [1, 2, 3]:
            still.clock.advance(1)
            await asyncio.sleep(0)
        await bus.settled()

    assert still.began == [1, 2, 3]


async def test_a_member_that_comes_gets_its_share_and_one_that_leaves_gives_it_back(memory: EventStore) -> None:
    first, second = Worker(), Worker()
    for worker in (first, second):
        worker.may_end.set()
    async with first.at_work(memory, lanes=5):
        async with second.at_work(memory, lanes=5):
            while sorted(map((await holders(memory)).count, set(await holders(memory)))) != [2, 3]:
                first.clock.advance(1)
                second.clock.advance(1)
                await asyncio.sleep(0)
            for number in range(20):
                await append(memory, number, key=f"key-{number}")
            await until(lambda: len(first.ended) + len(second.ended) == 20)
            assert first.ended
            assert second.ended
        while len(set(await holders(memory))) > 1 or "" in await holders(memory):
            first.clock.advance(1)
            await asyncio.sleep(0)

    assert sorted(first.ended + second.ended) == list(range(20))


async def test_lanes_that_are_lost_come_back_and_what_waited_is_done_once(memory: EventStore) -> None:
    worker = Worker()
    await append(memory, *range(10))
    async with worker.at_work(memory, lanes=2) as bus:
        await until(lambda: worker.began == [0])
        source: Any = next(iter(bus._engine.link._intakes.values()))._source  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        for _ in range(2):  # a beat may find out at the same time as an acknowledgement
            source._lanes._lose([0, 1])
        worker.may_end.set()
        while worker.ended != [*range(10)]:
            worker.clock.advance(1)
            await asyncio.sleep(0)
        await bus.settled()

    assert worker.began == [*range(10)]


# How far a lane is


async def test_a_lane_moves_on_over_what_nobody_wants_with_the_next_beat(memory: EventStore) -> None:
    worker = Worker()
    async with worker.at_work(memory):
        await memory.append("s", [Other() for _ in range(50)])
        position = '{"done":50,"given":1074}'
        while {row[0] for row in await memory.fetch("SELECT position FROM avx_log_lanes")} != {position}:
            worker.clock.advance(LEASE_S / 3)
            await asyncio.sleep(0)


def record(position: int) -> RecordTuple:
    return position, "s", position, 0, f"id-{position}", "lanes.worked", b'[0,"a"]', b"{}"


def held_lane(position: Position | None = None, *, last: int = 0) -> HeldLane:
    return HeldLane(Lane(0), TakenLane(1, position or Position()), last=last)


def test_a_lane_that_is_not_read_any_more_is_not_passed_over() -> None:
    held = held_lane()
    held.stop_reading(10)

    assert held.saved(50).position.done == 10


def test_a_lane_is_not_passed_over_while_something_of_it_waits() -> None:
    held = held_lane()
    held.waiting = 1

    assert held.saved(50).position.done == 0


def test_what_runs_is_not_given_again_and_what_is_done_neither() -> None:
    held = held_lane()
    first = held.take(record(1))
    assert first is not None

    assert held.take(record(1)) is None
    held.progress.finish(1)
    held.running.discard(1)
    assert held.take(record(1)) is None


def test_an_event_may_be_given_only_once_it_is_written_that_it_may() -> None:
    held = held_lane()
    assert not held.may_give(1)

    held.written(held.saved(10))

    assert held.may_give(10 + AHEAD)
    assert not held.may_give(11 + AHEAD)


def test_what_the_member_before_may_have_begun_comes_as_redelivered() -> None:
    held = held_lane(Position(done=3, given=8, open=[2], attempts={6: 2, 7: 0}), last=9)

    taken = {number: held.take(record(number)) for number in (2, 5, 6, 7, 9)}

    assert {number: (one.is_redelivered, one.attempts) for number, one in taken.items() if one is not None} == {
        2: (True, 0),
        5: (True, 0),
        6: (False, 2),
        7: (False, 0),
        9: (False, 0),
    }
