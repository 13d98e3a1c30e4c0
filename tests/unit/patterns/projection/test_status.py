"""How far a projection is, how fast, and how long that takes."""

import asyncio
from datetime import timedelta

import pytest

from avx_events.core.errors import NotRunningError, ProjectionFailedError
from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, ProjectionStatus, Projector, handles
from avx_events.patterns.projection.speed import Speed
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.testing import ManualClock
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)


class Ticked(Event, event_type="status.ticked"):
    number: int


class Passed(Event, event_type="status.passed"):
    pass


class Ticks(Projection, name="ticks", tables=("ticks",)):
    """Waits at the numbers that it is given."""

    def __init__(self, *stops: int) -> None:
        self.stops = {number: asyncio.Event() for number in stops}

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('ticks')} (number INTEGER)")

    @handles(Ticked)
    async def tick(self, event: Ticked, connection: Connection) -> None:
        if event.number in self.stops:
            await self.stops[event.number].wait()
        await execute(connection, f"INSERT INTO {self.table('ticks')} VALUES (?)", event.number)  # noqa: S608


class TicksTwo(Ticks, version=2):
    pass


async def tick(store: EventStore, *numbers: int) -> int:
    return (await store.append("s", [Ticked(number) for number in numbers])).position


async def status_of(projector: Projector) -> ProjectionStatus:
    return (await projector.status())["ticks"]


async def test_a_projection_that_has_everything_has_no_lag(store: EventStore) -> None:
    async with Projector(store, Ticks()) as projector:
        await projector.caught_up(await tick(store, 1, 2, 3))
        status = await status_of(projector)

        assert await projector.lag_seconds() == {"ticks": 0.0}

    assert (status.version, status.state, status.replaces) == (1, "live", None)
    assert (status.position, status.last_position, status.lag_events) == (3, 3, 0)
    assert (status.lag_seconds, status.seconds_left, status.problem) == (0.0, 0.0, "")


async def test_the_lag_is_the_age_of_the_first_event_that_is_not_done(shared_url: str) -> None:
    clock, ticks = ManualClock(), Ticks(3)
    async with await EventStore.connect(shared_url, clock=clock) as store:
        for number in range(1, 6):
            await tick(store, number)
            clock.advance(10)
        async with Projector(store, ticks, batch_events=1, clock=clock) as projector:
            await until(lambda: projector.statistics()["ticks"].position == 2)
            clock.advance(5)

            assert await projector.lag_events() == {"ticks": 3}
            assert await projector.lag_seconds() == {"ticks": pytest.approx(35, abs=0.01)}
            ticks.stops[3].set()
            await projector.caught_up()
            assert await projector.lag_seconds() == {"ticks": 0.0}


async def test_a_version_that_is_built_tells_how_long_it_still_takes(shared_url: str) -> None:
    clock, ticks = ManualClock(), TicksTwo(5, 9)
    async with await EventStore.connect(shared_url, clock=clock) as store:
        await tick(store, *range(1, 13))
        async with Projector(store, Ticks(), clock=clock) as projector:
            await projector.caught_up()
        async with Projector(store, ticks, batch_events=1, clock=clock) as projector:
            await until(lambda: projector.statistics()["ticks"].position == 4)
            clock.advance(2)
            ticks.stops[5].set()
            await until(lambda: projector.statistics()["ticks"].position == 8)
            status = await status_of(projector)
            ticks.stops[9].set()
            await projector.caught_up()
            done = await status_of(projector)

    assert (status.version, status.state, status.replaces, status.position) == (2, "building", 1, 8)
    assert status.events_per_second == pytest.approx(3.5)  # from position 1 to 8 in two seconds
    assert status.seconds_left == pytest.approx(4 / 3.5)
    assert (done.state, done.replaces, done.seconds_left) == ("live", None, 0.0)


async def test_one_that_stands_still_does_not_tell_when_it_is_done(store_url: str) -> None:
    clock, ticks = ManualClock(), Ticks(1)
    async with await EventStore.connect(store_url, clock=clock) as store:
        await tick(store, 1)
        async with Projector(store, ticks, clock=clock) as projector:
            clock.advance(60)
            status = await status_of(projector)

    assert (status.events_per_second, status.seconds_left) == (0.0, None)


async def test_one_that_failed_says_where(store: EventStore) -> None:
    class Failing(Ticks):
        @handles(Ticked)
        async def tick(self, event: Ticked, connection: Connection) -> None:
            raise LookupError("lost")

    await tick(store, 1)
    async with Projector(store, Failing(), retry=None) as projector:
        with pytest.raises(ProjectionFailedError):
            await projector.caught_up()
        status = await status_of(projector)

    assert (status.state, status.position) == ("failed", 0)
    assert status.problem == "at 'status.ticked', position 1: LookupError: lost"
    assert status.lag_seconds > 0


async def test_one_that_cannot_read_an_event_has_the_lag_of_its_failure(shared_url: str) -> None:
    clock = ManualClock()
    async with await EventStore.connect(shared_url, clock=clock) as store:
        await tick(store, 1)
        async with store.transaction() as connection:
            await connection.execute("UPDATE avx_events SET data = metadata")
        async with Projector(store, Ticks(), retry=None, clock=clock) as projector:
            with pytest.raises(ProjectionFailedError, match="DecodeError"):
                await projector.caught_up()
            clock.advance(7)

            assert await projector.lag_seconds() == {"ticks": 7.0}


async def test_one_that_was_left_is_stopped(store: EventStore) -> None:
    projector = Projector(store, Ticks())
    with pytest.raises(NotRunningError, match="tell how far"):
        await projector.status()
    async with projector:
        pass

    assert (await status_of(projector)).state == "stopped"


def test_a_rate_is_that_of_the_last_seconds() -> None:
    speed, second = Speed(), timedelta(seconds=1) / timedelta(seconds=1)
    assert speed.per_second(0, now_s=0.0) == 0.0
    for number in range(100):
        speed.passes(number * 10, at_s=number * second)

    assert speed.per_second(990, now_s=99.0) == pytest.approx(10.0)
    assert speed.per_second(990, now_s=104.0) < 10.0
    assert speed.per_second(990, now_s=200.0) == 0.0
