"""A page that SQLite joins is what its rows are, and where it cannot be taken apart the rows are read."""

import sqlite3
from collections.abc import Generator
from operator import itemgetter

import pytest

from avx_events.storage.sqlite.pages import FEW_EVENTS, PageQuery
from avx_events.storage.sqlite.schema import prepare
from avx_events.store.ports import PAGE_EVENTS, RecordTuple

URL = "sqlite:///events.db"
COUNT = FEW_EVENTS + 50
OF_LOG = PageQuery("WHERE position > ?2 ORDER BY position LIMIT ?3", number=itemgetter(0))
OF_STREAM = PageQuery("WHERE stream = ?4 AND version > ?2 ORDER BY version LIMIT ?3", number=itemgetter(2), stream="?4")


@pytest.fixture(params=["UTF-8", "UTF-16le"])
def database(request: pytest.FixtureRequest) -> Generator[sqlite3.Connection, None, None]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(f"PRAGMA encoding = '{request.param}'")
    prepare(connection, URL)
    yield connection
    connection.close()


def record(position: int, data: bytes = b'{"name":"J\xc3\xb6rg, \\u0000 [or] {so}"}') -> RecordTuple:
    stream = ("a", "b, c", "é")[position % 3]
    return position, stream, position // 3 + 1, 10 * position, f"id, {position}", "user.créated", b'[1,"",1]', data


def keep(database: sqlite3.Connection, records: list[RecordTuple]) -> None:
    database.executemany("INSERT INTO avx_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", records)


def test_a_page_has_every_record_as_it_was_kept(database: sqlite3.Connection) -> None:
    records = [record(number) for number in range(1, COUNT + 1)]
    keep(database, records)

    for limit in (1, FEW_EVENTS, FEW_EVENTS + 1, PAGE_EVENTS):
        assert OF_LOG.page(database, 0, limit) == records[:limit]
        assert OF_LOG.page(database, 7, limit) == records[7 : 7 + limit]
        for stream in ("a", "b, c", "é"):
            of_stream = [kept for kept in records if kept[1] == stream and kept[2] > 2]
            assert OF_STREAM.page(database, 2, limit, stream) == of_stream[:limit]


def test_a_page_of_nothing_is_empty(database: sqlite3.Connection) -> None:
    keep(database, [record(1)])

    assert OF_LOG.page(database, 1, PAGE_EVENTS) == []
    assert OF_STREAM.page(database, 0, PAGE_EVENTS, "nowhere") == []


@pytest.mark.parametrize(
    "damaged", [b"", b"\0", b"{\0}", b"\xff\0\xfe", b'{"a":1', b"1],[2", bytes(range(256))], ids=repr
)
def test_a_damaged_record_is_given_as_it_is_and_alters_no_other(database: sqlite3.Connection, damaged: bytes) -> None:
    records = [record(1), record(2, damaged), record(3)]
    keep(database, records)

    assert OF_LOG.page(database, 0, PAGE_EVENTS) == records


def test_records_too_large_to_be_joined_are_read_all_the_same(database: sqlite3.Connection) -> None:
    large = b'"' + b"x" * 6_000_000 + b'"'
    records = [record(number, large) for number in range(1, 5)]
    keep(database, records)

    assert OF_LOG.page(database, 0, PAGE_EVENTS) == records
    assert database.execute("SELECT length(zeroblob(17000000))").fetchone() == (17_000_000,)


def test_a_page_that_does_not_go_on_as_far_as_it_is_long_is_damage() -> None:
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE avx_events (position, stream, version, recorded_at, event_id, event_type, metadata, data)"
    )
    keep(database, [record(1), record(1)])

    for limit in (FEW_EVENTS, PAGE_EVENTS):
        with pytest.raises(sqlite3.DatabaseError, match="goes back instead of on"):
            OF_LOG.page(database, 0, limit)
    database.close()
