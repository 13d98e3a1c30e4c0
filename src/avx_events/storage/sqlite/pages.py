"""Pages of the log, each read in one step of SQLite.

Python's sqlite3 gives up the GIL for every row that it fetches and must win it back, which beside a loop that is always
busy may take 5 ms each time. So SQLite joins each column of a page into one text, and the page is a single row. While
it does, the loop is free to make events of the page before (bench/store_replay.py).
"""

import sqlite3
from collections.abc import Callable
from typing import Any, Final

import msgspec

from avx_events.store.ports import RecordTuple

FEW_EVENTS: Final = 128
"""In a page of so many at the most, rows are not joined: to take them apart costs more than it saves."""

_SEPARATOR: Final = "\0"  # JSON has none, nor have names and ids

# Of one column. A larger page is read row by row: joined, it would be there three times for a while.
_MOST_JOINED_BYTES: Final = 16 * 1024 * 1024

_SELECT: Final = "SELECT position, stream, version, recorded_at, event_id, event_type, metadata, data FROM avx_events"
_STREAMS: Final = "group_concat(stream, ?1)"
_JOIN: Final = (
    "SELECT CAST(?1 AS BLOB), json_group_array(position), {streams}, json_group_array(version),"
    " json_group_array(recorded_at), group_concat(event_id, ?1), group_concat(event_type, ?1),"
    " CAST(group_concat(metadata, ?1) AS BLOB), CAST(group_concat(data, ?1) AS BLOB)"
)
_numbers = msgspec.json.Decoder(list[int]).decode


class PageQuery:
    """A query for a page of records."""

    __slots__ = ("_joined", "_of_one_stream", "_rows", "number")

    def __init__(self, condition: str, *, number: Callable[[RecordTuple], int], stream: str | None = None) -> None:
        """Query for the records of a condition.

        Args:
            condition: From WHERE to LIMIT. ``?2`` is the number already seen, ``?3`` the most records of a page, ``?4``
                and so on are other values.
            number: Tells the version or position of a record: what they are in order of.
            stream: The value that is the stream of all of them, if they are of one; it is not read again for each then.
        """
        self._rows: Final = f"{_SELECT} {condition}"
        self._joined: Final = f"{_JOIN.format(streams=stream or _STREAMS)} FROM ({self._rows})"
        self._of_one_stream: Final = stream is not None
        self.number: Final = number

    def page(self, connection: sqlite3.Connection, after: int, limit: int, *values: str | int) -> list[RecordTuple]:
        """Return up to ``limit`` records after the version or position ``after``, ascending.

        Raises:
            sqlite3.Error: They cannot be read, or the file is damaged.
            UnicodeDecodeError: Likewise.
        """
        params = (_SEPARATOR, after, limit, *values)
        page = None if limit <= FEW_EVENTS else self._page_of_joined(connection, params)
        if page is None:
            page = connection.execute(self._rows, params).fetchall()
        # In pages that repeat, as those of a damaged file may, a reader would go round for ever.
        if page and self.number(page[-1]) < after + len(page):
            problem = "its log goes back instead of on; the file is damaged"
            raise sqlite3.DatabaseError(problem)
        return page

    def _page_of_joined(
        self, connection: sqlite3.Connection, params: tuple[str | int, ...]
    ) -> list[RecordTuple] | None:
        # None for one that is too large, or that does not come apart again because a record is damaged.
        most_bytes = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_JOINED_BYTES)
        try:
            row = connection.execute(self._joined, params).fetchone()
            return _records(row, of_one_stream=self._of_one_stream)
        except (sqlite3.DataError, msgspec.DecodeError, ValueError):
            return None
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most_bytes)


def _records(row: tuple[Any, ...], *, of_one_stream: bool) -> list[RecordTuple]:
    separator, positions, stream, versions, recorded, event_ids, event_types, metadata, data = row
    if data is None:  # no records
        return []
    if separator != b"\0":
        problem = "in a file whose text is UTF-16 SQLite takes JSON's bytes for UTF-16 too"
        raise ValueError(problem)
    numbers = _numbers(positions)
    columns = (
        numbers,
        [stream] * len(numbers) if of_one_stream else stream.split(_SEPARATOR),
        _numbers(versions),
        _numbers(recorded),
        event_ids.split(_SEPARATOR),
        event_types.split(_SEPARATOR),
        metadata.split(b"\0"),
        data.split(b"\0"),
    )
    return list(zip(*columns, strict=True))
