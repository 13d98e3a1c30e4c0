"""The next page is read before it is asked for, and no other; what nobody asks for harms nobody."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import itemgetter
from pathlib import Path

import pytest

from avx_events.core.errors import ClosedError, StoreSchemaError
from avx_events.storage.sqlite.pages import PageQuery
from avx_events.storage.sqlite.read_ahead import pages_ahead
from avx_events.storage.sqlite.readers import Readers
from avx_events.storage.sqlite.schema import prepare
from avx_events.store.ports import PAGE_EVENTS, RecordTuple
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)

URL = "sqlite:///events.db"


class CountedQuery(PageQuery):
    """The whole log; says after which position each page was read, and fails after one if told to."""

    def __init__(self) -> None:
        super().__init__("WHERE position > ?2 ORDER BY position LIMIT ?3", number=itemgetter(0))
        self.read_after: list[int] = []
        self.fails_after: int | None = None

    def page(self, connection: sqlite3.Connection, after: int, limit: int, *values: str | int) -> list[RecordTuple]:
        self.read_after.append(after)
        if after == self.fails_after:
            problem = "damaged here"
            raise sqlite3.DatabaseError(problem)
        return super().page(connection, after, limit, *values)


def pages_of(readers: Readers, query: CountedQuery, after: int = 0) -> AsyncGenerator[list[RecordTuple], None]:
    """Give the pages of the log as the engine does."""
    return pages_ahead(
        readers,
        lambda connection, after: query.page(connection, after, PAGE_EVENTS),
        after,
        follow=lambda page, _: page[-1][0] if len(page) == PAGE_EVENTS else None,
    )


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncGenerator[Readers, None]:
    path = tmp_path / "events.db"
    connection = sqlite3.connect(path, isolation_level=None)
    prepare(connection, URL)
    records = [
        (number, "s", number, number, f"{number}", "t", b"[]", b"{}") for number in range(1, 5 * PAGE_EVENTS + 1)
    ]
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO avx_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", records)
    connection.execute("COMMIT")
    connection.close()
    opened = Readers(lambda: sqlite3.connect(path, check_same_thread=False), URL)
    yield opened
    await opened.close()


async def test_every_page_is_given_once_and_in_order(readers: Readers) -> None:
    for after in (0, 17, 4 * PAGE_EVENTS, 5 * PAGE_EVENTS, 6 * PAGE_EVENTS):
        pages = [page async for page in pages_of(readers, CountedQuery(), after)]

        positions = [record[0] for page in pages for record in page]
        assert positions == [*range(after + 1, 5 * PAGE_EVENTS + 1)]
        assert [len(page) < PAGE_EVENTS for page in pages] == [False] * (len(pages) - 1) + [True]


async def test_the_next_page_is_read_before_it_is_asked_for_and_no_other(readers: Readers) -> None:
    query = CountedQuery()
    async with aclosing(pages_of(readers, query)) as pages:
        await anext(pages)
        await until(lambda: len(query.read_after) > 1)
        await readers.begin(lambda _: None)

        assert query.read_after == [0, PAGE_EVENTS]


async def test_the_pages_before_one_that_cannot_be_read_are_given(readers: Readers) -> None:
    query = CountedQuery()
    query.fails_after = 2 * PAGE_EVENTS
    pages = pages_of(readers, query)

    assert [(await anext(pages))[0][0] for _ in range(2)] == [1, PAGE_EVENTS + 1]
    with pytest.raises(StoreSchemaError, match="damaged here"):
        await anext(pages)


async def test_a_reader_that_goes_away_hears_of_no_error_and_leaves_the_threads_to_others(
    readers: Readers, caplog: pytest.LogCaptureFixture
) -> None:
    query = CountedQuery()
    query.fails_after = PAGE_EVENTS
    for turns in range(8):
        async with aclosing(pages_of(readers, query)) as pages:
            await anext(pages)
            for _ in range(turns):
                await asyncio.sleep(0)

    assert await readers.begin(lambda _: 7) == 7
    assert caplog.records == []


async def test_readers_that_are_many_more_than_the_threads_all_get_on(readers: Readers) -> None:
    async def count() -> int:
        return sum([len(page) async for page in pages_of(readers, CountedQuery())])

    async with asyncio.TaskGroup() as tasks:
        counting = [tasks.create_task(count()) for _ in range(12)]

    assert [each.result() for each in counting] == [5 * PAGE_EVENTS] * 12


async def test_the_pages_end_with_an_error_where_the_readers_are_closed(readers: Readers) -> None:
    pages = pages_of(readers, CountedQuery())
    await anext(pages)
    await readers.close()

    with pytest.raises(ClosedError):
        _ = [page async for page in pages]
