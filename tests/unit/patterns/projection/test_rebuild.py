"""A version is built anew from the first event, beside what is read, and takes its place again; and it is paused."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.errors import (
    InvalidArgumentError,
    NoHandlerError,
    NotRunningError,
    ProjectionFailedError,
    ProjectionReplacedError,
)
from avx_events.core.event import Event
from avx_events.core.policy import Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.projection.versions import rebuild
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.testing import ManualClock
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)


class Counted(Event, event_type="rebuild.counted"):
    number: int


class Numbers(Projection, name="numbers", tables=("numbers",)):
    """Numbers, with a mark that a test gives; what it asks for happens before one is written."""

    def __init__(self, mark: str = "old") -> None:
        self.mark = mark
        self.before: Callable[[Counted], Any] | None = None
        self.history: list[int] = []

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('numbers')} (number INTEGER, mark TEXT)")
        await connection.execute(f"CREATE INDEX {self.index('numbers_marks')} ON {self.table('numbers')} (mark)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection) -> None:
        if self.before is not None and (waited := self.before(event)) is not None:
            await waited
        if self.is_replaying:
            self.history.append(event.number)
        statement = f"INSERT INTO {self.table('numbers')} VALUES (?, ?)"  # noqa: S608 - the name of a table
        await execute(connection, statement, event.number, self.mark)


class NumbersTwo(Numbers, version=2):
    pass


class InPlace(Projection, name="numbers"):
    """Does not say which tables it has."""

    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS numbers")
        await connection.execute("CREATE TABLE numbers (number INTEGER, mark TEXT)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection) -> None:
        await execute(connection, "INSERT INTO numbers VALUES (?, 'in place')", event.number)


@pytest.fixture
async def store(shared_url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(shared_url) as opened:
        yield opened


async def append(store: EventStore, *numbers: int) -> int:
    return (await store.append("s", [Counted(number) for number in numbers])).position


async def read(store: EventStore) -> dict[str, int]:
    """Return how many numbers there are with each mark."""
    return dict(await store.fetch("SELECT mark, count(*) FROM numbers GROUP BY mark"))


async def rows(store: EventStore) -> list[tuple[Any, ...]]:
    return await store.fetch("SELECT version, position, stage, build FROM avx_projections ORDER BY version")


def at(number: int, action: Callable[[], Any]) -> Callable[[Counted], Any]:
    """Do ``action`` before this number is written."""
    return lambda event: action() if event.number == number else None


def fail() -> None:
    pytest.fail("no")


async def ask(store: EventStore, name: str = "numbers") -> bool:
    """Ask for a rebuild as another process does."""
    async with store.transaction() as connection:
        return await rebuild(connection, name)


async def built(store: EventStore, projection: Projection) -> None:
    async with Projector(store, projection) as projector:
        await projector.caught_up()


async def test_it_is_built_anew_while_it_runs_and_takes_its_place(store: EventStore) -> None:
    numbers = Numbers()
    async with Projector(store, numbers) as projector:
        await projector.caught_up(await append(store, 1, 2, 3))
        numbers.mark = "new"
        await projector.rebuild("numbers")
        await projector.caught_up()

        assert await read(store) == {"new": 3}
        assert numbers.history == [1, 2, 3]
        assert await rows(store) == [(1, 3, "live", 1)]
        await projector.caught_up(await append(store, 4))
        assert numbers.history == [1, 2, 3]
    assert await read(store) == {"new": 4}


async def test_it_can_be_built_anew_again_and_again(store: EventStore) -> None:
    numbers = Numbers()
    async with Projector(store, numbers) as projector:
        await projector.caught_up(await append(store, 1, 2))
        for mark in ("second", "third"):
            numbers.mark = mark
            await projector.rebuild("numbers")
            await projector.caught_up()
            assert await read(store) == {mark: 2}

    assert await rows(store) == [(1, 2, "live", 0)]


async def test_what_is_read_stays_as_it_was_until_all_is_there(store: EventStore) -> None:
    numbers, gate = Numbers(), asyncio.Event()
    async with Projector(store, numbers) as projector:
        await projector.caught_up(await append(store, 1, 2, 3))
        numbers.mark, numbers.before = "new", at(3, gate.wait)
        await projector.rebuild("numbers")
        await until(lambda: len(numbers.history) == 2)
        status = (await projector.status())["numbers"]

        assert (status.state, status.version, status.replaces) == ("building", 1, 0)
        assert await read(store) == {"old": 3}
        gate.set()
        await projector.caught_up()
        assert (await projector.status())["numbers"].replaces is None
    assert await read(store) == {"new": 3}


async def test_another_process_asks_and_it_is_heard_though_nothing_happens(
    store: EventStore, other_store: EventStore
) -> None:
    numbers = Numbers()
    async with Projector(store, numbers) as projector:
        await projector.caught_up(await append(store, 1, 2))
        numbers.mark = "new"

        assert await ask(other_store)
        await until(lambda: len(numbers.history) == 2)
        await projector.caught_up()
    assert await read(store) == {"new": 2}


async def test_processes_share_the_work_of_it(store: EventStore, other_store: EventStore) -> None:
    one, two = Numbers(), Numbers()
    async with (
        Projector(store, one, batch_events=3) as here,
        Projector(other_store, two, batch_events=4) as there,
    ):
        position = await append(store, *range(200))
        await here.caught_up(position)
        await there.caught_up(position)
        before = sum(projector.statistics()["numbers"].handled for projector in (here, there))
        one.mark = two.mark = "new"
        await here.rebuild("numbers")
        await here.caught_up()
        position = await append(store, 200)
        await here.caught_up(position)
        await there.caught_up(position)
        handled = sum(projector.statistics()["numbers"].handled for projector in (here, there))

    assert (before, handled) == (200, 401)
    assert await read(store) == {"new": 201}
    assert await rows(store) == [(1, 201, "live", 1)]


async def test_a_process_that_knows_nothing_of_it_does_not_end_it_early(
    store: EventStore, other_store: EventStore
) -> None:
    gate, seen = asyncio.Event(), list[dict[str, int]]()

    async def look(elsewhere: EventStore) -> None:
        seen.append(await read(elsewhere))

    async with AsyncExitStack() as stack:
        projectors = dict[Projector, tuple[Numbers, AsyncExitStack, EventStore]]()
        for opened, elsewhere in ((store, other_store), (other_store, store)):
            numbers, leaves = Numbers(), await stack.enter_async_context(AsyncExitStack())
            projector = await leaves.enter_async_context(Projector(opened, numbers, batch_events=1))
            projectors[projector] = numbers, leaves, elsewhere
        position = await append(store, 1, 2, 3)
        for projector, (numbers, *_) in projectors.items():
            await projector.caught_up(position)
            numbers.mark, numbers.before = "new", at(2, gate.wait)
        await ask(store)
        await until(lambda: any(projector.statistics()["numbers"].position == 1 for projector in projectors))
        builder = next(each for each in projectors if each.statistics()["numbers"].position == 1)
        await projectors.pop(builder)[1].aclose()

        # It was live for all that this one knows, and is built to position 1.
        ((projector, (numbers, _, elsewhere)),) = projectors.items()
        numbers.before = lambda event: look(elsewhere)
        gate.set()  # it may stand there as well
        await projector.caught_up(await append(store, 4))

    assert seen
    assert [each for each in seen if each != {"old": 3}] == []
    assert await read(store) == {"new": 4}


async def test_where_nobody_runs_it_the_next_one_builds_it(store: EventStore) -> None:
    await append(store, 1, 2)
    await built(store, Numbers())

    assert await ask(store)
    assert await ask(store)  # a second time changes nothing
    assert await rows(store) == [(0, 2, "live", 0)]
    assert await read(store) == {"old": 2}
    await built(store, Numbers("new"))

    assert await read(store) == {"new": 2}
    assert await rows(store) == [(1, 2, "live", 1)]


async def test_a_newer_version_builds_beside_what_was_set_aside(store: EventStore) -> None:
    await append(store, 1, 2)
    await built(store, Numbers())
    await ask(store)
    await built(store, NumbersTwo("two"))

    assert await read(store) == {"two": 2}
    with pytest.raises(ProjectionReplacedError):
        await built(store, Numbers())


async def test_what_is_half_built_begins_again(store: EventStore) -> None:
    await append(store, 1, 2, 3)
    await built(store, Numbers())
    two, gate = NumbersTwo("two"), asyncio.Event()
    two.before = at(3, gate.wait)
    async with Projector(store, two, batch_events=1) as projector:
        await until(lambda: two.history == [1, 2])
        await until(lambda: projector.statistics()["numbers"].position == 2)
    await ask(store)
    assert await rows(store) == [(1, 3, "live", 0)]

    two.before = None
    await built(store, two)

    assert two.history == [1, 2, 1, 2, 3]
    assert await read(store) == {"two": 3}


async def test_one_without_names_of_tables_is_built_in_place(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    await append(store, 1, 2)
    async with Projector(store, InPlace()) as projector:
        await projector.caught_up()
        async with store.transaction() as connection:
            await connection.execute("DELETE FROM numbers")  # somebody has damaged it
        await projector.rebuild("numbers")
        await projector.caught_up()

    assert await read(store) == {"in place": 2}
    assert "is built in the place of what it was" in caplog.text


async def test_an_event_that_fails_stops_it_and_what_was_there_is_still_read(store: EventStore) -> None:
    numbers = Numbers()
    async with Projector(store, numbers, retry=None) as projector:
        await projector.caught_up(await append(store, 1, 2, 3))
        numbers.mark, numbers.before = "new", at(2, fail)
        await projector.rebuild("numbers")
        with pytest.raises(ProjectionFailedError, match="position 2"):
            await projector.caught_up()

        assert await read(store) == {"old": 3}
    await built(store, Numbers("new"))
    assert await read(store) == {"new": 3}


async def test_its_dead_letters_need_no_redrive_once_it_is_built_anew(store: EventStore) -> None:
    numbers, letters = Numbers(), DeadLetterQueue()
    async with Projector(store, numbers, retry=None, dead_letter_queue=letters) as projector:
        await projector.caught_up(await append(store, 1))
        numbers.before = at(2, fail)
        await projector.caught_up(await append(store, 2))
        (letter,) = await letters.list()
        gate = asyncio.Event()
        numbers.mark, numbers.before = "new", at(2, gate.wait)
        await projector.rebuild("numbers")
        await until(lambda: numbers.history == [1])
        with pytest.raises(NoHandlerError, match="version 0"):
            await projector.redrive(letter)
        gate.set()
        await projector.caught_up()

        assert await read(store) == {"new": 2}
        assert not await projector.redrive(letter)
    assert await letters.count() == 0


async def test_one_that_is_paused_is_built_once_it_is_resumed(store: EventStore) -> None:
    numbers = Numbers()
    async with Projector(store, numbers) as projector:
        await projector.caught_up(await append(store, 1, 2))
        await projector.pause("numbers")
        numbers.mark = "new"
        await projector.rebuild("numbers")
        position = await append(store, 3)
        async with asyncio.timeout(10):
            while await rows(store) != [(0, 2, "live", 0), (1, 0, "beside", 1)]:  # noqa: ASYNC110 - of a database
                await asyncio.sleep(0.01)
        assert (await projector.status())["numbers"].state == "paused"
        await projector.resume("numbers")
        await projector.caught_up(position)

    assert await read(store) == {"new": 3}


@pytest.mark.parametrize("verb", ["pause", "resume", "rebuild"])
async def test_what_is_no_projection_of_it_is_refused_with_those_that_are(store: EventStore, verb: str) -> None:
    projector = Projector(store, Numbers())
    with pytest.raises(InvalidArgumentError, match="of this projector: 'numbers', not 'number'"):
        await getattr(projector, verb)("number")
    with pytest.raises(NotRunningError):
        await getattr(projector, verb)("numbers")


async def test_a_name_that_no_table_has_is_told(store: EventStore) -> None:
    assert not await ask(store, "nobody")


async def test_it_is_logged_what_is_built_and_beside_what(store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "avx_events.projection")
    await append(store, 1)
    await built(store, Numbers())
    await ask(store)
    await built(store, Numbers())

    assert "projection 'numbers' version 1 is built beside the one that is read" in caplog.text


class Passed(Event, event_type="rebuild.passed"):
    pass


async def test_a_quiet_log_moves_the_checkpoint_past_what_nobody_handles(store: EventStore) -> None:
    async with Projector(store, Numbers()) as projector:
        await projector.caught_up(await append(store, 1))
        await store.append("s", [Passed(), Passed()])
        async with asyncio.timeout(10):
            while await rows(store) != [(1, 3, "live", 0)]:  # noqa: ASYNC110 - of a database
                await asyncio.sleep(0.01)

    assert projector.statistics()["numbers"].handled == 1


async def test_old_code_does_not_take_the_place_of_a_newer_version_that_is_to_be_built_anew(store: EventStore) -> None:
    await append(store, 1, 2)
    await built(store, NumbersTwo("two"))
    await ask(store)

    with pytest.raises(ProjectionReplacedError):
        await built(store, Numbers("old code"))

    assert await read(store) == {"two": 2}
    await built(store, NumbersTwo("new"))
    assert await read(store) == {"new": 2}


async def test_an_event_that_fails_while_another_process_builds_it_anew_is_not_left_out(
    store: EventStore, other_store: EventStore
) -> None:
    here, letters, clock = Numbers(), DeadLetterQueue(), ManualClock()
    once_more = Retry(attempts=2, initial_s=10, max_s=10)
    async with Projector(store, here, retry=once_more, dead_letter_queue=letters, clock=clock) as projector:
        await projector.caught_up(await append(store, 1))
        here.before = at(2, fail)
        position = await append(store, 2, 3, 4, 5)
        await clock.planned()  # to try it once more
        await ask(store)
        there = Numbers("new")
        there.before = at(2, fail)
        async with Projector(other_store, there, retry=None, batch_events=1) as other:  # far from the end
            with pytest.raises(ProjectionFailedError):
                await other.caught_up(position)
        assert await rows(store) == [(0, 1, "live", 0), (1, 1, "beside", 1)]
        clock.advance(10)
        with pytest.raises(ProjectionFailedError, match="position 2"):
            await projector.caught_up(position)

    assert await letters.count() == 0
    assert await read(store) == {"old": 1}
    assert await rows(store) == [(0, 1, "live", 0), (1, 1, "beside", 1)]
