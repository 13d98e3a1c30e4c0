"""Groups of appends are written in one commit, each member with its own outcome, beside other processes' appends."""

import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    ConcurrencyError,
    DuplicateEventIdError,
    StoreSchemaError,
    StoreUnavailableError,
)
from avx_events.storage.sqlite.log_writer import LogWriter, Member
from avx_events.storage.sqlite.schema import prepare
from avx_events.store.ports import AppendResult, NewRecordTuple
from avx_events.testing import ManualClock

URL = "sqlite:///events.db"


class Log:
    """A log in a file, and who writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[sqlite3.Connection] = []
        self.is_in_place = True

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        connection.execute("PRAGMA journal_mode = WAL")
        prepare(connection, URL)
        self.connections.append(connection)
        return connection

    def writer(self, connection: sqlite3.Connection | None = None) -> LogWriter:
        return LogWriter(connection or self.connect(), URL, clock=SYSTEM_CLOCK, is_in_place=lambda: self.is_in_place)

    def rows(self) -> list[tuple[int, str, int, str]]:
        return (
            self.connections[0]
            .execute("SELECT position, stream, version, event_id FROM avx_events ORDER BY position")
            .fetchall()
        )


@pytest.fixture
def log(tmp_path: Path) -> Generator[Log, None, None]:
    opened = Log(tmp_path / "events.db")
    yield opened
    for connection in opened.connections:
        connection.close()


def record(event_id: str, size_bytes: int = 2) -> NewRecordTuple:
    return event_id, "log.noted", b"[]", b"x" * size_bytes


def member(stream: str, *event_ids: str, expected: int | None = None, size_bytes: int = 2) -> Member:
    return stream, [record(event_id, size_bytes) for event_id in event_ids], expected


def test_a_group_is_one_commit_with_a_place_for_each_member(log: Log) -> None:
    writer = log.writer()

    outcomes = writer.write([member("a", "1", "2"), member("b", "3", expected=0), member("a", "4", expected=2)])

    assert outcomes == [AppendResult(2, 2), AppendResult(1, 3), AppendResult(3, 4)]
    assert log.rows() == [(1, "a", 1, "1"), (2, "a", 2, "2"), (3, "b", 1, "3"), (4, "a", 3, "4")]
    assert writer.groups == 1


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 63, 255, 256, 257, 600])
def test_a_group_of_any_size_is_written_whole(log: Log, count: int) -> None:
    outcomes = log.writer().write([member(f"s-{number % 7}", f"{number}") for number in range(count)])

    assert [outcome.position for outcome in outcomes if isinstance(outcome, AppendResult)] == [*range(1, count + 1)]
    assert [event_id for *_, event_id in log.rows()] == [f"{number}" for number in range(count)]


def test_where_a_database_takes_few_parameters_the_statements_are_smaller(log: Log) -> None:
    connection = log.connect()
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 300)

    log.writer(connection).write([member("a", *map(str, range(100)))])

    assert len(log.rows()) == 100


def test_members_that_cannot_be_appended_leave_the_others_theirs(log: Log) -> None:
    writer = log.writer()
    writer.write([member("a", "1", "2")])

    outcomes = writer.write(
        [
            member("b", "3"),
            member("a", "1", "2", expected=0),
            member("a", "2", "4"),
            member("b", "1"),
            member("b", "5", expected=7),
            member("b", "3"),
            member("b", "6", expected=1),
        ]
    )

    assert [type(outcome) for outcome in outcomes] == [
        AppendResult,
        AppendResult,
        ConcurrencyError,
        DuplicateEventIdError,
        ConcurrencyError,
        AppendResult,
        AppendResult,
    ]
    assert outcomes[1] == AppendResult(2, 2)
    assert outcomes[0] == outcomes[5]
    assert [event_id for *_, event_id in log.rows()] == ["1", "2", "3", "6"]


def test_what_another_process_wrote_is_seen_by_the_next_group_and_the_next_single_append(log: Log) -> None:
    mine, other = log.writer(), log.writer()

    for number in range(0, 12, 2):
        assert mine.write([member("a", f"{number}")]) == [AppendResult(number + 1, number + 1)]
        assert other.write([member("a", f"{number + 1}")]) == [AppendResult(number + 2, number + 2)]
    [outcome] = mine.write([member("a", "x", expected=11)])
    assert isinstance(outcome, ConcurrencyError)
    assert outcome.actual == 12


def test_instants_rise_though_the_clock_goes_back(log: Log) -> None:
    clock = ManualClock()
    writer = LogWriter(log.connect(), URL, clock=clock, is_in_place=lambda: True)
    for number in range(4):
        writer.write([member("a", f"{number}"), member("b", f"b-{number}")])
        writer.write([member("a", f"single-{number}")])

    instants = [at for (at,) in log.connections[0].execute("SELECT recorded_at FROM avx_events ORDER BY position")]

    assert instants == sorted(set(instants))


def test_a_locked_file_refuses_the_group_and_takes_it_later(log: Log) -> None:
    writer, other = log.writer(), log.connect()
    writer.write([member("a", "1")])
    for members in ([member("a", "2")], [member("a", "2"), member("b", "3")]):
        other.execute("BEGIN IMMEDIATE")
        outcomes = writer.write(members)
        other.execute("ROLLBACK")

        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * len(members)
        assert {str(outcome).split(": ")[1] for outcome in outcomes} == {
            "database is locked; nothing was written, try again later"
        }
    assert writer.write([member("a", "2"), member("b", "3")]) == [AppendResult(2, 2), AppendResult(1, 3)]


def test_on_a_full_disk_the_members_that_fit_are_written(log: Log) -> None:
    connection = log.connect()
    writer = log.writer(connection)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 20}")

    small, large, after = writer.write([member("a", "1"), member("b", "2", size_bytes=1_000_000), member("a", "3")])

    assert (small, after) == (AppendResult(1, 1), AppendResult(2, 2))
    assert isinstance(large, StoreUnavailableError)
    assert "full" in str(large)
    connection.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    assert writer.write([member("b", "2", size_bytes=1_000_000)]) == [AppendResult(1, 3)]


def test_a_file_that_was_taken_away_is_not_written_to(log: Log) -> None:
    writer = log.writer()
    writer.write([member("a", "1")])
    log.is_in_place = False

    for members in ([member("a", "2")], [member("a", "2"), member("b", "3")]):
        outcomes = writer.write(members)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * len(members)
        assert "removed" in str(outcomes[0])
    assert len(log.rows()) == 1


@pytest.mark.parametrize("damage", ["UPDATE avx_events SET version = ?", "UPDATE avx_events SET recorded_at = ?"])
@pytest.mark.parametrize("value", [None, "x"])
def test_a_row_without_its_numbers_is_a_damaged_file(log: Log, damage: str, value: object) -> None:
    connection = log.connect()
    log.writer(connection).write([member("a", "1")])
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'INTEGER NOT NULL', 'BLOB')")
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute(damage, (value,))

    for expected in (None, 1):
        [outcome] = log.writer(log.connect()).write([member("a", "2", expected=expected)])
        assert isinstance(outcome, StoreSchemaError)
        assert "damaged" in str(outcome)
