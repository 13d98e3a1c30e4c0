"""Makes changes in groups: one commit, and one wait for the disk, for all that wait at that moment."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from avx_events.core.tasks import settle_all
from avx_events.storage.sqlite.failures import is_about_one_member, moved_error, store_error
from avx_events.storage.sqlite.writers import Work, Writer

ResultT = TypeVar("ResultT")

Waiting: TypeAlias = tuple[Work[Any], "asyncio.Future[Any]"]
"""A change whose caller waits for the future."""

# Changes in one commit: other processes wait for its end.
_MOST_CHANGES: Final = 500


class SharedCommits:
    """Changes to a database, each whole or absent, in the order in which they are begun."""

    def __init__(self, writer: Writer, url: str, *, is_in_place: Callable[[], bool]) -> None:
        """Commit on ``writer``, which runs no other transactions.

        Args:
            writer: Whose connection is used.
            url: Of the database, for errors.
            is_in_place: Tells whether the file that was opened is still the one at its path.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._url = url
        self._is_in_place = is_in_place
        self._waiting: deque[Waiting] = deque()

    def begin(self, change: Work[ResultT]) -> "asyncio.Future[ResultT]":
        """Make ``change`` with the next commit, and return the future of what it returns.

        Where that is cancelled before its commit has begun, the change is not made.

        Raises:
            StoreUnavailableError: Nothing was changed: disk full, file locked or gone; where the future is awaited.
            StoreSchemaError: The database is damaged; likewise.
        """
        future: asyncio.Future[ResultT] = self._loop.create_future()
        self._waiting.append((change, future))
        self._writer.post(self._commit_waiting)
        return future

    def _commit_waiting(self, connection: sqlite3.Connection) -> None:
        group = self._next_group()
        if not group:  # an earlier one took them
            return
        try:
            outcomes = self._outcomes(connection, group)
        except BaseException as exc:  # noqa: BLE001 - a bug: said where the changes are awaited
            outcomes = [exc] * len(group)
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(settle_all, [future for _, future in group], outcomes)

    def _next_group(self) -> list[Waiting]:
        group: list[Waiting] = []
        while self._waiting and len(group) < _MOST_CHANGES:
            change, future = self._waiting.popleft()
            if not future.cancelled():
                group.append((change, future))
        return group

    def _outcomes(self, connection: sqlite3.Connection, group: Sequence[Waiting]) -> list[Any]:
        if not self._is_in_place():
            return [moved_error(self._url) for _ in group]
        try:
            return _committed(connection, group)
        except sqlite3.Error as exc:
            if len(group) > 1 and is_about_one_member(exc):
                return [self._outcomes(connection, [one])[0] for one in group]
            return [store_error(exc, self._url) for _ in group]


def _committed(connection: sqlite3.Connection, group: Sequence[Waiting]) -> list[Any]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        results = [change(connection) for change, _ in group]
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
    return results
