"""A live projection goes on without an event that it cannot handle, and keeps it as a dead letter."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, MemoryDeadLetters
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    DeadLetterNotFoundError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NotRunningError,
    ProjectionFailedError,
    StoreUnavailableError,
    ValidationError,
)
from avx_events.core.event import Event
from avx_events.core.policy import Reject, Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.tables import execute, in_dialect
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent
from avx_events.testing import ManualClock

pytestmark = pytest.mark.timeout(20)

NO_PAUSE = Retry(attempts=3, initial_s=0, max_s=0)


class Paid(Event, event_type="letters.paid", aggregate_id="account"):
    account: str
    amount: int


class Balances(Projection, name="balances", tables=("balances",)):
    """Notes each payment in one method, and adds it in another, which fails as a test asks for."""

    def __init__(self, failure: Callable[[Paid], BaseException | None] = lambda event: None) -> None:
        self.failure = failure
        self.tried: list[int] = []

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('balances')} (account TEXT PRIMARY KEY, amount INTEGER)")

    @handles(Paid)
    async def note(self, event: Paid, connection: Connection) -> None:
        await self.add_to("noted", event.amount, connection)

    @handles(Paid)
    async def add(self, event: Paid, connection: Connection, stored: StoredEvent[Paid]) -> None:
        self.tried.append(event.amount)
        await self.add_to(event.account, event.amount, connection)
        if (error := self.failure(event)) is not None:
            raise error

    async def add_to(self, account: str, amount: int, connection: Connection) -> None:
        await execute(
            connection,
            f"INSERT INTO {self.table('balances')} VALUES (?, ?)"  # noqa: S608 - the name of a table
            " ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount",
            account,
            amount,
        )


class BalancesTwo(Balances, version=2, tables=()):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS balances")
        await connection.execute("CREATE TABLE balances (account TEXT PRIMARY KEY, amount INTEGER)")

    async def add_to(self, account: str, amount: int, connection: Connection) -> None:
        await execute(
            connection,
            "INSERT INTO balances VALUES (?, ?)"
            " ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount",
            account,
            amount,
        )


def of_three(event: Paid) -> BaseException | None:
    return KeyError("lost") if event.amount == 3 else None


async def pay(store: EventStore, *amounts: int) -> int:
    return (await store.append("s", [Paid("a", amount) for amount in amounts])).position


async def balances(store: EventStore) -> dict[str, int]:
    return dict(await store.fetch("SELECT account, amount FROM balances"))


async def run(store: EventStore, projection: Projection, queue: DeadLetterQueue | None) -> None:
    async with Projector(store, projection, retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()


async def failed_at_three(store: EventStore, queue: DeadLetterQueue) -> None:
    """Leave a live projection that went on without the payment of 3, of four payments."""
    projection = Balances(of_three)
    async with Projector(store, projection, retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        await projector.caught_up(await pay(store, 1, 2, 3, 4))


# Going on


async def test_a_live_projection_goes_on_without_what_it_cannot_handle(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    queue, projection = DeadLetterQueue(), Balances(of_three)
    async with Projector(store, projection, retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        await projector.caught_up(await pay(store, 1, 2, 3, 4))
        statistics = projector.statistics()["balances"]

    assert await balances(store) == {"noted": 7, "a": 7}
    assert projection.tried.count(3) == 3
    assert (statistics.state, statistics.position, statistics.dead_lettered) == ("following", 4, 1)
    [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error.startswith("projection 'balances' goes on without the event at 'letters.paid', position 3")


class LaterBalances(Balances, name="later-balances", tables=("later",)):
    """Puts its statements off; the database itself refuses the payment of 3."""

    async def setup(self, connection: Connection) -> None:
        table = self.table("later")
        await connection.execute(f"CREATE TABLE {table} (amount INTEGER NOT NULL, CHECK (amount <> 3))")

    async def add_to(self, account: str, amount: int, connection: Connection) -> None:
        sql = f"INSERT INTO {self.table('later')} VALUES (?)"  # noqa: S608 - the name of a table
        await connection.execute_later(in_dialect(sql, connection.dialect), amount)


async def test_a_statement_that_was_put_off_is_the_failure_of_its_own_event(store: EventStore) -> None:
    queue, projection = DeadLetterQueue(), LaterBalances()
    async with Projector(store, projection, retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        await projector.caught_up(await pay(store, 1, 2, 3, 4))

    [letter] = await queue.list()
    assert (letter.event, letter.handler) == (Paid("a", 3), "later-balances.note")
    assert letter.error_type == "LaterStatementError"
    rows = await store.fetch("SELECT amount, count(*) FROM later GROUP BY amount ORDER BY amount")
    assert rows == [(1, 2), (2, 2), (4, 2)]


async def test_a_build_stops_at_the_event_whose_statement_was_put_off_and_refused(store: EventStore) -> None:
    await pay(store, 1, 2, 3, 4)
    async with Projector(store, LaterBalances(), retry=NO_PAUSE) as projector:
        with pytest.raises(ProjectionFailedError, match="position 3"):
            await projector.caught_up()

    assert await store.fetch("SELECT sum(amount) FROM later") == [(6,)]


async def test_its_letter_says_what_happened(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)

    [letter] = await queue.list()
    [stored] = [stored for stored in await store.get_events("s") if stored.version == 3]

    assert (letter.handler, letter.reason, letter.attempts) == ("balances.add", "failed", 3)
    assert (letter.error, letter.error_type) == ("KeyError: 'lost'", "KeyError")
    assert "of_three" in letter.traceback or "raise error" in letter.traceback
    assert letter.envelope == stored
    assert letter.first_failed_at <= letter.dead_at


@pytest.mark.parametrize(
    ("error", "attempts", "reason"), [(Reject("no"), 1, "rejected"), (ValidationError("no"), 1, "failed")]
)
async def test_what_can_never_succeed_becomes_a_letter_at_once(
    store: EventStore, error: Exception, attempts: int, reason: str
) -> None:
    queue = DeadLetterQueue()
    async with Projector(store, Balances(lambda event: error), dead_letter_queue=queue) as projector:
        await projector.caught_up()
        await projector.caught_up(await pay(store, 1))

    [letter] = await queue.list()
    assert (letter.attempts, letter.reason) == (attempts, reason)


async def test_a_version_that_is_built_stops_at_what_it_cannot_handle(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await pay(store, 1, 2, 3, 4)

    with pytest.raises(ProjectionFailedError, match=r"'balances' stopped at 'letters\.paid', position 3"):
        await run(store, Balances(of_three), queue)

    assert await queue.count() == 0
    assert await balances(store) == {"noted": 3, "a": 3}


async def test_without_a_queue_a_live_projection_stops(store: EventStore) -> None:
    async with Projector(store, Balances(of_three), retry=NO_PAUSE) as projector:
        await projector.caught_up()
        with pytest.raises(ProjectionFailedError, match="position 3"):
            await projector.caught_up(await pay(store, 1, 2, 3, 4))

    assert await balances(store) == {"noted": 3, "a": 3}


async def test_what_the_store_refuses_is_no_event_s_fault(store: EventStore) -> None:
    queue = DeadLetterQueue()
    away = StoreUnavailableError("the database", "away")
    async with Projector(store, Balances(lambda event: away), retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        with pytest.raises(ProjectionFailedError, match="away"):
            await projector.caught_up(await pay(store, 1))

    assert await queue.count() == 0


async def test_one_failure_after_the_other_gives_a_letter_each(store: EventStore) -> None:
    queue = DeadLetterQueue()
    projection = Balances(lambda event: LookupError() if event.amount % 2 else None)
    async with Projector(store, projection, retry=None, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        await projector.caught_up(await pay(store, *range(1, 21)))

    assert await balances(store) == {"noted": 110, "a": 110}
    assert [letter.event.amount for letter in await queue.list()] == [*range(1, 21, 2)]


class Undecided(MemoryDeadLetters):
    """Fails as often as it is told to, before or after it has kept a letter."""

    def __init__(self, *, failures: int, keeps: bool = False) -> None:
        super().__init__(10)
        self.failures, self.keeps, self.puts = failures, keeps, 0

    async def put(self, letter: DeadLetter) -> None:
        self.puts += 1
        if self.keeps:
            await super().put(letter)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("the queue", "away")
        await super().put(letter)


async def test_a_queue_that_fails_is_tried_again(store: EventStore) -> None:
    letters = Undecided(failures=2)
    await failed_at_three(store, DeadLetterQueue(store=letters))

    assert (letters.puts, await letters.count()) == (3, 1)
    assert await balances(store) == {"noted": 7, "a": 7}


async def test_a_queue_that_stays_away_stops_the_projection_at_its_event(store: EventStore) -> None:
    queue = DeadLetterQueue(store=Undecided(failures=99))

    with pytest.raises(ProjectionFailedError, match="the queue is not available") as raised:
        await failed_at_three(store, queue)

    assert "position 3" in str(raised.value)
    assert await balances(store) == {"noted": 3, "a": 3}


async def test_a_letter_whose_checkpoint_did_not_move_is_the_same_letter_the_next_time(store: EventStore) -> None:
    queue = DeadLetterQueue(store=Undecided(failures=3, keeps=True))
    with pytest.raises(ProjectionFailedError):
        await failed_at_three(store, queue)
    assert await queue.count() == 1

    await run(store, Balances(of_three), queue)

    assert await queue.count() == 1
    assert await balances(store) == {"noted": 7, "a": 7}


async def test_letters_sort_by_the_places_of_their_events(shared_url: str) -> None:
    queue, clock = DeadLetterQueue(), ManualClock()
    async with (
        await EventStore.connect(shared_url, clock=clock) as store,
        Projector(store, Balances(lambda event: Reject()), dead_letter_queue=queue, clock=clock) as projector,
    ):
        await projector.caught_up()
        for amount in range(10):
            await projector.caught_up(await pay(store, amount))
            clock.advance(0.01)

    assert [letter.event.amount for letter in await queue.list()] == [*range(10)]


# Giving back


async def redriving(
    store: EventStore, projection: Projection, queue: DeadLetterQueue, act: Callable[[Projector], Awaitable[Any]]
) -> Any:
    async with Projector(store, projection, retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        await projector.caught_up()
        return await act(projector)


async def test_a_redrive_does_the_event_once(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()

    assert await redriving(store, Balances(), queue, lambda projector: projector.redrive(letter)) is True

    assert await balances(store) == {"noted": 10, "a": 10}
    assert await queue.count() == 0


async def test_a_redrive_that_fails_undoes_all_and_keeps_the_letter(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()

    async with Projector(store, Balances(of_three), retry=NO_PAUSE, dead_letter_queue=queue) as projector:
        with pytest.raises(KeyError, match="lost"):
            await projector.redrive(letter.id)
        [again] = await queue.list()
        assert (again.id, again.attempts, again.redrives) == (letter.id, 4, 1)

        with pytest.raises(KeyError, match="lost"):
            await projector.redrive(again)

    assert await balances(store) == {"noted": 7, "a": 7}


async def test_a_letter_whose_event_was_done_meanwhile_leaves_without_doing_it_again(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()
    await redriving(store, Balances(), queue, lambda projector: projector.redrive(letter))
    await queue.add(letter)  # as where a process died between the commit and the queue

    assert await redriving(store, Balances(), queue, lambda projector: projector.redrive(letter)) is False

    assert await balances(store) == {"noted": 10, "a": 10}
    assert await queue.count() == 0


async def test_a_letter_of_a_version_that_was_replaced_leaves_without_doing_its_event_again(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()

    assert await redriving(store, BalancesTwo(), queue, lambda projector: projector.redrive(letter)) is False

    assert await balances(store) == {"noted": 10, "a": 10}
    assert await queue.count() == 0


async def test_a_letter_of_the_version_that_is_read_is_not_for_the_one_that_is_built_beside_it(shared_url: str) -> None:
    class Beside(Balances, version=2):
        pass

    queue = DeadLetterQueue()
    async with await EventStore.connect(shared_url) as store:
        await failed_at_three(store, queue)
        [letter] = await queue.list()
        async with Projector(
            store, Beside(lambda event: LookupError()), retry=None, dead_letter_queue=queue
        ) as projector:
            with pytest.raises(ProjectionFailedError):
                await projector.caught_up()
            with pytest.raises(NoHandlerError, match="'balances' version 1"):
                await projector.redrive(letter)

        await redriving(store, Balances(), queue, lambda projector: projector.redrive(letter))
        assert await balances(store) == {"noted": 10, "a": 10}


async def test_a_letter_that_is_being_redriven_is_not_redriven_twice(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()
    assert await queue.claim(letter.id) is not None

    assert await redriving(store, Balances(), queue, lambda projector: projector.redrive(letter)) is False

    assert await balances(store) == {"noted": 7, "a": 7}
    assert await queue.count() == 1


async def test_a_letter_that_cannot_be_redriven_is_refused_and_stays(store: EventStore) -> None:
    queue = DeadLetterQueue()
    await failed_at_three(store, queue)
    [letter] = await queue.list()

    class Other(BalancesTwo, name="other"):
        pass

    async with Projector(store, Other(), dead_letter_queue=queue) as projector:
        with pytest.raises(NoHandlerError, match=r"'balances\.add'; registered: other\.\*"):
            await projector.redrive(letter)
        with pytest.raises(DeadLetterNotFoundError):
            await projector.redrive("nothing")
        wrong: Any = 3
        with pytest.raises(InvalidArgumentError, match="a DeadLetter or its id"):
            await projector.redrive(wrong)
    with pytest.raises(NotRunningError):
        await projector.redrive(letter)
    async with Projector(store, Other()) as projector:
        with pytest.raises(NoDeadLetterQueueError):
            await projector.redrive(letter)

    assert await queue.claim(letter.id) is not None


def test_a_queue_that_is_none_is_refused() -> None:
    wrong: Any = MemoryDeadLetters(1)
    with pytest.raises(InvalidArgumentError, match="dead_letter_queue"):
        Projector(EventStore(), Balances(), dead_letter_queue=wrong, clock=SYSTEM_CLOCK)
