"""Pages of the log, each read in a thread while events are made of the one before."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar

from avx_events.storage.sqlite.readers import Readers

PageT = TypeVar("PageT")


async def pages_ahead(
    readers: Readers,
    read: Callable[[sqlite3.Connection, int], PageT],
    after: int,
    *,
    follow: Callable[[PageT, int], int | None],
) -> AsyncGenerator[PageT, None]:
    """Give page after page, to the last.

    Args:
        readers: The threads.
        read: Returns the page after a number, on one of them.
        after: The version or position already seen.
        follow: Given a page and the number that it is after, returns the number that the next page is after, None where
            there is none.

    Raises:
        StoreUnavailableError: The database cannot be read now.
        StoreSchemaError: It is damaged.
        ClosedError: The readers are closed.
    """
    page = await readers.begin(partial(_page, read, after))
    while (then := follow(page, after)) is not None:
        after = then
        ahead = readers.begin_at_once(partial(_page, read, after))
        try:
            yield page
        except BaseException:  # whoever read the pages went away
            _abandon(ahead)
            raise
        page = await ahead
    yield page


def _page(read: Callable[[sqlite3.Connection, int], PageT], after: int, connection: sqlite3.Connection) -> PageT:
    return read(connection, after)


def _abandon(ahead: asyncio.Future[PageT]) -> None:
    if not ahead.cancel() and not ahead.cancelled():
        ahead.exception()  # if it failed, nobody needs to be told
