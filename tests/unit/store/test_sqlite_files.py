"""Files that are no store, are damaged, locked or full: each a clear error, and what was there stays there."""

import asyncio
import logging
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import (
    AvxEventsError,
    EncodeError,
    InvalidArgumentError,
    StoreSchemaError,
    StoreUnavailableError,
    UnknownSchemeError,
)
from avx_events.core.event import Event, UnknownEvent
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult

PAGE_BYTES = 4_096


class Noted(Event, event_type="files.noted"):
    number: int
    text: str = ""


class Notes(AggregateRoot):
    count: int = 0

    def apply(self, event: Event) -> None:
        self.count += 1


def url_of(path: Path, *, writer: str = "thread", busy_timeout_s: float = 5) -> str:
    return f"sqlite:///{path}?writer={writer}&busy_timeout_s={busy_timeout_s}"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def numbers(store: EventStore) -> list[int]:
    return [stored.event.number async for stored in store.read_all()]


async def outcomes(*calls: Coroutine[Any, Any, AppendResult]) -> list[type]:
    """Run appends at once, so that they are one group; return what each gave or raised."""

    async def outcome(call: Coroutine[Any, Any, AppendResult]) -> type:
        try:
            return type(await call)
        except AvxEventsError as error:
            return type(error)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(outcome(call)) for call in calls]
    return [task.result() for task in running]


# What is no store


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
        b"id,name\n1,Ada\n",
        b"x\n",
        b"SQLite format 3\0",
        b"SQLite format 3\0" + b"\xff" * 5_000,
        b"SQLite format 3\0" + struct.pack(">HBBBBBB", PAGE_BYTES, 1, 1, 0, 64, 32, 32) + bytes(8_168),
    ],
    ids=["image", "table", "bytes", "magic", "noise", "header"],
)
async def test_what_is_no_database_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(content)

    with pytest.raises(StoreSchemaError, match=rf"sqlite:///{path}\?.* cannot be opened"):
        await EventStore.connect(url_of(path))

    assert contents(tmp_path) == {"events.db": content}


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "events.db").touch()

    async with await EventStore.connect(url_of(tmp_path / "events.db")) as store:
        assert await store.append("a", Noted(1)) == AppendResult(1, 1)


def schema(version: object) -> str:
    table = "CREATE TABLE avx_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    return f"{table}; INSERT INTO avx_schema VALUES ('events', {version!r})"  # noqa: S608 - a value of this file


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("CREATE TABLE avx_events (id)", "no avx_schema that says what they are"),
        ("CREATE TABLE avx_snapshots (id)", "no avx_schema that says what they are"),
        ("CREATE TABLE avx_schema (id)", "avx_schema is not ours"),
        (schema(99), "at version 99, newer than 1.*upgrade avx-events"),
        (schema(-1), "version is -1"),
        (schema("one"), "version is 'one'"),
        (schema(1), "not as version 1 has them.*avx_events"),
        (f"{schema(1)}; CREATE TABLE avx_events (id)", "not as version 1 has them.*no such column"),
    ],
)
async def test_tables_of_our_names_that_are_not_ours_are_refused_and_stay(
    tmp_path: Path, script: str, problem: str
) -> None:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
        database.executescript("CREATE TABLE mine (name TEXT); INSERT INTO mine VALUES ('Ada')")
        before = list(database.iterdump())

    with pytest.raises(StoreSchemaError, match=problem):
        await EventStore.connect(url_of(path))

    with closing(sqlite3.connect(path)) as database:
        assert list(database.iterdump()) == before


async def test_a_store_lives_beside_the_tables_of_an_application(tmp_path: Path) -> None:
    path = tmp_path / "application.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE events (id); CREATE TABLE mine (name TEXT); INSERT INTO mine VALUES ('Ada')"
        )

    for number in range(2):
        async with await EventStore.connect(url_of(path)) as store:
            await store.append("a", Noted(number))
            async with store.transaction() as connection:
                assert await connection.fetch("SELECT name FROM mine") == [("Ada",)]
            assert await numbers(store) == [*range(number + 1)]


# Places and options


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///{folder}", "not of a folder"),
        ("sqlite:///{folder}/missing/events.db", "/missing is not"),
        ("sqlite:///{folder}/a%00b.db", "url must be"),
        ("sqlite:///{folder}/\ud800.db", "url must be"),
        ("sqlite:///{folder}/" + "x" * 300, "url must be"),
        ("sqlite://host/events.db", "url must be"),
        ("sqlite:events.db", "url must be"),
        ("events.db", "url must be"),
        ("", "url must be"),
        (None, "url must be"),
        (7, "url must be"),
        ("sqlite:///{folder}/e.db?writer=fast", "writer must be one of auto, thread, inline, not 'fast'"),
        ("sqlite:///{folder}/e.db?writer=", "writer must be one of"),
        ("sqlite:///{folder}/e.db?timeout=5", "no other options than"),
        ("sqlite:///{folder}/e.db?busy_timeout_s=0", "busy_timeout_s must be a number of seconds.*'0'"),
        ("sqlite:///{folder}/e.db?busy_timeout_s=nan", "busy_timeout_s must be"),
        ("sqlite:///{folder}/e.db?busy_timeout_s=inf", "busy_timeout_s must be"),
        ("sqlite:///{folder}/e.db?poll_s=-1", "poll_s must be"),
        ("sqlite:///{folder}/e.db?poll_s=soon", "poll_s must be.*'soon'"),
    ],
)
async def test_a_url_that_names_no_file_or_a_wrong_option_says_what_is_wrong(
    tmp_path: Path, url: Any, problem: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        await EventStore.connect(url.format(folder=tmp_path) if isinstance(url, str) else url)

    assert contents(tmp_path) == {}


@pytest.mark.parametrize("url", ["oracle://server/events", "mysql://server/events"])
async def test_a_scheme_that_nobody_serves_is_named_with_those_that_are(url: str) -> None:
    with pytest.raises(UnknownSchemeError) as raised:
        await EventStore.connect(url)

    served = ("postgres://", "postgresql://", "sqlite://")
    assert str(raised.value) == f"no engine for {url!r} is installed; those that are: {', '.join(served)}"


async def test_any_name_that_a_file_can_have_can_be_written_in_a_url(tmp_path: Path) -> None:
    path = tmp_path / "events?mode=memory#1 %41.db"
    written = str(path).replace("%", "%25").replace("?", "%3f")

    for number in range(2):
        async with await EventStore.connect(f"sqlite:///{written}") as store:
            await store.append("a", Noted(number))
            assert await numbers(store) == [*range(number + 1)]

    assert list(contents(tmp_path)) == [path.name]


# Locked


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_while_another_holds_the_lock_a_write_is_refused_in_time_and_can_be_repeated(
    tmp_path: Path, writer: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(url_of(path, writer=writer, busy_timeout_s=0.05), snapshot_every=1) as store:
        await store.append("a", Noted(1))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began_s = time.monotonic()
            refused = await outcomes(*(store.append(name, [Noted(2), Noted(3)]) for name in "aab"))
            refused += await outcomes(store.append("a", Noted(4)))
            with pytest.raises(StoreUnavailableError, match="database is locked; nothing was written"):
                async with store.transaction():
                    pass
            with caplog.at_level(logging.WARNING, "avx_events"):
                notes = await store.load(Notes, "a")
            assert time.monotonic() - began_s < 5
            assert refused == [StoreUnavailableError] * 4
            assert (await numbers(store), notes.count, store.statistics()["snapshots_taken"]) == ([1], 1, 0)
            assert "no snapshot of 'a' kept" in caplog.text
            other.execute("ROLLBACK")

        assert await outcomes(*(store.append(name, Noted(5)) for name in "ab")) == [AppendResult] * 2
        assert await store.append("a", Noted(6), expected_version=2) == AppendResult(3, 4)


async def test_a_file_that_another_has_for_itself_cannot_be_opened_until_it_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE mine (name TEXT)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match=rf"{path}.*database is locked"):
            await EventStore.connect(url_of(path, busy_timeout_s=0.05))
        other.execute("COMMIT")

    async with await EventStore.connect(url_of(path, busy_timeout_s=0.05)) as store:
        assert await store.append("a", Noted(1)) == AppendResult(1, 1)


# Full


async def limit_pages(store: EventStore, pages: int) -> None:
    async with store.transaction() as connection:
        await connection.fetch_one(f"PRAGMA max_page_count = {pages}")


async def fill(store: EventStore) -> None:
    async with store.transaction() as connection:
        await connection.execute("CREATE TABLE large (text TEXT)")
        await connection.execute("INSERT INTO large VALUES (?)", "x" * 500_000)


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_on_a_full_disk_an_append_is_refused_whole_and_what_was_there_stays(tmp_path: Path, writer: str) -> None:
    async with await EventStore.connect(url_of(tmp_path / "events.db", writer=writer)) as store:
        await limit_pages(store, 30)
        kept = 0
        while await outcomes(store.append("a", [Noted(kept + n, "x" * 3_000) for n in range(3)])) == [AppendResult]:
            kept += 3
        with pytest.raises(StoreUnavailableError, match="database or disk is full; nothing was written"):
            await store.append("a", Noted(kept, "x" * 100_000))
        assert await numbers(store) == [*range(kept)]

        await limit_pages(store, 10_000)
        assert (await store.append("a", Noted(kept, "x" * 100_000), expected_version=kept)).version == kept + 1
        assert await numbers(store) == [*range(kept + 1)]


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_an_append_that_is_too_large_for_the_disk_does_not_take_its_group_with_it(
    tmp_path: Path, writer: str
) -> None:
    async with await EventStore.connect(url_of(tmp_path / "events.db", writer=writer)) as store:
        await limit_pages(store, 30)

        large = outcomes(*(store.append(f"s-{n}", Noted(n, "x" * (500_000 if n == 2 else 1))) for n in range(5)))

        assert await large == [AppendResult, AppendResult, StoreUnavailableError, AppendResult, AppendResult]
        assert await numbers(store) == [0, 1, 3, 4]
        with pytest.raises(StoreUnavailableError, match="full"):
            await fill(store)
        assert await outcomes(store.append("s-0", Noted(5))) == [AppendResult]


# Damaged


async def made(path: Path, appends: int) -> None:
    async with await EventStore.connect(url_of(path)) as store:
        for number in range(appends):
            await store.append("a", [Noted(number, "x" * 500)] * 5)


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return data[: 5 * PAGE_BYTES] + bytes(len(data) - 6 * PAGE_BYTES) + data[-PAGE_BYTES:]


def overwritten(data: bytes) -> bytes:
    return data[:PAGE_BYTES] + b"\xff" * (len(data) - PAGE_BYTES)


@pytest.mark.parametrize("damage", [halved, emptied, overwritten])
async def test_a_damaged_file_is_an_error_that_says_so_wherever_it_is_met(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "events.db"
    await made(path, 50)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(StoreSchemaError, match=r"malformed|not a database"):
        async with await EventStore.connect(url_of(path)) as store:
            await store.get_events("a")
    with pytest.raises(StoreSchemaError, match=r"malformed|not a database"):
        async with await EventStore.connect(url_of(path)) as store:
            await store.append("a", Noted(0), expected_version=250)


async def test_a_log_that_was_cut_off_has_whole_appends_up_to_the_cut(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    async with await EventStore.connect(url_of(whole / "events.db")) as store:
        for number in range(6):
            await store.append("a", [Noted(number, "x" * 2_000)] * 4)
        shutil.copytree(whole, tmp_path / "copy")  # with what is in the write-ahead log only, as after a crash
    log = tmp_path / "copy" / "events.db-wal"
    size, counts = log.stat().st_size, set[int]()

    for length in range(0, size, size // 40):
        shutil.copytree(tmp_path / "copy", cut)
        with (cut / "events.db-wal").open("r+b") as file:
            file.truncate(length)
        async with await EventStore.connect(url_of(cut / "events.db")) as store:
            seen = await numbers(store)
            counts.add(len(seen))

            assert seen == [number for number in range(6) for _ in range(4)][: len(seen)]
            assert len(seen) % 4 == 0
            assert (await store.append("a", Noted(9), expected_version=len(seen))).version == len(seen) + 1
        shutil.rmtree(cut)

    assert counts >= {0, 4, 8, 12, 16, 20}


async def test_an_event_type_that_is_no_text_is_refused_and_harms_nobody_beside_it(tmp_path: Path) -> None:
    bad = "bad\ud800"
    envelope = EventEnvelope(UnknownEvent(bad, {}), EventMetadata("id", bad, "", 0, "id"), bad)

    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db") as store:
        async with asyncio.TaskGroup() as tasks:
            good = tasks.create_task(store.append("good", Noted(1)))
            with pytest.raises(EncodeError, match="the event type must be text"):
                await store.append("bad", envelope)

        assert good.result().version == 1
