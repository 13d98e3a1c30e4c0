"""A projection follows the log, and each event has its effect once: live, after a failure, beside another process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from avx_events.core.clock import SYSTEM_CLOCK, Timer
from avx_events.core.errors import (
    ClosedError,
    HandlerTimeoutError,
    InvalidArgumentError,
    NotRunningError,
    ProjectionFailedError,
    ProjectionLagError,
    ProjectionReplacedError,
    StatementError,
    StoreSchemaError,
    StoreUnavailableError,
    TransactionError,
    UnknownEventTypeError,
    ValidationError,
)
from avx_events.core.event import Event
from avx_events.core.metadata import stamp
from avx_events.core.policy import Discard, Reject, Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.tables import execute
from avx_events.store.engines import engine_factory
from avx_events.store.event_store import EventStore
from avx_events.store.log_filter import filtered_pages
from avx_events.store.ports import PAGE_EVENTS, Connection, LogFilter, LogPage, RecordTuple, StoreEngine
from avx_events.store.stored_event import StoredEvent
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

FOR_EVER = "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
NO_PAUSE = Retry(attempts=3, initial_s=0, max_s=0)


class Counted(Event, event_type="projector.counted", aggregate_id="name"):
    name: str
    amount: int = 1


class Passed(Event, event_type="projector.passed"):
    pass


class Counts(Projection, name="counts"):
    """Counts in a table; what a test asks for happens before an event is counted."""

    def __init__(self) -> None:
        self.before: Callable[[Counted, Connection], Any] | None = None
        self.seen: list[int] = []

    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS counts")
        await connection.execute("CREATE TABLE counts (name TEXT PRIMARY KEY, amount INTEGER NOT NULL)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection) -> None:
        self.seen.append(event.amount)
        if self.before is not None and (waited := self.before(event, connection)) is not None:
            await waited
        await execute(
            connection,
            "INSERT INTO counts VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET amount = counts.amount + excluded.amount",
            event.name,
            event.amount,
        )


@pytest.fixture
def url(shared_url: str) -> str:
    return shared_url


async def counts_of(store: EventStore) -> dict[str, int]:
    async with store.transaction() as connection:
        return dict(await connection.fetch("SELECT name, amount FROM counts"))


async def checkpoints_of(store: EventStore) -> list[tuple[Any, ...]]:
    async with store.transaction() as connection:
        return await connection.fetch("SELECT name, version, position FROM avx_projections")


async def tables_of(store: EventStore, *names: str) -> list[str]:
    """Return those of ``names`` that the database has a table of."""
    async with store.transaction() as connection:
        if connection.dialect == "sqlite":
            rows = await connection.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
        else:
            rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    return sorted({name for (name,) in rows} & set(names))


def many(count: int) -> list[Counted]:
    return [Counted("a", number) for number in range(1, count + 1)]


# Following


async def test_it_catches_up_with_what_is_there_and_follows_what_comes(store: EventStore) -> None:
    await store.append("s", [Counted("a", 1), Counted("b", 2)])

    async with Projector(store, Counts()) as projector:
        await projector.caught_up()
        assert await counts_of(store) == {"a": 1, "b": 2}

        result = await store.append("s", [Counted("a", 3)])
        await projector.caught_up(result.position)
        assert await counts_of(store) == {"a": 4, "b": 2}


async def test_events_are_handled_in_the_order_of_the_log(store: EventStore) -> None:
    counts = Counts()
    for number in range(20):
        await store.append(f"s-{number % 3}", [Counted("a", number)])

    async with Projector(store, counts, batch_events=7) as projector:
        await projector.caught_up()

    assert counts.seen == list(range(20))


async def test_it_goes_on_where_it_was_when_it_was_left(store: EventStore) -> None:
    counts = Counts()
    await store.append("s", many(5))
    async with Projector(store, counts) as projector:
        await projector.caught_up()
    await store.append("s", many(3))
    async with Projector(store, counts) as projector:
        await projector.caught_up()

    assert counts.seen == [1, 2, 3, 4, 5, 1, 2, 3]
    assert await checkpoints_of(store) == [("counts", 1, 8)]


async def test_several_events_share_a_transaction_and_it_is_bounded(store: EventStore) -> None:
    await store.append("s", many(100))

    async with Projector(store, Counts(), batch_events=40) as projector:
        await projector.caught_up()
        statistics = projector.statistics()["counts"]

    assert statistics.handled == 100
    assert 3 <= statistics.transactions < 20
    assert (await counts_of(store))["a"] == 5050


class ImpatientClock:
    """Says that 30 ms have passed whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        self.now_s += 0.03
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return SYSTEM_CLOCK.call_later(0, callback)


async def test_a_transaction_that_takes_long_takes_no_further_events(store: EventStore) -> None:
    await store.append("s", many(10))

    async with Projector(store, Counts(), clock=ImpatientClock()) as projector:
        await projector.caught_up()
        statistics = projector.statistics()["counts"]

    assert (statistics.handled, statistics.transactions) == (10, 5)
    assert (await counts_of(store))["a"] == 55


async def test_events_without_a_handler_are_passed_over_without_a_commit_each(store: EventStore) -> None:
    await store.append("s", [Passed() for _ in range(300)])

    async with Projector(store, Counts()) as projector:
        for _ in range(50):
            result = await store.append("s", [Passed()])
            await projector.caught_up(result.position)
        assert projector.statistics()["counts"].transactions == 1  # the one that made it live
        assert projector.statistics()["counts"].position == 350

        result = await store.append("s", [Counted("a")])
        await projector.caught_up(result.position)
        assert projector.statistics()["counts"].transactions == 2

    assert await checkpoints_of(store) == [("counts", 1, 351)]


async def test_very_many_events_without_a_handler_do_move_the_checkpoint_on_disk(store: EventStore) -> None:
    for _ in range(11):
        await store.append("s", [Passed() for _ in range(1_000)])

    async with Projector(store, Counts()) as projector:
        await projector.caught_up()
        # The second one is about going live, and may have been by now.
        assert projector.statistics()["counts"].transactions in {1, 2}

    assert (await checkpoints_of(store))[0][2] >= 10_000


async def test_a_method_with_a_third_parameter_is_given_the_stored_event(store: EventStore) -> None:
    seen: list[tuple[str, int, int]] = []

    class Places(Projection, name="places"):
        @handles(Counted)
        async def note(self, event: Counted, connection: Connection, stored: StoredEvent[Counted]) -> None:
            assert stored.event is event
            seen.append((stored.stream, stored.version, stored.position))

    await store.append("x", [Counted("a")])
    await store.append("y", [Counted("a")])
    async with Projector(store, Places()) as projector:
        await projector.caught_up()

    assert seen == [("x", 1, 1), ("y", 1, 2)]


async def test_what_a_handler_makes_has_the_event_as_its_cause(store: EventStore) -> None:
    made: list[tuple[str | None, str]] = []

    class Makes(Projection, name="makes"):
        @handles(Counted)
        async def make(self, event: Counted, connection: Connection, stored: StoredEvent[Counted]) -> None:
            metadata = stamp(Passed(), clock=SYSTEM_CLOCK).metadata
            assert metadata.causation_id == stored.metadata.event_id
            made.append((metadata.causation_id, metadata.correlation_id))

    await store.append("s", many(2))
    events = await store.get_events("s")
    async with Projector(store, Makes()) as projector:
        await projector.caught_up()

    assert made == [(stored.metadata.event_id, stored.metadata.correlation_id) for stored in events]


async def test_projections_go_their_own_way(store: EventStore) -> None:
    class Names(Projection, name="names"):
        async def setup(self, connection: Connection) -> None:
            await connection.execute("CREATE TABLE names (name TEXT)")

        @handles(Counted)
        async def note(self, event: Counted, connection: Connection) -> None:
            if event.amount == 3:
                raise ValidationError("three")
            await execute(connection, "INSERT INTO names VALUES (?)", event.name)

    await store.append("s", many(5))
    async with Projector(store, Counts(), Names()) as projector:  # which is the order that they are waited for in
        with pytest.raises(ProjectionFailedError, match=r"'names' stopped at 'projector\.counted', position 3"):
            await projector.caught_up()
        statistics = projector.statistics()

    assert (statistics["names"].state, statistics["names"].position) == ("failed", 2)
    assert (statistics["counts"].state, statistics["counts"].position) == ("following", 5)


async def test_the_lag_is_told_by_projection(store: EventStore) -> None:
    counts = Counts()
    gate = asyncio.Event()
    counts.before = lambda event, connection: gate.wait()
    await store.append("s", many(4))

    async with Projector(store, counts) as projector:
        assert await projector.lag_events() == {"counts": 4}
        gate.set()
        await projector.caught_up()
        assert await projector.lag_events() == {"counts": 0}


# Once


async def test_an_effect_and_the_checkpoint_are_kept_together_or_not_at_all(store: EventStore) -> None:
    counts = Counts()
    reached = asyncio.Event()

    async def stop_here(event: Counted, connection: Connection) -> None:
        if event.amount == 3:
            await connection.execute("INSERT INTO counts VALUES ('half', 1)")
            reached.set()
            await asyncio.Event().wait()

    counts.before = stop_here
    await store.append("s", many(5))
    async with Projector(store, counts):
        await reached.wait()

    assert await counts_of(store) == {}
    assert await checkpoints_of(store) == [("counts", 1, 0)]

    counts.before = None
    async with Projector(store, counts) as projector:
        await projector.caught_up()
    assert await counts_of(store) == {"a": 15}


async def test_two_projectors_of_one_name_in_two_processes_apply_each_event_once(url: str) -> None:
    async with await EventStore.connect(url) as one, await EventStore.connect(url) as two:
        first, second = Counts(), Counts()
        await one.append("s", many(200))

        async with Projector(one, first, batch_events=7) as here, Projector(two, second, batch_events=5) as there:
            for number in range(40):
                await (one if number % 2 else two).append("s", [Counted("b", 1)])
            await here.caught_up()
            await there.caught_up()

        assert await counts_of(one) == {"a": 20_100, "b": 40}
        handled = here.statistics()["counts"].handled + there.statistics()["counts"].handled
        assert handled == 240


async def test_two_projectors_of_one_name_on_one_store_apply_each_event_once(store: EventStore) -> None:
    await store.append("s", many(50))

    async with Projector(store, Counts(), batch_events=3) as one, Projector(store, Counts(), batch_events=4) as two:
        await one.caught_up()
        await two.caught_up()

    assert await counts_of(store) == {"a": 1275}


async def test_a_checkpoint_that_is_set_back_is_followed_from_there(store: EventStore) -> None:
    counts = Counts()
    await store.append("s", many(3))
    async with Projector(store, counts) as projector:
        await projector.caught_up()
        async with store.transaction() as connection:
            await connection.execute("UPDATE avx_projections SET position = 1")
            await connection.execute("UPDATE counts SET amount = 1")
        result = await store.append("s", [Counted("a", 4)])
        await projector.caught_up(result.position)

    assert counts.seen == [1, 2, 3, 2, 3, 4]
    assert await counts_of(store) == {"a": 10}


# Setup and versions


async def test_setup_runs_once_for_each_version_and_with_the_checkpoint(store: EventStore) -> None:
    class Fussy(Counts, name="fussy"):
        has_failed = False

        async def setup(self, connection: Connection) -> None:
            await super().setup(connection)
            if not Fussy.has_failed:
                Fussy.has_failed = True
                raise ValidationError("not yet")

    with pytest.raises(ValidationError, match="not yet"):
        async with Projector(store, Fussy()):
            pass
    assert await tables_of(store, "counts", "avx_projections") == []

    for _ in range(2):  # the second time the table is there, and setup would empty it
        await store.append("s", [Counted("a")])
        async with Projector(store, Fussy()) as projector:
            await projector.caught_up()
    assert await counts_of(store) == {"a": 2}


class DoubleCounts(Counts, version=2):
    """Counts twice."""

    @handles(Counted)
    async def count_again(self, event: Counted, connection: Connection) -> None:
        await execute(connection, "UPDATE counts SET amount = amount + ? WHERE name = ?", event.amount, event.name)


async def test_a_new_version_is_built_anew_from_the_start(store: EventStore) -> None:
    await store.append("s", many(4))
    async with Projector(store, Counts()) as projector:
        await projector.caught_up()
    async with Projector(store, DoubleCounts()) as projector:
        await projector.caught_up()

    assert await counts_of(store) == {"a": 20}
    assert await checkpoints_of(store) == [("counts", 2, 4)]


async def test_an_older_version_that_still_runs_stops_and_applies_nothing_any_more(url: str) -> None:
    async with await EventStore.connect(url) as old_store, await EventStore.connect(url) as new_store:
        await old_store.append("s", many(4))
        async with Projector(old_store, Counts()) as old:
            await old.caught_up()
            async with Projector(new_store, DoubleCounts()) as new:
                result = await new_store.append("s", [Counted("a", 5)])
                await new.caught_up(result.position)
                with pytest.raises(ProjectionFailedError, match="version 1 was replaced") as raised:
                    await old.caught_up(result.position)

        assert isinstance(raised.value.__cause__, ProjectionReplacedError)
        assert await counts_of(new_store) == {"a": 30}


async def test_an_older_version_does_not_start_again(store: EventStore) -> None:
    async with Projector(store, DoubleCounts()) as projector:
        await projector.caught_up()

    with pytest.raises(ProjectionReplacedError, match="'counts' version 1 was replaced"):
        async with Projector(store, Counts()):
            pass

    assert await checkpoints_of(store) == [("counts", 2, 0)]


async def test_a_checkpoint_table_of_a_newer_version_is_refused(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute("INSERT INTO avx_schema VALUES ('projections', 99)")

    with pytest.raises(StoreSchemaError, match="projections are at version 99, newer than 5"):
        async with Projector(store, Counts()):
            pass


# Failures


async def test_a_handler_that_fails_is_tried_again_and_nothing_happens_twice(store: EventStore) -> None:
    counts = Counts()
    failures = [KeyError("lost"), ConnectionError("away")]

    def fail(event: Counted, connection: Connection) -> None:
        if event.amount == 3 and failures:
            raise failures.pop()

    counts.before = fail
    await store.append("s", many(5))
    async with Projector(store, counts, retry=NO_PAUSE) as projector:
        await projector.caught_up()
        statistics = projector.statistics()["counts"]

    assert await counts_of(store) == {"a": 15}
    assert (statistics.state, statistics.failures, statistics.handled) == ("following", 2, 5)


async def test_what_fails_for_good_stops_the_projection_at_that_event(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()
    tried: list[int] = []

    def fail(event: Counted, connection: Connection) -> None:
        if event.amount == 3:
            tried.append(event.amount)
            raise KeyError("lost")

    counts.before = fail
    await store.append("s", many(5))
    async with Projector(store, counts, retry=NO_PAUSE) as projector:
        await projector.caught_up(2)
        with pytest.raises(ProjectionFailedError) as raised:
            await projector.caught_up(3)
        statistics = projector.statistics()["counts"]

    assert str(raised.value).startswith("projection 'counts' stopped at 'projector.counted', position 3: KeyError")
    assert isinstance(raised.value.__cause__, KeyError)
    assert len(tried) == NO_PAUSE.attempts
    assert (statistics.state, statistics.position) == ("failed", 2)
    assert await counts_of(store) == {"a": 3}
    assert await checkpoints_of(store) == [("counts", 1, 2)]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "'counts' stopped at 'projector.counted', position 3" in record.getMessage()


async def test_a_projection_that_stopped_begins_again_at_that_event(store: EventStore) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        if event.amount == 3:
            raise KeyError("lost")

    counts.before = fail
    await store.append("s", many(5))
    async with Projector(store, counts, retry=Retry(attempts=1)) as projector:
        with pytest.raises(ProjectionFailedError, match="KeyError"):
            await projector.caught_up()
    counts.before = None
    async with Projector(store, counts) as projector:
        await projector.caught_up()

    assert await counts_of(store) == {"a": 15}


async def test_an_event_that_a_handler_discards_is_skipped_and_said(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()

    async def discard(event: Counted, connection: Connection) -> None:
        if event.amount in {1, 3}:
            await execute(connection, "INSERT INTO counts VALUES (?, 1)", f"half {event.amount}")
            raise Discard("of no use")

    counts.before = discard
    await store.append("s", many(5))
    with caplog.at_level(logging.INFO, "avx_events.projection"):
        async with Projector(store, counts) as projector:
            await projector.caught_up()
            statistics = projector.statistics()["counts"]

    assert await counts_of(store) == {"a": 11}
    assert await checkpoints_of(store) == [("counts", 1, 5)]
    assert (statistics.handled, statistics.failures) == (3, 0)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" at ")[1] for line in said] == [
        "'projector.counted', position 1: of no use",
        "'projector.counted', position 3: of no use",
    ]


async def test_a_method_that_discards_an_event_keeps_it_from_no_other(store: EventStore) -> None:
    class Choosy(Counts, name="choosy"):
        @handles(Counted)
        async def discard(self, event: Counted, connection: Connection) -> None:
            raise Discard

    await store.append("s", many(4))
    async with Projector(store, Choosy(), batch_events=3) as projector:
        await projector.caught_up()
        assert projector.statistics()["choosy"].handled == 4

    assert await counts_of(store) == {"a": 10}


@pytest.mark.parametrize("error", [Reject("no"), ValidationError("no"), StatementError("SELECT", "no")])
async def test_what_can_never_succeed_is_not_tried_again(store: EventStore, error: Exception) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        raise error

    counts.before = fail
    await store.append("s", many(1))
    async with Projector(store, counts) as projector:
        with pytest.raises(ProjectionFailedError) as raised:
            await projector.caught_up()

    assert raised.value.__cause__ is error
    assert counts.seen == [1]


async def test_a_statement_that_the_database_refuses_stops_the_projection(store: EventStore) -> None:
    counts = Counts()
    counts.before = lambda event, connection: connection.execute("INSERT INTO nowhere VALUES (1)")
    await store.append("s", many(1))

    async with Projector(store, counts) as projector:
        with pytest.raises(ProjectionFailedError, match=r"StatementError: .*nowhere"):
            await projector.caught_up()


async def test_a_handler_that_appends_to_the_store_is_told_that_it_cannot(store: EventStore) -> None:
    counts = Counts()
    counts.before = lambda event, connection: store.append("s", [Passed()])
    await store.append("s", many(1))

    async with Projector(store, counts) as projector:
        with pytest.raises(ProjectionFailedError) as raised:
            await projector.caught_up()

    assert isinstance(raised.value.__cause__, TransactionError)


async def test_a_handler_that_meets_something_closed_does_not_end_its_projection_unheard(store: EventStore) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        raise ClosedError("the bus", "publish")

    counts.before = fail
    await store.append("s", many(1))
    async with Projector(store, counts) as projector:
        with pytest.raises(ProjectionFailedError, match="ClosedError: the bus is closed"):
            await projector.caught_up()


async def test_a_handler_that_raises_cancellation_does_not_end_its_projection_unheard(store: EventStore) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        raise asyncio.CancelledError

    counts.before = fail
    await store.append("s", many(1))
    async with Projector(store, counts, retry=NO_PAUSE) as projector:
        with pytest.raises(ProjectionFailedError, match="CancelledError"):
            await projector.caught_up()


async def test_a_handler_that_never_returns_is_ended_and_appends_go_on(store: EventStore) -> None:
    counts = Counts()
    counts.before = lambda event, connection: asyncio.Event().wait()
    await store.append("s", many(1))

    async with Projector(store, counts, timeout_s=0.02, retry=Retry(attempts=1)) as projector:
        with pytest.raises(ProjectionFailedError, match="projection 'counts' did not finish within") as raised:
            await projector.caught_up()
        await store.append("s", many(1))

    assert isinstance(raised.value.__cause__, HandlerTimeoutError)


async def test_a_statement_that_takes_too_long_is_ended_and_tried_again(store: EventStore) -> None:
    counts = Counts()
    counts.before = lambda event, connection: connection.fetch(FOR_EVER)
    await store.append("s", many(1))

    async with Projector(store, counts, timeout_s=0.05, retry=Retry(attempts=2, max_s=0)) as projector:
        with pytest.raises(ProjectionFailedError, match="did not finish within"):
            await projector.caught_up()
    assert counts.seen == [1, 1]

    counts.before = None
    async with Projector(store, counts) as projector:
        await projector.caught_up()
    assert await counts_of(store) == {"a": 1}


async def append_unknown(store: EventStore) -> None:
    await store.append("s", [Counted("a", 1), Passed(), Counted("a", 2)])
    async with store.transaction() as connection:
        await connection.execute("UPDATE avx_events SET event_type = 'projector.unknown' WHERE version = 2")


async def test_an_unknown_event_type_does_not_matter_to_a_projection_that_does_not_handle_it(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await append_unknown(store)
        async with Projector(store, Counts()) as projector:
            await projector.caught_up()

        assert await counts_of(store) == {"a": 3}


class CountsAll(Counts, name="counts-all"):
    """Handles a family, which any event may belong to."""

    @handles(Event)
    async def see(self, event: object, connection: Connection) -> None: ...


async def test_an_unknown_event_type_stops_a_projection_of_a_family_after_what_came_before_it(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await append_unknown(store)
        async with Projector(store, CountsAll()) as projector:
            with pytest.raises(ProjectionFailedError, match=r"projector\.unknown") as raised:
                await projector.caught_up()

        assert isinstance(raised.value.__cause__, UnknownEventTypeError)
        assert await counts_of(store) == {"a": 1}


async def test_an_unknown_event_type_is_passed_over_where_the_store_keeps_them(url: str) -> None:
    async with await EventStore.connect(url, unknown="keep") as store:
        await append_unknown(store)
        async with Projector(store, CountsAll()) as projector:
            await projector.caught_up()

        assert await counts_of(store) == {"a": 3}


async def test_an_event_that_cannot_be_read_matters_to_who_handles_it_only(url: str) -> None:
    class Passes(Counts, name="passes"):
        @handles(Passed)
        async def see(self, event: Passed, connection: Connection) -> None: ...

    async with await EventStore.connect(url) as store:
        await store.append("s", [Counted("a", 1), Passed(), Counted("a", 2)])
        async with store.transaction() as connection:
            await connection.execute("UPDATE avx_events SET data = metadata WHERE version = 2")
        async with Projector(store, Counts()) as projector:
            await projector.caught_up()
        async with Projector(store, Passes()) as projector:
            with pytest.raises(ProjectionFailedError, match="DecodeError"):
                await projector.caught_up()


class FlakyEngine:
    """An engine whose reads of the log fail as often as it is told to; all else is the engine's own."""

    def __init__(self, engine: StoreEngine) -> None:
        self.engine = engine
        self.failures_after: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def read_all(self, *, after: int = 0, limit: int = PAGE_EVENTS, wanted: LogFilter | None = None) -> LogPage:
        if self.failures_after.get(after, 0):
            self.failures_after[after] -= 1
            raise StoreUnavailableError("sqlite:///counts.db", "away")
        return await self.engine.read_all(after=after, limit=limit, wanted=wanted)

    def log_pages(
        self, *, after: int = 0, until: int | None = None, wanted: LogFilter | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        engine: Any = self
        return filtered_pages(engine, after=after, until=until, wanted=wanted)


async def flaky_store(url: str, failures_after: dict[int, int]) -> EventStore:
    engine: Any = FlakyEngine(await engine_factory(url)(url, clock=SYSTEM_CLOCK))
    store = EventStore(engine)
    await store.append("s", many(3))
    engine.failures_after = failures_after
    return store


async def test_a_log_that_cannot_be_read_for_a_while_is_read_again(url: str) -> None:
    async with await flaky_store(url, {0: 2, 3: 2}) as store, Projector(store, Counts(), retry=NO_PAUSE) as projector:
        await projector.caught_up()
        result = await store.append("s", many(3))
        await projector.caught_up(result.position)

        assert projector.statistics()["counts"].failures == 4
        assert await counts_of(store) == {"a": 12}


async def test_a_log_that_stays_away_stops_the_projection(url: str) -> None:
    async with await flaky_store(url, {0: 3}) as store, Projector(store, Counts(), retry=NO_PAUSE) as projector:
        with pytest.raises(ProjectionFailedError, match="stopped after position 0: StoreUnavailableError"):
            await projector.caught_up()


class QuietClock(ImpatientClock):
    """Says that an hour has passed whenever it is looked at."""

    def monotonic(self) -> float:
        self.now_s += 3600
        return self.now_s


async def test_troubles_with_long_quiet_times_between_them_do_not_add_up(url: str) -> None:
    retry = Retry(attempts=2, initial_s=0, max_s=60)
    async with (
        await flaky_store(url, {3: 5}) as store,
        Projector(store, Counts(), retry=retry, clock=QuietClock()) as projector,
    ):
        await until(lambda: projector.statistics()["counts"].failures == 5)
        await projector.caught_up((await store.append("s", many(1))).position)

        assert await counts_of(store) == {"a": 7}


# Waiting


async def test_waiting_for_what_is_not_there_yet_ends_with_the_time(store: EventStore) -> None:
    async with Projector(store, Counts()) as projector:
        with pytest.raises(ProjectionLagError, match=r"'counts' is at position 0, not yet at 1 after 0\.01 s"):
            await projector.caught_up(1, timeout_s=0.01)


async def test_all_who_wait_are_told(store: EventStore) -> None:
    async with Projector(store, Counts()) as projector, asyncio.TaskGroup() as tasks:
        for position in (3, 1, 2, 3):
            tasks.create_task(projector.caught_up(position))
        await store.append("s", many(3))


@pytest.mark.parametrize("arguments", [{"position": -1}, {"position": 1.5}, {"timeout_s": 0}, {"timeout_s": None}])
async def test_a_position_or_a_time_that_is_none_is_refused(store: EventStore, arguments: dict[str, Any]) -> None:
    async with Projector(store, Counts()) as projector:
        with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
            await projector.caught_up(**arguments)


# Life


async def test_a_projector_runs_inside_of_its_block_only(store: EventStore) -> None:
    projector = Projector(store, Counts())

    with pytest.raises(NotRunningError, match="wait for its projections"):
        await projector.caught_up()
    async with projector:
        await projector.caught_up()
    with pytest.raises(NotRunningError, match="wait for its projections"):
        await projector.caught_up()
    with pytest.raises(NotRunningError, match="a second time"):
        async with projector:
            pass


async def test_who_waits_when_the_projector_is_left_is_told(store: EventStore) -> None:
    async with asyncio.TaskGroup() as tasks, Projector(store, Counts()) as projector:
        waiting = tasks.create_task(expect_not_running(projector))
        await asyncio.sleep(0)

    assert waiting.result() == "the projector"


async def expect_not_running(projector: Projector) -> str:
    with pytest.raises(NotRunningError) as raised:
        await projector.caught_up(1)
    return raised.value.what


async def test_it_ends_with_its_store(url: str) -> None:
    store = await EventStore.connect(url)
    async with asyncio.TaskGroup() as tasks, Projector(store, Counts()) as projector:
        waiting = tasks.create_task(expect_not_running(projector))
        await asyncio.sleep(0)
        await store.close()
        await waiting
        assert projector.statistics()["counts"].state == "stopped"


async def test_it_ends_with_its_store_in_the_middle_of_an_event(url: str) -> None:
    store, counts = await EventStore.connect(url), Counts()
    counts.before = lambda event, connection: store.close()
    await store.append("s", many(1))
    async with Projector(store, counts) as projector:
        with pytest.raises(NotRunningError):
            await projector.caught_up(1)

        assert projector.statistics()["counts"].state == "stopped"


async def test_a_store_without_a_database_is_refused() -> None:
    with pytest.raises(TransactionError, match="sqlite://"):
        async with Projector(EventStore(), Counts()):
            pass


async def test_leaving_leaves_nothing_running(store: EventStore) -> None:
    counts = Counts()
    reached = asyncio.Event()

    async def stop_here(event: Counted, connection: Connection) -> None:
        reached.set()
        await asyncio.Event().wait()

    counts.before = stop_here
    await store.append("s", many(1))
    before = asyncio.all_tasks()
    async with Projector(store, counts):
        await reached.wait()

    await until(lambda: asyncio.all_tasks() <= before)


async def test_cancelled_at_any_point_it_leaves_nothing_running_and_nothing_half_done(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await store.append("s", many(30))

        async def project() -> None:
            async with Projector(store, Counts(), batch_events=4) as projector:
                await projector.caught_up()

        loop, turns, is_done, before = asyncio.get_running_loop(), 0, False, asyncio.all_tasks()
        while not is_done:
            turns += 1
            async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
                task = tasks.create_task(project())
                for _ in range(turns):
                    await turn_of(loop)
                is_done = task.done()
                task.cancel()
            await until(lambda: asyncio.all_tasks() <= before)
            if await tables_of(store, "counts"):
                ((_, _, position),) = await checkpoints_of(store)
                assert (await counts_of(store)).get("a", 0) == position * (position + 1) // 2

        assert turns > 3
        assert await counts_of(store) == {"a": 465}


async def turn_of(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop look once at what its threads have done."""
    await loop.run_in_executor(None, int)


class Unusual(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [Unusual, GeneratorExit, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_whatever_a_handler_raises_is_tried_again_and_then_stops_its_projection(
    store: EventStore, error: type[BaseException]
) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        raise error

    counts.before = fail
    position = (await store.append("s", Counted("a"))).position

    async with Projector(store, counts, retry=NO_PAUSE) as projector:
        with pytest.raises(ProjectionFailedError, match=error.__name__):
            await projector.caught_up(position)

    assert counts.seen == [1, 1, 1]


async def test_events_without_a_handler_move_the_checkpoint_and_hold_no_effect_back(store: EventStore) -> None:
    seen: list[tuple[int, int]] = []

    class Watched(Counts):
        @handles(Counted)
        async def count(self, event: Counted, connection: Connection) -> None:
            (checkpoint,) = await connection.fetch_one("SELECT position FROM avx_projections") or (0,)
            seen.append((event.amount, checkpoint))

    await store.append("s", Counted("a", 1))
    await store.append("s", [Passed()] * 12_000)
    await store.append("s", Counted("a", 2))

    async with Projector(store, Watched()) as projector:
        await projector.caught_up(1)
        assert projector.statistics()["counts"].position < 12_000
        await projector.caught_up()

    assert seen[0] == (1, 0)
    assert seen[1][1] >= 10_000


async def test_without_retry_there_is_one_attempt(store: EventStore) -> None:
    counts = Counts()

    def fail(event: Counted, connection: Connection) -> None:
        raise LookupError

    counts.before = fail
    await store.append("s", Counted("a"))

    async with Projector(store, counts, retry=None) as projector:
        with pytest.raises(ProjectionFailedError) as failed:
            await projector.caught_up()

    assert isinstance(failed.value.__cause__, LookupError)
    assert counts.seen == [1]


async def test_a_projector_that_is_left_at_once_is_stopped(store: EventStore) -> None:
    async with Projector(store, Counts()) as projector:
        pass

    assert projector.statistics()["counts"].state == "stopped"


async def test_nobody_waits_for_the_end_of_a_closed_store(store: EventStore) -> None:
    async with Projector(store, Counts()) as projector:
        await store.close()

        with pytest.raises(NotRunningError):
            await projector.caught_up()


async def test_a_position_does_not_go_back_where_another_process_is_ahead(store: EventStore) -> None:
    projection = Counts()
    (follower,) = Projector(store, projection)._followers
    await follower.begin()
    await store.append("s", [Counted("a"), *[Passed()] * 9])
    items = [(stored, projection.effects_of(Counted)) async for stored in store.read_all() if stored.position == 1]
    async with store.transaction() as connection:
        await connection.execute("UPDATE avx_projections SET position = 10")

    await follower._take(items, 1)
    await follower._take([], 5)

    assert follower.position == 10
