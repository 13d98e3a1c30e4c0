"""Events are added in the transaction of somebody else's connection, and published when that is committed."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import (
    EncodeError,
    EventTooLargeError,
    InvalidArgumentError,
    InvalidTopicError,
    NotAnEventError,
    RelayLagError,
    StatementError,
    TransactionError,
    TransportUnavailableError,
)
from avx_events.core.event import Event, Query
from avx_events.core.metadata import EventMetadata, context, current_message, stamp
from avx_events.patterns.outbox import Outbox, OutboxRelay, RelayLag, outbox_ddl
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.testing import ManualClock
from tests.unit.patterns.outbox.buses import Keyless, Noted, OwnedBus
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

AWAY = TransportUnavailableError("redis://there", "it is away")


class Measured(Event, event_type="outbox.measured"):
    value: float


class Asked(Query[int], event_type="outbox.asked"):
    pass


class AwaitedConnection:
    """As aiosqlite's: each call is awaited, and done in a thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    @property
    def isolation_level(self) -> str | None:
        return self._connection.isolation_level

    @asynccontextmanager
    async def execute(self, sql: str, params: Any) -> AsyncGenerator[sqlite3.Cursor, None]:
        cursor = await asyncio.to_thread(self._connection.execute, sql, params)
        yield cursor
        cursor.close()

    async def commit(self) -> None:
        await asyncio.to_thread(self._connection.commit)


class AsyncpgConnection:
    """As asyncpg's: remembers what it is given, and answers with a status."""

    def __init__(self, *, is_in_transaction: bool = True) -> None:
        self.statements: list[tuple[str, tuple[Any, ...]]] = []
        self._is_in_transaction = is_in_transaction

    def is_in_transaction(self) -> bool:
        return self._is_in_transaction

    async def execute(self, sql: str, *args: Any) -> str:
        self.statements.append((sql, args))
        return "INSERT 0 1"

    async def fetchrow(self, sql: str, *args: Any) -> None:
        raise NotImplementedError


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/orders.db"


@pytest.fixture
def database(tmp_path: Path) -> Generator[sqlite3.Connection, None, None]:
    with closing(sqlite3.connect(tmp_path / "orders.db", check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(outbox_ddl("sqlite"))
        connection.execute("CREATE TABLE orders (id TEXT)")
        yield connection


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


async def add(store: EventStore, outbox: Outbox, *events: object) -> None:
    async with store.transaction() as connection:
        for event in events:
            await outbox.add(event, connection)


async def waiting(store: EventStore) -> list[tuple[Any, ...]]:
    return await store.fetch("SELECT key, event_type FROM avx_outbox WHERE published_us IS NULL ORDER BY id")


# Adding


async def test_what_is_committed_is_published_with_the_metadata_it_was_given(store: EventStore, outbox: Outbox) -> None:
    bus = TopicBus()
    subscriber = await bus.subscribe("notes.*")
    await outbox.prepare(store)

    async with store.transaction() as connection:
        with context(correlation_id="chain", user_id="ada", causation_id="cause"):
            metadata = await outbox.add(Noted("a", 1), connection, topic="notes.made", headers={"trace": "1"})
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()

    envelope = await anext(subscriber.envelopes())
    assert envelope.metadata == metadata
    assert (metadata.correlation_id, metadata.causation_id, metadata.user_id) == ("chain", "cause", "ada")
    assert (envelope.topic, envelope.event, dict(metadata.headers)) == ("notes.made", Noted("a", 1), {"trace": "1"})


async def test_an_event_added_by_a_handler_is_caused_by_what_is_handled(store: EventStore, outbox: Outbox) -> None:
    await outbox.prepare(store)
    cause: EventMetadata = stamp(Noted("a", 1), clock=ManualClock()).metadata
    token = current_message.set(cause)
    try:
        async with store.transaction() as connection:
            metadata = await outbox.add(Noted("a", 2), connection)
    finally:
        current_message.reset(token)

    assert (metadata.correlation_id, metadata.causation_id) == (cause.correlation_id, cause.event_id)


async def test_nothing_is_published_of_a_transaction_that_was_undone(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    await outbox.prepare(store)

    async def fail() -> None:
        async with store.transaction() as connection:
            await outbox.add(Noted("a", 1), connection)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    await add(store, outbox, Noted("a", 2))
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [2]


async def test_an_envelope_keeps_its_metadata(store: EventStore, outbox: Outbox, bus: OwnedBus) -> None:
    envelope = stamp(Noted("a", 1), clock=ManualClock(), topic="elsewhere")
    await outbox.prepare(store)
    await add(store, outbox, envelope)
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.accepted == [envelope]


async def test_sqlite3_adds_at_once_and_is_committed_by_its_own_program(
    file_url: str, database: sqlite3.Connection, outbox: Outbox, bus: OwnedBus
) -> None:
    with database:
        database.execute("INSERT INTO orders VALUES ('1')")
        outbox.add_nowait(Noted("a", 1), database)
    with database:
        await outbox.add(Noted("a", 2), database)
    outbox.add_nowait(Noted("a", 3), database)
    database.rollback()

    async with await EventStore.connect(file_url) as store, OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [1, 2]


async def test_sqlite3_adds_from_any_thread(
    file_url: str, database: sqlite3.Connection, outbox: Outbox, bus: OwnedBus
) -> None:
    def place() -> None:
        with database:
            outbox.add_nowait(Noted("a", 1), database)

    await asyncio.to_thread(place)
    async with await EventStore.connect(file_url) as store, OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [1]


async def test_a_connection_that_is_awaited_as_aiosqlites_adds(
    file_url: str, database: sqlite3.Connection, outbox: Outbox, bus: OwnedBus
) -> None:
    awaited = AwaitedConnection(database)
    await outbox.add(Noted("a", 1), awaited)
    await awaited.commit()
    async with await EventStore.connect(file_url) as store, OutboxRelay(store, bus) as running:
        await running.caught_up()

    assert bus.numbers == [1]


async def test_a_connection_like_asyncpgs_gets_its_own_placeholders(outbox: Outbox) -> None:
    connection = AsyncpgConnection()
    await outbox.prepare(connection)
    metadata = await outbox.add(Noted("a", 1), connection)

    sql, values = connection.statements[-1]
    assert sql.endswith("VALUES ($1, $2, $3, $4, $5)")
    assert values[:3] == (metadata.event_id, "outbox.noted", "a")
    assert "GENERATED ALWAYS AS IDENTITY" in connection.statements[1][0]


async def test_a_connection_that_would_commit_by_itself_is_refused(
    outbox: Outbox, database: sqlite3.Connection
) -> None:
    database.isolation_level = None
    for connection in (database, AwaitedConnection(database), AsyncpgConnection(is_in_transaction=False)):
        with pytest.raises(TransactionError, match="begin one first"):
            await outbox.add(Noted("a", 1), connection)
    database.execute("BEGIN")
    outbox.add_nowait(Noted("a", 1), database)
    database.execute("COMMIT")

    assert database.execute("SELECT count(*) FROM avx_outbox").fetchone() == (1,)


async def test_what_is_no_connection_is_refused(outbox: Outbox, database: sqlite3.Connection) -> None:
    for connection in (None, "sqlite:///orders.db", object()):
        with pytest.raises(InvalidArgumentError, match="connection must be"):
            await outbox.add(Noted("a", 1), connection)
    for connection in (AwaitedConnection(database), AsyncpgConnection(), None):
        with pytest.raises(InvalidArgumentError, match="sqlite3"):
            outbox.add_nowait(Noted("a", 1), connection)


async def test_what_can_never_be_published_is_refused_when_it_is_added(store: EventStore, outbox: Outbox) -> None:
    await outbox.prepare(store)
    async with store.transaction() as connection:
        for event in (Noted, "a", Asked()):
            with pytest.raises(NotAnEventError):
                await outbox.add(event, connection)
        with pytest.raises(EncodeError):
            await outbox.add(Measured(float("nan")), connection)
        with pytest.raises(InvalidTopicError):
            await outbox.add(Noted("a", 1), connection, topic="a..b")
        with pytest.raises(EventTooLargeError):
            await Outbox(max_event_bytes=10).add(Noted("a", 1), connection)
        with pytest.raises(InvalidArgumentError):
            await outbox.add(Noted("a\0", 1), connection)
    with pytest.raises(InvalidArgumentError):
        Outbox(max_event_bytes=0)

    assert await waiting(store) == []


async def test_a_database_without_the_table_says_so(store: EventStore, outbox: Outbox) -> None:
    with pytest.raises(StatementError, match="avx_outbox"):
        await add(store, outbox, Noted("a", 1))


async def test_the_table_may_be_made_by_anybody_and_more_than_once(
    file_url: str, database: sqlite3.Connection, outbox: Outbox
) -> None:
    await outbox.prepare(database)
    database.commit()
    async with await EventStore.connect(file_url) as store:
        await outbox.prepare(store)
        await outbox.prepare(store)
        async with store.transaction() as connection:
            await outbox.prepare(connection)


def test_the_sql_of_another_dialect_is_not_shown() -> None:
    with pytest.raises(InvalidArgumentError, match="sqlite, postgresql"):
        outbox_ddl("mysql")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Publishing


async def test_rows_are_published_in_order_and_removed(store: EventStore, outbox: Outbox, bus: OwnedBus) -> None:
    async with OutboxRelay(store, bus, poll_s=0.001) as running:
        for number in range(0, 250, 50):
            await add(store, outbox, *(Noted(f"key-{each % 3}", each) for each in range(number, number + 50)))
        await running.caught_up()
        statistics = running.statistics()

    for key in range(3):
        assert bus.numbers_of(f"key-{key}") == list(range(key, 250, 3))
    assert (statistics.published, statistics.position) == (250, 250)
    assert await store.fetch("SELECT * FROM avx_outbox") == []


async def test_rows_that_are_to_be_kept_are_marked_and_published_once(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1))
    for _ in range(2):
        async with OutboxRelay(store, bus, keep_s=60) as running:
            await running.caught_up()

    assert await waiting(store) == []
    assert await store.fetch("SELECT key FROM avx_outbox") == [("a",)]
    assert bus.numbers == [1]


async def test_rows_go_when_they_were_kept_for_long_enough(
    sqlite_store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    clock = ManualClock()
    async with OutboxRelay(sqlite_store, bus, keep_s=60, clock=clock) as running:
        for number in (1, 2):
            await add(sqlite_store, outbox, Noted("a", number))
            clock.advance(1)
            await running.caught_up()
            clock.advance(61)

    assert await sqlite_store.fetch("SELECT id FROM avx_outbox") == [(2,)]
    assert bus.numbers == [1, 2]


async def test_no_row_overtakes_another_of_its_key_that_is_refused(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    clock = ManualClock()
    bus.refuses = lambda event: AWAY if event.key == "a" else None
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1), Noted("a", 2), Noted("b", 3), Noted("b", 4))

    async with OutboxRelay(store, bus, clock=clock) as running:
        await until(lambda: bus.numbers == [3, 4])
        bus.refuses = lambda _: None
        await clock.planned(3)  # the next attempt, the next look, the lease
        clock.advance(1)
        await running.caught_up()

    assert bus.numbers == [3, 4, 1, 2]


async def test_rows_of_one_relay_are_there_for_the_next_where_they_were_not_accepted(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    bus.refuses = lambda event: AWAY if event.number == 2 else None
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1), Noted("a", 2), Noted("a", 3))
    async with OutboxRelay(store, bus) as running:
        await until(lambda: running.statistics().repeated)
    assert bus.numbers == [1]

    bus.refuses = lambda _: None
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()
    assert bus.numbers == [1, 2, 3]


def too_large(event: Any) -> BaseException | None:
    return EventTooLargeError("outbox.noted", size_bytes=9, max_bytes=1) if event.number == 2 else None


async def test_a_row_that_can_never_be_published_is_a_dead_letter_and_its_key_goes_on(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    queue = DeadLetterQueue()
    bus.refuses = too_large
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1), Noted("a", 2), Noted("a", 3))
    async with store.transaction() as connection:
        await execute(connection, "UPDATE avx_outbox SET document = ? WHERE id = 3", b"{")
    await add(store, outbox, Noted("a", 4))

    async with OutboxRelay(store, bus, dead_letter_queue=queue) as running:
        await running.caught_up()

    letters = {letter.reason: letter for letter in await queue.list(handler="outbox relay")}
    assert bus.numbers == [1, 4]
    assert letters["rejected"].event == Noted("a", 2)
    assert letters["undecodable"].raw == b"{"
    assert await waiting(store) == []


async def test_without_a_queue_such_a_row_holds_its_own_key_and_no_other(
    store: EventStore, outbox: Outbox, bus: OwnedBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus.refuses = too_large
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1), Noted("a", 2), Noted("a", 3), Noted("b", 4))

    async with OutboxRelay(store, bus, poll_s=0.001) as running:
        await until(lambda: running.statistics().held_keys)
        await add(store, outbox, Noted("a", 5), Noted("b", 6))
        await until(lambda: 6 in bus.numbers)
        assert sorted(bus.numbers) == [1, 4, 6]
        assert running.statistics().state == "active"
        with pytest.raises(RelayLagError):
            await running.caught_up(timeout_s=0.05)
        async with asyncio.timeout(10):
            while (await running.lag()).events != 3:  # those that were accepted are removed a moment later
                pass

    assert "can never be published and stays" in caplog.text
    bus.refuses = lambda _: None
    async with OutboxRelay(store, bus) as running:
        await running.caught_up()
    assert bus.numbers_of("a") == [1, 2, 3, 5]


async def test_a_row_without_a_key_that_can_never_be_published_holds_nothing(
    store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    bus.refuses = too_large
    await outbox.prepare(store)
    await add(store, outbox, *(Keyless(number) for number in range(1, 5)))

    async with OutboxRelay(store, bus) as running:
        await until(lambda: len(bus.accepted) == 3 and running.statistics().held_keys)

    assert len(await waiting(store)) == 1


async def test_held_rows_do_not_use_up_what_may_be_in_flight(store: EventStore, outbox: Outbox, bus: OwnedBus) -> None:
    bus.refuses = lambda event: too_large(Noted("a", 2)) if event.key == "held" else None
    await outbox.prepare(store)
    await add(store, outbox, *(Noted("held", number) for number in range(50)))
    await add(store, outbox, *(Noted("free", number) for number in range(50)))

    async with OutboxRelay(store, bus, in_flight=4, poll_s=0.001):
        await until(lambda: len(bus.accepted) == 50)

    assert bus.numbers_of("free") == list(range(50))


async def test_one_of_several_relays_publishes_and_another_takes_over(
    sqlite_store: EventStore, outbox: Outbox, bus: OwnedBus
) -> None:
    clock, stopped_clock = ManualClock(), ManualClock()
    taken = OwnedBus()
    bus.hold()
    await outbox.prepare(sqlite_store)
    await add(sqlite_store, outbox, Noted("a", 1), Noted("a", 2), Noted("b", 3))

    async with OutboxRelay(sqlite_store, bus, clock=stopped_clock) as stopped:
        await until(lambda: len(bus.begun) == 2)
        async with OutboxRelay(sqlite_store, taken, clock=clock) as standby:
            await clock.planned()
            assert standby.statistics().state == "standby"
            clock.advance(14)
            await until(lambda: standby.is_active)
            await standby.caught_up()
            stopped_clock.advance(14)
            bus.release()
            await until(lambda: stopped.statistics().state == "standby")

    assert taken.numbers_of("a") == [1, 2]
    assert sorted(envelope.event.number for envelope in bus.begun) == [1, 3]


async def test_an_outbox_relay_says_how_far_it_is_behind(store: EventStore, bus: OwnedBus) -> None:
    clock = ManualClock()
    outbox = Outbox(clock=clock)
    await outbox.prepare(store)
    await add(store, outbox, Noted("a", 1), Noted("a", 2))
    clock.advance(3)
    bus.hold()
    async with OutboxRelay(store, bus, clock=clock, drain_timeout_s=0.01) as running:
        assert await running.lag() == RelayLag(events=2, seconds=3)
        bus.release()
        await running.caught_up()
        assert await running.lag() == RelayLag(events=0, seconds=0)


@pytest.mark.parametrize("options", [{"keep_s": 0}, {"poll_s": 0}, {"in_flight": 0}, {"lease_s": -1}], ids=str)
async def test_what_is_not_acceptable_is_refused(bus: OwnedBus, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        OutboxRelay(EventStore(), bus, **options)
