"""Dead letters in a SQLite file: its neighbours, what others left in it, leases, failures, loops and forks."""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from avx_events.bus.claim_leases import LEASE_S
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, LetterFilter
from avx_events.bus.event_bus import EventBus
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    StoreSchemaError,
    StoreUnavailableError,
    UnknownSchemeError,
    WrongLoopError,
)
from avx_events.core.event import Event
from avx_events.core.metadata import stamp
from avx_events.storage.sqlite.dead_letters import SqliteDeadLetters, connect
from avx_events.store.event_store import EventStore
from avx_events.testing import ManualClock
from tests.unit.store.cuts import Cut, at_every_place, open_files
from tests.waiting import until

reading: list[Callable[[], object]] = []


class Torn(Event, event_type="sqlite_letters.torn", aggregate_id="sheet"):
    sheet: str
    number: int = 0

    def __post_init__(self) -> None:
        for look in reading:
            look()


AT = datetime(2026, 3, 1, tzinfo=UTC)
FILES = ["sqlite:///{folder}/letters.db?writer=thread", "sqlite:///{folder}/letters.db?writer=inline"]
DATABASES = [*FILES, "sqlite://?writer=thread", "sqlite://?writer=inline"]


def a_letter(number: int = 1, **changes: Any) -> DeadLetter:
    letter = DeadLetter(
        id=f"letter-{number:04}",
        handler="glue",
        reason="failed",
        error="KeyError: 'glue'",
        error_type="KeyError",
        attempts=5,
        first_failed_at=AT,
        dead_at=AT,
        envelope=stamp(Torn("a", number), clock=SYSTEM_CLOCK),
    )
    return msgspec.structs.replace(letter, **changes)


def url_of(folder: Path, options: str = "") -> str:
    return f"sqlite:///{folder}/letters.db{options}"


def run(folder: Path, script: str) -> None:
    with closing(sqlite3.connect(folder / "letters.db")) as database:
        database.executescript(script)


# Opening


@pytest.mark.parametrize("url", ["", "letters.db", 7, None])
async def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"sqlite:///dead_letters\.db"):
        await DeadLetterQueue.connect(url)


async def test_a_scheme_without_a_store_is_refused_and_those_that_have_one_are_named() -> None:
    with pytest.raises(UnknownSchemeError, match=r"those that are: .*sqlite://"):
        await DeadLetterQueue.connect("oracle://localhost")


async def test_letters_and_events_share_a_file_whoever_comes_first(tmp_path: Path) -> None:
    for name in ("events first", "letters first"):
        folder = tmp_path / name
        folder.mkdir()
        url = url_of(folder).replace(" ", "%20")
        if name == "events first":
            store = await EventStore.connect(url)
            queue = await DeadLetterQueue.connect(url)
        else:
            queue = await DeadLetterQueue.connect(url)
            store = await EventStore.connect(url)
        async with store, queue, asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(store.append("a", Torn("a", number)))
                tasks.create_task(queue.add(a_letter(number)))
        async with await EventStore.connect(url) as store, await DeadLetterQueue.connect(url) as queue:
            assert (await store.version_of("a"), await queue.count()) == (50, 50)


@pytest.mark.parametrize("content", [b"x\n", b"SQLite format 3\0" + b"\xff" * 5_000])
async def test_what_is_no_database_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "letters.db").write_bytes(content)

    with pytest.raises(StoreSchemaError, match="cannot be opened"):
        await DeadLetterQueue.connect(url_of(tmp_path))

    assert (tmp_path / "letters.db").read_bytes() == content
    assert open_files(tmp_path) == []


def version_is(version: int) -> str:
    table = "CREATE TABLE avx_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    return f"{table}; INSERT INTO avx_schema VALUES ('dead letters', {version})"  # noqa: S608 - a value of this file


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("CREATE TABLE avx_dead_letters (id)", "no avx_schema that says what they are"),
        (version_is(9), "dead letters is at version 9, newer than 1"),
        (version_is(1), r"not as version 1 has them.*avx_dead_letters"),
    ],
)
async def test_tables_that_are_not_ours_or_newer_are_refused_and_stay(
    tmp_path: Path, script: str, problem: str
) -> None:
    run(tmp_path, script)
    before = (tmp_path / "letters.db").read_bytes()

    with pytest.raises(StoreSchemaError, match=problem):
        await DeadLetterQueue.connect(url_of(tmp_path))

    assert (tmp_path / "letters.db").read_bytes() == before


def test_a_connect_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        queue = await cut(DeadLetterQueue.connect(url_of(folder)))
        if queue is not None:
            await queue.close()
        await until(lambda: open_files(folder) == [])
        async with await DeadLetterQueue.connect(url_of(folder)) as queue:
            await queue.add(a_letter())

    assert at_every_place(tmp_path, scenario) >= 1


async def test_a_letter_is_on_disk_in_write_ahead_mode_with_full_sync(tmp_path: Path) -> None:
    store = await connect(url_of(tmp_path))
    try:
        for name, wanted in (("journal_mode", "wal"), ("synchronous", 2)):
            pragma = await store._writer.run(lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0])  # noqa: B023
            assert pragma == wanted
    finally:
        await store.close()


# What others left in the file


async def test_a_row_that_cannot_be_read_is_listed_and_hides_no_other(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        for number in range(4):
            await queue.add(a_letter(number))
        run(tmp_path, "UPDATE avx_dead_letters SET letter = x'ff7b' WHERE id = 'letter-0001'")
        run(tmp_path, """UPDATE avx_dead_letters SET letter = '{"id":"text"}' WHERE id = 'letter-0002'""")

        letters = await queue.list(handler="glue", error_type="KeyError", event_type="sqlite_letters.torn")

        assert [letter.id for letter in letters] == [f"letter-{number:04}" for number in range(4)]
        assert [letter.raw for letter in letters] == [None, b"\xff{", b'{"id":"text"}', None]
        assert letters[1].error.startswith("KeyError: its letter cannot be read here")
        assert (letters[1].reason, letters[1].dead_at) == ("undecodable", AT)
        assert await queue.get("letter-0001") == letters[1]
        await queue.remove(letters[1])


async def test_a_letter_whose_event_fits_no_more_is_listed_and_found_by_its_type(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        await queue.add(a_letter(1))
        await queue.add(a_letter(2))
        changed = """CAST(replace(CAST(letter AS TEXT), '"sheet":"a"', '"sheet":7') AS BLOB)"""
        run(tmp_path, f"UPDATE avx_dead_letters SET letter = {changed} WHERE id = 'letter-0001'")  # noqa: S608 - ours

        first, second = await queue.list(event_type="sqlite_letters.torn")

        assert (first.envelope, second.event) == (None, Torn("a", 2))
        assert (first.error, first.reason, first.attempts) == ("KeyError: 'glue'", "failed", 5)
        assert b'"sheet":7' in (first.raw or b"")


# Finding


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (LetterFilter(handler="glue"), "avx_dead_letters_handler"),
        (LetterFilter(event_type="sqlite_letters.torn"), "avx_dead_letters_event_type"),
        (LetterFilter(error_type="KeyError"), "avx_dead_letters_error_type"),
        (LetterFilter(), "sqlite_autoindex_avx_dead_letters_1"),
    ],
)
async def test_a_page_is_read_from_an_index_in_its_order(tmp_path: Path, wanted: LetterFilter, index: str) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        store = queue._store
        assert isinstance(store, SqliteDeadLetters)
        plans: list[str] = []

        def look(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(plans.append)

        await store._read(look)
        await queue.list(handler=wanted.handler, event_type=wanted.event_type, error_type=wanted.error_type, after="a")
        with closing(sqlite3.connect(tmp_path / "letters.db")) as database:
            plan = str(database.execute(f"EXPLAIN QUERY PLAN {plans[-1]}").fetchall())

    assert index in plan
    assert "TEMP B-TREE" not in plan


async def test_large_letters_that_are_read_leave_the_loop_its_turns(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        await results([queue.add(a_letter(number, error="x" * 100_000)) for number in range(30)])
        turns = 0
        read_in: list[int] = []

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(count_turns())
            reading.append(lambda: read_in.append(turns))
            letters = await queue.list()
            reading.clear()
            counting.cancel()

    assert len(letters) == len(read_in) == 30
    assert len(set(read_in)) >= 9


# Leases


async def settled(queue: DeadLetterQueue) -> None:
    """Wait for the changes that were begun."""
    for _ in range(5):
        await asyncio.sleep(0)
    await queue.release("nobody")


async def test_a_claim_lasts_as_long_as_its_process_lives(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as queue,
        await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as other,
    ):
        await queue.add(a_letter(1))
        await queue.add(a_letter(2))
        assert await queue.claim("letter-0001")
        for _ in range(20):
            clock.advance(LEASE_S / 3)
            await settled(queue)
            assert await other.claim("letter-0001") is None
        await queue.resolve("letter-0001")
        clock.advance(LEASE_S)
        await settled(queue)

        assert clock.pauses_s == []  # nothing is held, so nothing is renewed
        assert await queue.claim("letter-0002")
        assert clock.pauses_s == [LEASE_S / 3]


async def test_renewals_that_fail_are_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with (
        await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.05"), clock=clock) as queue,
        await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as other,
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                clock.advance(10)
                await asyncio.sleep(0.2)
        assert "the claims of 1 dead letters that are redriven were not renewed" in caplog.text
        clock.advance(9.9)
        assert await other.claim("letter-0001") is None
        clock.advance(0.2)
        await settled(queue)
        clock.advance(9)

        assert await other.claim("letter-0001") is None


async def test_a_claim_that_another_got_meanwhile_is_said_and_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, ahead = ManualClock(), ManualClock()
    ahead.advance(LEASE_S)
    async with (
        await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as queue,
        await DeadLetterQueue.connect(url_of(tmp_path), clock=ahead) as other,
    ):
        await queue.add(a_letter(1))
        await queue.add(a_letter(2))
        assert await queue.claim("letter-0001")
        assert await queue.claim("letter-0002")
        assert await other.claim("letter-0001")
        await other.remove("letter-0002")
        clock.advance(10)
        await settled(queue)

        clock.advance(10)
        await settled(queue)

        assert caplog.text.count("letter-0001 is redriven here, and was claimed by another") == 1
        assert "letter-0002" not in caplog.text
        assert await queue.claim("letter-0001") is None


async def test_a_letter_that_could_not_be_put_back_stays_claimed_while_it_is_tried_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.05"), clock=clock) as queue,
        await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as other,
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        for _ in range(4):
            with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreUnavailableError):
                    await queue.add(a_letter(redrives=1))
            for _ in range(2):
                clock.advance(LEASE_S / 3)
                await settled(queue)
            assert await other.claim("letter-0001") is None
        # Nobody tries again: the bus was stopped, and its log has the letter.
        for _ in range(6):
            clock.advance(LEASE_S / 3)
            await settled(queue)

        assert await other.claim("letter-0001")


async def test_a_letter_whose_end_could_not_be_written_can_be_redriven_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.05"), clock=clock) as queue:
        await queue.add(a_letter())
        for end in (queue.resolve, queue.release):
            assert await queue.claim("letter-0001")
            with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreUnavailableError):
                    await end("letter-0001")
            clock.advance(LEASE_S)
            await settled(queue)
        assert await queue.claim("letter-0001")


async def test_a_letter_that_was_put_back_is_renewed_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with await DeadLetterQueue.connect(url_of(tmp_path), clock=clock) as queue:
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        await queue.add(a_letter(redrives=1))
        clock.advance(LEASE_S / 3)
        await settled(queue)

        assert (clock.pauses_s, caplog.text) == ([], "")


# Failures


async def test_a_locked_file_is_not_available_and_the_others_of_the_group_know_it_at_once(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.3")) as queue:
        with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            began = asyncio.get_running_loop().time()
            outcomes = await results([queue.add(a_letter(number)) for number in range(50)])
            took_s = asyncio.get_running_loop().time() - began
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
        assert took_s < 5

        await queue.add(a_letter())
        assert await queue.count() == 1


async def results(calls: list[Any]) -> list[object]:
    async def outcome(call: Awaitable[object]) -> object:
        try:
            return await call
        except AvxEventsError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(outcome(call)) for call in calls]
    return [task.result() for task in running]


async def test_a_letter_that_is_too_large_for_the_database_takes_no_other_with_it(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        store = queue._store
        assert isinstance(store, SqliteDeadLetters)
        await store._writer.run(lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000))
        letters = [a_letter(number, error="x" * (200_000 if number == 3 else 10)) for number in range(6)]

        outcomes = await results([queue.add(letter) for letter in letters])

        assert [type(outcome) for outcome in outcomes] == [
            StoreUnavailableError if number == 3 else type(None) for number in range(6)
        ]
        assert len(await queue.list()) == 5


async def test_letters_that_come_together_share_a_commit(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path, "?writer=thread")) as queue:
        store = queue._store
        assert isinstance(store, SqliteDeadLetters)
        commits: list[str] = []
        await store._writer.run(
            lambda connection: connection.set_trace_callback(
                lambda sql: commits.append(sql) if sql == "COMMIT" else None
            )
        )

        await results([queue.add(a_letter(number)) for number in range(200)])

        assert await queue.count() == 200
        assert len(commits) < 100


async def test_a_file_that_was_taken_away_is_not_available(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue:
        await queue.add(a_letter())
        for path in tmp_path.glob("letters.db*"):  # noqa: ASYNC240 - nothing else runs
            path.unlink()

        for call in (queue.add(a_letter(2)), queue.remove("letter-0001"), queue.purge(), queue.list()):
            with pytest.raises(StoreUnavailableError, match="removed"):
                await call


async def test_a_bus_loses_nothing_while_its_letters_cannot_be_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    async with await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.05")) as queue:
        bus = EventBus(dead_letter_queue=queue, clock=clock)

        @bus.on(Torn, retry=None)
        async def glue(event: Torn) -> None:
            raise RuntimeError

        async with bus:
            with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                await bus.publish_many([Torn("a", 1), Torn("b", 2)])
                await clock.planned(2)
                assert await queue.count() == 0
            clock.advance(1)
            await bus.settled()

            assert sorted(letter.event.number for letter in await queue.list()) == [1, 2]


async def test_a_bus_that_stops_while_its_letters_cannot_be_kept_logs_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path, "?busy_timeout_s=0.05")) as queue:
        bus = EventBus(dead_letter_queue=queue, drain_timeout_s=0.05)

        @bus.on(Torn, retry=None)
        async def glue(event: Torn) -> None:
            raise RuntimeError

        with (
            caplog.at_level(logging.ERROR, "avx_events"),
            closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder,
        ):
            holder.execute("BEGIN IMMEDIATE")
            async with bus:
                await bus.publish(Torn("torn-sheet", 1))
        assert "torn-sheet" in caplog.text
        assert await queue.list() == []


# Cancellation


CALLS: dict[str, Callable[[DeadLetterQueue], Awaitable[Any]]] = {
    "add": lambda queue: queue.add(a_letter(200)),
    "replace": lambda queue: queue.add(a_letter(1, redrives=1)),
    "list": lambda queue: queue.list(),
    "get": lambda queue: queue.get("letter-0001"),
    "remove": lambda queue: queue.remove("letter-0002"),
    "purge": lambda queue: queue.purge(since=datetime(2027, 1, 1, tzinfo=UTC)),
    "count": lambda queue: queue.count(),
}


@pytest.mark.parametrize("url", DATABASES)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cancelled_can_be_repeated(tmp_path: Path, url: str, call: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await DeadLetterQueue.connect(url.format(folder=folder)) as queue:
            await results([queue.add(a_letter(number)) for number in range(150)])
            assert await queue.claim("letter-0001")
            await cut(CALLS[call](queue))

            await results([CALLS[call](queue)])
            assert await queue.count() == {"add": 151, "remove": 149}.get(call, 150)
            assert bool(await queue.claim("letter-0001")) == (call == "replace")
            assert len(await queue.list()) == await queue.purge()

    at_every_place(tmp_path, scenario)


@pytest.mark.parametrize("url", DATABASES)
def test_a_claim_that_is_cancelled_leaves_the_letter_free(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        async with await DeadLetterQueue.connect(url.format(folder=folder)) as queue:
            await queue.add(a_letter())
            if await cut(queue.claim("letter-0001")) is None:
                assert await queue.claim("letter-0001")
            await queue.release("letter-0001")
            assert await queue.claim("letter-0001")

    assert at_every_place(tmp_path, scenario) >= 2


@pytest.mark.parametrize("url", DATABASES)
def test_a_close_goes_on_or_can_be_repeated_and_loses_nothing(tmp_path: Path, url: str) -> None:
    async def scenario(folder: Path, cut: Cut) -> None:
        queue = await DeadLetterQueue.connect(url.format(folder=folder))
        await queue.count()
        async with asyncio.TaskGroup() as tasks:
            adding = [tasks.create_task(queue.add(a_letter(number))) for number in range(20)]
            await asyncio.sleep(0)
            await cut(queue.close())
            await queue.close()
        assert all(task.done() for task in adding)
        if "{folder}" in url:
            async with await DeadLetterQueue.connect(url.format(folder=folder)) as again:
                assert await again.count() == 20

    at_every_place(tmp_path, scenario)


async def test_a_change_that_is_cancelled_before_its_commit_has_begun_is_not_made(tmp_path: Path) -> None:
    async with await DeadLetterQueue.connect(url_of(tmp_path)) as queue, asyncio.TaskGroup() as tasks:
        store = queue._store
        assert isinstance(store, SqliteDeadLetters)
        with closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            begun = tasks.create_task(queue.add(a_letter(1)))
            await asyncio.sleep(0)
            await until(lambda: not store._commits._waiting)
            waiting = tasks.create_task(queue.add(a_letter(2)))
            await asyncio.sleep(0)
            waiting.cancel()
            await until(waiting.done)
        await begun
        await settled(queue)

        assert [letter.id for letter in await queue.list()] == ["letter-0001"]


# Loops and processes


USES: list[Callable[[DeadLetterQueue], Awaitable[Any]]] = [
    lambda queue: queue.list(),
    lambda queue: queue.count(),
    lambda queue: queue.get("letter-0001"),
    lambda queue: queue.add(a_letter()),
    lambda queue: queue.remove("letter-0001"),
    lambda queue: queue.purge(),
    lambda queue: queue.claim("letter-0001"),
    lambda queue: queue.release("letter-0001"),
]


async def errors_of(queue: DeadLetterQueue) -> list[type]:
    return [type(outcome) for outcome in await results([use(queue) for use in USES])]


@pytest.mark.parametrize("url", DATABASES)
async def test_another_loop_is_refused_and_closes_nothing(tmp_path: Path, url: str) -> None:
    async def use(queue: DeadLetterQueue) -> None:
        assert await errors_of(queue) == [WrongLoopError] * len(USES)
        with pytest.raises(WrongLoopError):
            await queue.close()

    async with await DeadLetterQueue.connect(url.format(folder=tmp_path)) as queue:
        await queue.add(a_letter())
        await asyncio.to_thread(lambda: asyncio.run(use(queue)))

        assert await queue.count() == 1


@pytest.mark.parametrize("url", DATABASES)
def test_the_next_loop_is_refused_and_may_close_it(tmp_path: Path, url: str) -> None:
    before = set(threading.enumerate())

    async def open_only() -> DeadLetterQueue:
        queue = await DeadLetterQueue.connect(url.format(folder=tmp_path))
        await queue.add(a_letter())
        await queue.claim("letter-0001")
        await queue.list()
        return queue

    async def use(queue: DeadLetterQueue) -> None:
        assert await errors_of(queue) == [WrongLoopError] * len(USES)
        await queue.close()
        assert await errors_of(queue) == [ClosedError] * len(USES)

    queue = asyncio.run(open_only())
    asyncio.run(use(queue))

    assert set(threading.enumerate()) == before
    assert open_files(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that is what is tested, from Python 3.12 on
@pytest.mark.parametrize("url", FILES)
async def test_a_forked_child_is_refused(tmp_path: Path, url: str) -> None:
    async with await DeadLetterQueue.connect(url.format(folder=tmp_path)) as queue:
        await queue.add(a_letter())
        await queue.list()

        child = os.fork()
        if child == 0:
            os._exit(asyncio.run(refused_calls(queue)))

        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == len(USES) + 1
        assert await queue.count() == 1


async def refused_calls(queue: DeadLetterQueue) -> int:
    async with asyncio.timeout(5):
        outcomes = [await errors_of(queue), await results([queue.close()])]
    return str(outcomes).count("WrongLoopError")
