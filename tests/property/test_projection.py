"""A projection run twice equals one run, however the log is cut into runs, transactions and failures."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events.core.errors import ProjectionReplacedError
from avx_events.core.event import Event
from avx_events.core.policy import Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent


class Deposited(Event, event_type="law.deposited", aggregate_id="account"):
    account: str
    amount: int


class Renamed(Event, event_type="law.renamed", aggregate_id="account"):
    account: str


class Balances(Projection, name="balances"):
    """Fails once at each of the positions it is given, after half of the work is done."""

    def __init__(self, failures: Sequence[int] = ()) -> None:
        self.failures = set(failures)

    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS balances")
        await connection.execute("CREATE TABLE balances (account TEXT PRIMARY KEY, amount INTEGER, history TEXT)")

    @handles(Deposited)
    async def deposit(self, event: Deposited, connection: Connection, stored: StoredEvent[Deposited]) -> None:
        await connection.execute("INSERT OR IGNORE INTO balances VALUES (?, 0, '')", event.account)
        await connection.execute(
            "UPDATE balances SET amount = amount + ? WHERE account = ?", event.amount, event.account
        )
        if stored.position in self.failures:
            self.failures.remove(stored.position)
            raise ConnectionError
        await connection.execute(
            "UPDATE balances SET history = history || ? WHERE account = ?", f"{stored.position} ", event.account
        )


events = st.lists(
    st.one_of(
        st.builds(Deposited, st.sampled_from("abc"), st.integers(-100, 100)),
        st.builds(Renamed, st.sampled_from("abc")),
    ),
    min_size=1,
    max_size=12,
)
runs = st.lists(events, min_size=1, max_size=4)


async def rows_of(store: EventStore) -> list[tuple[Any, ...]]:
    async with store.transaction() as connection:
        return await connection.fetch("SELECT * FROM balances ORDER BY account")


async def project(store: EventStore, projection: Projection, *, batch_events: int) -> None:
    retry = Retry(attempts=2, initial_s=0, max_s=0)
    async with Projector(store, projection, batch_events=batch_events, retry=retry) as projector:
        await projector.caught_up()


def expected(log: Sequence[Event]) -> list[tuple[str, int, str]]:
    """Say it in Python, from the whole log at once."""
    rows: dict[str, tuple[int, str]] = {}
    for position, event in enumerate(log, start=1):
        if isinstance(event, Deposited):
            amount, history = rows.get(event.account, (0, ""))
            rows[event.account] = (amount + event.amount, f"{history}{position} ")
    return [(account, *row) for account, row in sorted(rows.items())]


@settings(max_examples=50)
@given(runs=runs, batch_events=st.integers(1, 5), failures=st.sets(st.integers(1, 40)))
def test_a_projection_run_twice_equals_one_run(runs: list[list[Event]], batch_events: int, failures: set[int]) -> None:
    async def scenario() -> None:
        async with await EventStore.connect("sqlite://") as store:
            for run in runs:
                await store.append("s", run)
                for _ in range(2):  # the second one finds nothing to do
                    await project(store, Balances(sorted(failures)), batch_events=batch_events)

            assert await rows_of(store) == expected([event for run in runs for event in run])

    asyncio.run(scenario())


class NamedBalances(Balances, name="named", tables=("balances",)):
    """The same in tables that it has named, where a new version is built beside it."""

    async def setup(self, connection: Connection) -> None:
        columns = "(account TEXT PRIMARY KEY, amount INTEGER, history TEXT)"
        await connection.execute(f"CREATE TABLE {self.table('balances')} {columns}")

    @handles(Deposited)
    async def deposit(self, event: Deposited, connection: Connection, stored: StoredEvent[Deposited]) -> None:
        balances = self.table("balances")
        await connection.execute(f"INSERT OR IGNORE INTO {balances} VALUES (?, 0, '')", event.account)  # noqa: S608
        if stored.position in self.failures:
            self.failures.remove(stored.position)
            raise ConnectionError
        await connection.execute(
            f"UPDATE {balances} SET amount = amount + ?, history = history || ? WHERE account = ?",  # noqa: S608
            event.amount,
            f"{stored.position} ",
            event.account,
        )


class NewBalances(NamedBalances, version=2):
    """Its next version."""


@settings(max_examples=50)
@given(
    runs=st.lists(st.tuples(events, st.booleans()), min_size=1, max_size=5),
    batch_events=st.integers(1, 5),
    failures=st.sets(st.integers(1, 60)),
)
def test_at_every_moment_one_version_is_read_and_has_everything_up_to_its_checkpoint(
    runs: list[tuple[list[Event], bool]], batch_events: int, failures: set[int]
) -> None:
    async def scenario() -> None:
        log: list[Event] = []
        async with await EventStore.connect("sqlite://") as store:
            await project(store, NamedBalances(), batch_events=batch_events)
            for run, is_new in runs:
                await store.append("s", run)
                log += run
                version = NewBalances if is_new else NamedBalances
                with suppress(ProjectionReplacedError):
                    await project(store, version(sorted(failures)), batch_events=batch_events)
                [(position,)] = await store.fetch("SELECT position FROM avx_projections WHERE stage <> 'beside'")
                assert await rows_of(store) == expected(log[:position])

            await project(store, NewBalances(), batch_events=batch_events)
            assert await rows_of(store) == expected(log)

    asyncio.run(scenario())
