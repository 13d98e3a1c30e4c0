"""Ends what SQLite does for a caller who has given up; a write that is ended takes its transaction with it."""

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

from avx_events.storage.sqlite.writers import Work, Writer

ResultT = TypeVar("ResultT")

# Of SQLite's machine, some ten milliseconds: so often a long statement asks whether anybody still waits for it.
_STEPS: Final = 1_000_000


def interrupt_when(connection: sqlite3.Connection, is_over: Callable[[], bool]) -> None:
    """End each long statement of ``connection`` with an error, once ``is_over`` returns True."""
    connection.set_progress_handler(is_over, _STEPS)


async def run_while_awaited(writer: Writer, work: Work[ResultT]) -> ResultT:
    """Do ``work`` on ``writer`` as ``Writer.run`` does; when the caller is cancelled, what SQLite does is ended.

    A writer on the loop cannot be told: nobody is cancelled while the loop stands still.

    Raises:
        Exception: What ``work`` raised.
    """
    is_over = False

    def watched(connection: sqlite3.Connection) -> ResultT:
        interrupt_when(connection, lambda: is_over)
        try:
            return work(connection)
        finally:
            connection.set_progress_handler(None, 0)

    try:
        return await writer.run(watched)
    finally:
        is_over = True
