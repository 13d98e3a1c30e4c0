"""Pages of the log, each read in a thread while events are made of the one before."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator

from avx_events.storage.sqlite.pages import PageQuery
from avx_events.storage.sqlite.readers import Readers
from avx_events.store.ports import PAGE_EVENTS, RecordTuple


async def pages_ahead(
    readers: Readers, query: PageQuery, after: int, *values: str | int
) -> AsyncGenerator[list[RecordTuple], None]:
    """Give page after page, to the first that is not full; it may be empty.

    Args:
        readers: The threads.
        query: What to read.
        after: The version or position already seen.
        values: The query's own.

    Raises:
        StoreUnavailableError: The database cannot be read now.
        StoreSchemaError: It is damaged.
        ClosedError: The readers are closed.
    """

    def read(connection: sqlite3.Connection) -> list[RecordTuple]:
        return query.page(connection, after, PAGE_EVENTS, *values)

    page = await readers.begin(read)
    while len(page) == PAGE_EVENTS:
        after = query.number(page[-1])
        ahead = readers.begin_at_once(read)
        try:
            yield page
        except BaseException:  # whoever read the pages went away
            _abandon(ahead)
            raise
        page = await ahead
    yield page


def _abandon(ahead: asyncio.Future[list[RecordTuple]]) -> None:
    if not ahead.cancel() and not ahead.cancelled():
        ahead.exception()  # if it failed, nobody needs to be told
