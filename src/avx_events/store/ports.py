"""What an engine of the event store implements: encoded records in, encoded records out, no event classes."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from avx_events.core.clock import Clock

PAGE_EVENTS: Final = 1_000
"""Events in one page of a read, unless said otherwise. Larger pages are no faster, and hold the loop for longer."""

STRETCH_EVENTS: Final = 20_000
"""Records that an engine looks at in one call, however few of them a filter wants: some milliseconds."""

ENTRY_POINT_GROUP: Final = "avx_events.stores"
"""The group of entry points by which engines are found: the name is a URL scheme, the object an ``EngineFactory``."""


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """Where an append ended.

    Attributes:
        version: The version of its last event in the stream, from 1.
        position: The position of its last event in the whole log, from 1.
    """

    version: int
    position: int


class NewRecord(NamedTuple):
    """An event as it is handed to an engine: checked, encoded, and without a place yet. Plain tuples serve as well.

    Attributes:
        event_id: Unique in the whole store; not empty, no lone surrogate.
        event_type: The type's name.
        metadata: What else is known about it and its data, as one JSON array; only the facade looks into it.
        data: The event's fields as a JSON object.
    """

    event_id: str
    event_type: str
    metadata: bytes
    data: bytes


NewRecordTuple: TypeAlias = tuple[str, str, bytes, bytes]
"""The shape of a ``NewRecord``."""


class Record(NamedTuple):
    """An event as an engine gives it back. Engines may return plain tuples of this shape, which cost less.

    Attributes:
        position: Its place in the whole log.
        stream: Its stream.
        version: Its place in the stream.
        recorded_us: When it was recorded, in Unix microseconds.
        event_id: As it was appended, like the rest.
        event_type: The type's name.
        metadata: A JSON array.
        data: A JSON object.
    """

    position: int
    stream: str
    version: int
    recorded_us: int
    event_id: str
    event_type: str
    metadata: bytes
    data: bytes


RecordTuple: TypeAlias = tuple[int, str, int, int, str, str, bytes, bytes]
"""The shape of a ``Record``."""


StreamTuple: TypeAlias = tuple[str, int, int, int]
"""A stream: its name, its version, and the position and ``recorded_us`` of its last record."""


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records of the log are wanted; the engine looks for them where they lie.

    Attributes:
        event_types: The names of their types, at least one; None for all.
        stream_prefix: What the names of their streams begin with; empty for all.
    """

    event_types: tuple[str, ...] | None = None
    stream_prefix: str = ""


class LogPage(NamedTuple):
    """A page of the log.

    Attributes:
        records: Position ascending; a page of a filter may have none though there are more.
        reached: Up to which position it has all that was wanted: where the next page begins. The position it began
            after where there is nothing newer.
    """

    records: Sequence[RecordTuple]
    reached: int


Dialect: TypeAlias = Literal["sqlite", "postgresql"]
"""Whose SQL an engine takes: ``?`` stands for a value in SQLite's, ``$1`` and so on in PostgreSQL's."""


class SnapshotRecord(NamedTuple):
    """The state of an aggregate at one version.

    Attributes:
        stream: The aggregate's stream.
        kind: The class it is of.
        fingerprint: The shape of that class; a snapshot of another shape is not used.
        version: The version that the state is at.
        recorded_us: When the event of that version was recorded, in Unix microseconds.
        state: The encoded state.
    """

    stream: str
    kind: str
    fingerprint: str
    version: int
    recorded_us: int
    state: bytes


class Connection(Protocol):
    """The store's own database, inside one transaction. SQL and placeholders are the engine's own.

    A statement whose caller is cancelled may be done all the same. One that takes long is ended, and the transaction
    undone with it if it writes; what comes after is told so.
    """

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it takes."""
        ...

    async def execute(self, sql: str, *params: object) -> int:
        """Run one statement.

        Returns:
            How many rows it changed; 0 for what changes none.

        Raises:
            StatementError: The database refused it.
            StoreUnavailableError: The disk is full or the file locked; the transaction cannot be committed any more.
            StoreSchemaError: The database is damaged.
            ClosedError: The store was closed meanwhile.
            WrongLoopError: The store belongs to another loop.
            UsageError: The transaction is over, or the statement would end it.
        """
        ...

    async def execute_later(self, sql: str, *params: object) -> None:
        """Run one statement with others, whose outcome nobody needs to know at once.

        Statements that are put off are sent, in their order, before the next one that is not, at the end of the
        transaction, and whenever there are 500 of them. Those in a row with the same text take one round trip: to
        PostgreSQL that is ten times faster than one for each. What the database refuses is raised there, and by
        everything after it: such a transaction cannot be committed.

        Raises:
            LaterStatementError: The database refused one of those that were sent now.
            StoreUnavailableError: As ``execute``, when they are sent; likewise the others.
            StoreSchemaError: The database is damaged.
            ClosedError: The store was closed meanwhile.
            WrongLoopError: The store belongs to another loop.
            UsageError: The transaction is over, or a statement would end it.
        """
        ...

    async def flush(self) -> None:
        """Send what ``execute_later`` has put off, and return when it is done.

        Raises:
            AvxEventsError: As ``execute_later``.
        """
        ...

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query and return all its rows, each a tuple in the order of its columns.

        Raises:
            StatementError: The database refused it.
            StoreUnavailableError: The file is locked or cannot be read.
            StoreSchemaError: The database is damaged.
            ClosedError: The store was closed meanwhile.
            WrongLoopError: The store belongs to another loop.
            UsageError: The transaction is over.
        """
        ...

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Run one query and return its first row, or None where it has none.

        Raises:
            StatementError: The database refused it.
            StoreUnavailableError: The file is locked or cannot be read.
            StoreSchemaError: The database is damaged.
            ClosedError: The store was closed meanwhile.
            WrongLoopError: The store belongs to another loop.
            UsageError: The transaction is over.
        """
        ...


class StoreEngine(Protocol):
    """Keeps records. All arguments are checked by the facade before they come here.

    What every engine promises, and ``avx_events.testing.store_contract`` checks: an append is whole or absent; when it
    returned, it is as durable as the engine ever makes it; positions rise in commit order, so that a reader that has
    seen position n never misses one below; ``recorded_us`` rises with every append, and the records of one append
    share it. A cancelled append may have happened; repeating it with the same event ids is safe.
    """

    def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> Awaitable[AppendResult]:
        """Add ``records``, at least one, to the end of ``stream``.

        Records whose ids the stream has already, all of them, change nothing, whatever ``expected_version`` says.

        Raises:
            ConcurrencyError: The stream is not at ``expected_version``, or has a part of the ids.
            DuplicateEventIdError: Another stream has one of the ids.
            StoreUnavailableError: Nothing was written.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    def stream_pages(
        self, stream: str, *, after: int = 0, until_version: int | None = None, until_us: int | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the records of ``stream``, version ascending, in pages. Some may be read ahead, some may be empty.

        Args:
            stream: Which stream; one that is not there has no records.
            after: The version already seen.
            until_version: The last version wanted.
            until_us: The last ``recorded_us`` wanted.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    def log_pages(
        self, *, after: int = 0, until: int | None = None, wanted: LogFilter | None = None
    ) -> AsyncIterator[Sequence[RecordTuple]]:
        """Give the records of the whole log, position ascending, in pages as those of ``stream_pages``.

        Args:
            after: The position already seen.
            until: The last position wanted.
            wanted: Which of them; None for all.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def read_all(self, *, after: int = 0, limit: int = PAGE_EVENTS, wanted: LogFilter | None = None) -> LogPage:
        """Return up to ``limit`` records of the whole log, position ascending, and how far that reaches.

        However few of the log's records are ``wanted``, a call takes a moment: it looks at a stretch of them.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at, 0 where it has no records.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def streams(self, *, prefix: str = "", after: str = "", limit: int = PAGE_EVENTS) -> Sequence[StreamTuple]:
        """Return up to ``limit`` streams, by name: by its code points, which is the order of its bytes in UTF-8.

        It takes a few looks into the index for each stream, however many records they have.

        Args:
            prefix: What the names begin with; empty for all.
            after: The name already seen.
            limit: The most streams wanted, from 1.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def last_position(self) -> int:
        """Return the position of the newest record, 0 where there is none.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def put_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Keep ``snapshot`` in the place of an older one of its stream and kind.

        Raises:
            StoreUnavailableError: It was not kept.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def get_snapshot(self, stream: str, kind: str) -> SnapshotRecord | None:
        """Return the snapshot of ``stream`` and ``kind``, or None.

        Raises:
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def wait_for_append(self, after: int) -> None:
        """Return when there may be a record past position ``after``, or when it is time to look again.

        An append of this process ends the wait at once, one of another process within the engine's own interval of
        looking, and ``close`` at once.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction on the engine's database: committed when the block ends, undone when it raises.

        Where an engine has one writer, appends wait while it is open.

        Raises:
            UsageError: The engine has no database for others' tables.
            StoreUnavailableError: On entering or leaving: the database did not accept it, nothing was written.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query on what is committed, and return all its rows; SQL and placeholders are the engine's own.

        It sees what was committed before the call, and nothing that is not committed.

        Raises:
            StatementError: The database refused it.
            UsageError: It would write, the caller is inside of a transaction, or the engine has no database.
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Run one query as ``fetch`` does, and return its first row, or None where it has none.

        Raises:
            StatementError: The database refused it.
            UsageError: It would write, the caller is inside of a transaction, or the engine has no database.
            StoreUnavailableError: The database cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The engine is closed.
            WrongLoopError: The engine belongs to another loop.
        """
        ...

    def statistics(self) -> Mapping[str, int | str]:
        """Return what the engine counts, by name; ``engine`` is its own name."""
        ...

    async def close(self) -> None:
        """Finish the appends that were accepted, refuse what comes later, end all waits. Harmless when repeated.

        Raises:
            WrongLoopError: The loop that it belongs to still runs, and is another one; nothing was closed.
        """
        ...


class EngineFactory(Protocol):
    """Opens an engine; what an entry point of ``ENTRY_POINT_GROUP`` names."""

    async def __call__(self, url: str, *, clock: Clock) -> StoreEngine:
        """Open the store at ``url``.

        Args:
            url: The whole URL, with the engine's own options as its query.
            clock: Gives ``recorded_us``.

        Raises:
            InvalidArgumentError: The URL or an option is malformed.
            MissingExtraError: It needs packages that are not installed.
            StoreSchemaError: There is something else at that place, or a store of a newer version.
            StoreUnavailableError: It cannot be opened now.
        """
        ...
