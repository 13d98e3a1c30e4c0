"""Groups of appends in PostgreSQL: each member has its own outcome, wherever the writer or a caller is cut off."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    AppendUnknownError,
    ConcurrencyError,
    DuplicateEventIdError,
    InvalidArgumentError,
    StoreUnavailableError,
)
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, stamp
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.storage.postgres.location import parse
from avx_events.storage.postgres.log_writer import LONGEST_NAME_BYTES, LogWriter, Member
from avx_events.storage.postgres.schema import prepare
from avx_events.storage.postgres.sessions import Sessions
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from tests.live.postgres_asking import asked, connected, until_answer
from tests.unit.store.cuts import Cut, at_every_place

pytestmark = pytest.mark.live


class Log:
    """A writer of its own for a database, and what it was given."""

    def __init__(self, writer: LogWriter, url: str) -> None:
        self.writer = writer
        self.url = url.partition("?")[0]
        self.members: list[Member] = []
        self.announced: list[int] = []

    def submit(self, stream: str, *event_ids: str, expected: int | None = None, size_bytes: int = 2) -> None:
        """Append records of these ids with one of the next groups."""
        records = [(event_id, "log.noted", b"[]", b"x" * size_bytes) for event_id in event_ids]
        member = Member(asyncio.get_running_loop().create_future(), stream, records, expected)
        self.writer.submit(member)
        self.members.append(member)

    async def written(self) -> list[Any]:
        """Write what was submitted; return what came of each."""
        self.writer.finish()
        await self.writer.run()
        return self.outcomes()

    def outcomes(self) -> list[Any]:
        """Return what came of each so far."""
        return [member.future.exception() or member.future.result() for member in self.members]

    async def rows(self) -> list[tuple[Any, ...]]:
        """Return stream, version and id of all records, by position, which has no gap."""
        rows = await asked(self.url, "SELECT position, stream, version, event_id FROM avx_events ORDER BY position")
        assert [row[0] for row in rows] == [*range(1, len(rows) + 1)]
        return [row[1:] for row in rows]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log, None]:
    """Give a writer for ``url``, whose tables are made."""
    location = parse(url)
    sessions = Sessions(location)
    connection = await sessions.open_first()
    await prepare(connection, location.name)
    announced: list[int] = []
    log = Log(LogWriter(sessions, connection, location=location, clock=SYSTEM_CLOCK, announce=announced.append), url)
    log.announced = announced
    try:
        yield log
    finally:
        await log.writer.close()
        await sessions.close()


async def test_a_group_is_one_commit_with_a_place_for_each_member(postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        log.submit("a", "1", "2")
        log.submit("b", "3", expected=0)
        log.submit("a", "4", expected=2)

        assert await log.written() == [AppendResult(2, 2), AppendResult(1, 3), AppendResult(3, 4)]
        assert await log.rows() == [("a", 1, "1"), ("a", 2, "2"), ("b", 1, "3"), ("a", 3, "4")]
        assert (log.writer.groups, log.announced) == (1, [4])


async def test_members_that_cannot_be_appended_leave_the_others_theirs(postgres_database: str) -> None:
    async with opened(postgres_database) as before:
        before.submit("a", "1", "2")
        await before.written()

    async with opened(postgres_database) as log:
        log.submit("b", "3")
        log.submit("a", "1", "2", expected=0)  # a repeat of what was there
        log.submit("a", "2", "4")  # of a part
        log.submit("b", "1")  # of another stream
        log.submit("b", "5", expected=7)
        log.submit("b", "3")  # a repeat within the group
        log.submit("b", "6", expected=1)
        log.submit("b", "3", "6", expected=0)  # of two of the group
        log.submit("c", "6")

        outcomes = await log.written()

        assert [outcome if isinstance(outcome, AppendResult) else type(outcome) for outcome in outcomes] == [
            AppendResult(1, 3),
            AppendResult(2, 2),
            ConcurrencyError,
            DuplicateEventIdError,
            ConcurrencyError,
            AppendResult(1, 3),
            AppendResult(2, 4),
            AppendResult(2, 4),
            DuplicateEventIdError,
        ]
        assert [event_id for *_, event_id in await log.rows()] == ["1", "2", "3", "6"]
        assert log.announced == [4]


async def test_a_repeat_without_an_expected_version_is_found_in_a_group_of_its_own(postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        for _ in range(3):
            log.submit("a", "1")
        log.submit("a", "1", "2")
        outcomes = await log.written()

        assert outcomes[:3] == [AppendResult(1, 1)] * 3
        assert isinstance(outcomes[3], ConcurrencyError)
        assert await log.rows() == [("a", 1, "1")]


async def test_what_another_writer_wrote_is_seen_by_the_next_group(postgres_database: str) -> None:
    async with opened(postgres_database) as mine, opened(postgres_database) as other, asyncio.TaskGroup() as tasks:
        for log in (mine, other):
            tasks.create_task(log.writer.run())
        for number in range(10):
            log = (mine, other)[number % 2]
            log.submit("a", f"{number}")
            assert await log.members[-1].future == AppendResult(number + 1, number + 1)
        mine.submit("a", "x", expected=9)
        with pytest.raises(ConcurrencyError) as error:
            await mine.members[-1].future
        mine.writer.finish()
        other.writer.finish()

        assert error.value.actual == 10


@pytest.mark.parametrize("count", [1, 2, 500, 501, 5_000])
async def test_an_append_of_any_number_of_records_is_whole(postgres_database: str, count: int) -> None:
    async with opened(postgres_database) as log:
        log.submit("a", *(f"{number}" for number in range(count)))
        log.submit("b", "one")

        assert await log.written() == [AppendResult(count, count), AppendResult(1, count + 1)]
        assert [event_id for *_, event_id in await log.rows()] == [*(f"{number}" for number in range(count)), "one"]


async def test_large_records_go_through_and_make_smaller_groups(postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        for number in range(5):
            log.submit(f"s-{number % 2}", f"{number}", size_bytes=10_000_000)
        log.submit("a", "small")

        outcomes = await log.written()

        assert [outcome.position for outcome in outcomes] == [1, 2, 3, 4, 5, 6]
        assert log.writer.groups >= 5
        assert await asked(postgres_database, "SELECT sum(length(data)) FROM avx_events") == [(50_000_002,)]


async def test_names_that_no_index_can_hold_are_refused_alone(postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        longest = "ä" * (LONGEST_NAME_BYTES // 2)
        log.submit(longest, "1")
        with pytest.raises(InvalidArgumentError, match="at most 2,000 bytes"):
            log.submit(longest + "x", "2")
        with pytest.raises(InvalidArgumentError, match="event_id must be text of at most 2,000 bytes"):
            log.submit("a", "x" * (LONGEST_NAME_BYTES + 1))

        assert await log.written() == [AppendResult(1, 1)]


@pytest.mark.parametrize("mix", ["new", "conflicts"])
def test_wherever_the_writer_is_cut_off_each_caller_is_told_what_is_so(
    postgres_database: str, tmp_path: Path, mix: str
) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with opened(f"{postgres_database}?timeout_s=5") as log:
            run = folder.name
            log.submit(f"a {run}", f"1 {run}", f"2 {run}")
            log.submit(f"b {run}", f"3 {run}", expected=0)
            if mix == "conflicts":
                log.submit(f"b {run}", f"4 {run}", expected=7)
                log.submit(f"a {run}", f"1 {run}", f"2 {run}", expected=0)
            log.submit(f"c {run}", *(f"{number} {run}" for number in range(10, 510)))  # fills the group
            log.submit(f"d {run}", f"5 {run}")  # of the next one
            log.writer.finish()
            await cut(log.writer.run())
            await log.writer.close()

            rows = [row for row in await log.rows() if row[0].endswith(run)]
            ids = {event_id for *_, event_id in rows}
            for member, outcome in zip(log.members, log.outcomes(), strict=True):
                judge(member, outcome, ids)

    assert at_every_place(tmp_path, scenario) >= 4


def judge(member: Member, outcome: object, ids: set[str]) -> None:
    """Compare what the caller of ``member`` was told with the ``ids`` that are there."""
    wanted = {record[0] for record in member.records}
    there = wanted & ids
    assert there in (set(), wanted)
    match outcome:
        case AppendResult():
            assert there == wanted
        case StoreUnavailableError() | ConcurrencyError():
            assert not there
        case _:
            assert isinstance(outcome, AppendUnknownError)


# What callers of the store may cut off


class Added(Event, event_type="log_writer.added"):
    amount: int


class Total(AggregateRoot):
    amount: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Added):
            self.amount += event.amount


def batch(*amounts: int) -> list[EventEnvelope[Any]]:
    return [stamp(Added(amount), clock=SYSTEM_CLOCK) for amount in amounts]


Call: TypeAlias = Callable[[EventStore, str, Sequence[EventEnvelope[Any]]], Awaitable[Any]]


async def append(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    await store.append(stream, envelopes, expected_version=1)


async def read(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    del envelopes
    assert len(await store.get_events(stream)) == 1
    assert [stored async for stored in store.read_all()]


async def load(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    del envelopes
    assert (await store.load(Total, stream)).version == 1


async def fetch(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    del stream, envelopes
    assert await store.fetch("SELECT 1") == [(1,)]
    assert await store.fetch("SHOW transaction_read_only") == [("on",)]


async def follow(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    del envelopes
    assert (await anext(store.subscribe(stream_prefix=stream))).version == 1


async def transact(store: EventStore, stream: str, envelopes: Sequence[EventEnvelope[Any]]) -> None:
    del stream, envelopes
    async with store.transaction() as connection:
        assert await connection.fetch("SELECT 1") == [(1,)]


@pytest.mark.parametrize("call", [append, read, load, fetch, follow, transact])
def test_wherever_a_call_is_cancelled_the_store_goes_on_and_leaves_nothing_behind(
    postgres_database: str, tmp_path: Path, call: Call
) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        del folder
        stream, envelopes = f"a-{uuid4()}", batch(1, 2)
        async with await EventStore.connect(f"{postgres_database}?pool_size=1", snapshot_every=1) as store:
            await store.append(stream, Added(0), expected_version=0)

            await cut(call(store, stream, envelopes))

            assert (await store.append(stream, envelopes)).version == 3
            assert (await store.load(Total, stream)).amount == 3
            assert await store.fetch("SELECT 7") == [(7,)]
            async with store.transaction() as connection:
                assert await connection.fetch("SELECT 8") == [(8,)]

    assert at_every_place(tmp_path, scenario) > 0


def test_a_store_whose_opening_or_closing_is_cancelled_leaves_nothing_behind(
    postgres_database: str, tmp_path: Path
) -> None:
    async def live(stream: str) -> None:
        async with await EventStore.connect(postgres_database, snapshot_every=1) as store:
            await store.append(stream, Added(1))
            await store.load(Total, stream)
            await store.fetch("SELECT 1")

    async def scenario(folder: Path, cut: Cut) -> None:
        await cut(live(folder.name))

        async with await EventStore.connect(postgres_database) as store:
            assert await store.version_of(folder.name) in {0, 1}
            await no_session_but(1, postgres_database)

    assert at_every_place(tmp_path, scenario) > 10


async def test_no_session_is_left_on_the_server(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database, snapshot_every=1) as store:
        await store.append("a", Added(1))
        await store.load(Total, "a")
        await store.fetch("SELECT 1")
        async with store.transaction():
            pass

    await no_session_but(0, postgres_database)


async def no_session_but(count: int, url: str) -> None:
    """Wait until no store but so many has a session on the server; one that has read once has three."""
    async with connected(url) as observer:
        await until_answer(observer, f"SELECT count(*) <= {3 * count} {OF_STORES}")


OF_STORES = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'avx-events'"
