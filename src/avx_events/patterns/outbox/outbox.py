"""The outbox: what happened, written down in the transaction of what it happened to, and published afterwards."""

from collections.abc import Mapping
from typing import Any, Final

from avx_events.core import cloudevents
from avx_events.core.arguments import whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError, NotAnEventError
from avx_events.core.event import ANSWERED_BY_ONE
from avx_events.core.metadata import EventEnvelope, EventMetadata, stamp
from avx_events.core.topic import check_topic
from avx_events.patterns.outbox.connections import writer_now_on, writer_on
from avx_events.patterns.outbox.tables import ALONE, OUTBOX
from avx_events.patterns.tables import prepare
from avx_events.store.event_store import EventStore

SOURCE: Final = "/avx-events/outbox"
"""The ``source`` of the documents in the table; the bus that publishes an event says its own."""

_ADD: Final = "INSERT INTO avx_outbox (event_id, event_type, key, document, added_us) VALUES (?, ?, ?, ?, ?)"
_NOT_FOR_MANY: Final = "is a request, a command or a query, which one handler answers; an outbox takes events"


class Outbox:
    """Keeps events in the table ``avx_outbox`` of an application's database until an ``OutboxRelay`` publishes them.

    An event is added in the transaction that changes the application's tables: it is published if that is committed,
    and never if it is not. It holds nothing itself, so one serves a whole program, all its tasks and threads.
    """

    def __init__(self, *, max_event_bytes: int = cloudevents.MAX_EVENT_BYTES, clock: Clock = SYSTEM_CLOCK) -> None:
        """Keep events for a relay.

        Args:
            max_event_bytes: The most that one event may take; no more than what the bus takes that will publish it.
            clock: Gives the timestamps.

        Raises:
            InvalidArgumentError: The number is outside its range.
        """
        self._max_bytes: Final = whole("max_event_bytes", max_event_bytes, least=1)
        self._clock: Final = clock

    async def prepare(self, place: object) -> None:
        """Make the table where it is not there; ``outbox_ddl`` shows its SQL. A relay does the same when it is entered.

        Args:
            place: An ``EventStore``, or any connection that ``add`` takes, inside of a transaction that is yours to
                commit.

        Raises:
            InvalidArgumentError: It is neither.
            TransactionError: The connection is in no transaction, or the store is in memory without a database.
            StoreUnavailableError: The store cannot be written now.
            StoreSchemaError: The database has such a table of a newer version.
            Exception: What the client library of the connection raises.
        """
        if isinstance(place, EventStore):
            async with place.transaction() as connection:
                await prepare(connection, "outbox", [OUTBOX[connection.dialect]])
            return
        writer = writer_on(place)
        for statement in (*ALONE[writer.dialect], *OUTBOX[writer.dialect]):
            await writer.execute(statement)

    async def add(
        self, event: object, connection: object, *, topic: str | None = None, headers: Mapping[str, str] | None = None
    ) -> EventMetadata:
        """Add ``event`` in the transaction that ``connection`` is in, and return the metadata it was given.

        It is stamped now, in the current context: its causation and correlation are those of what is handled here.
        Order is kept by its key, the aggregate id, in the order in which transactions that exclude each other were
        committed; those that change one row of the application do.

        Args:
            event: An event, or an ``EventEnvelope``, which keeps its metadata.
            connection: The one of ``store.transaction()``, or a connection of asyncpg, aiosqlite or sqlite3.
            topic: Where to; the event's type, or the envelope's own topic, if not given.
            headers: Text by name, for the metadata.

        Raises:
            NotAnEventError: It is no event.
            InvalidArgumentError: The connection is none that is known, the headers are no mapping of text to text, or
                an envelope is given headers.
            InvalidTopicError: The topic is malformed.
            EncodeError: A value does not fit its field, or JSON cannot carry it.
            EventTooLargeError: The event takes more than ``max_event_bytes``.
            TransactionError: The connection is in no transaction.
            StatementError: The store's database refused it, as where the table is not there.
            Exception: What the client library of the connection raises.
        """
        writer = writer_on(connection)
        metadata, row = self._row_of(event, topic, headers)
        await writer.execute(_ADD, *row)
        return metadata

    def add_nowait(
        self, event: object, connection: object, *, topic: str | None = None, headers: Mapping[str, str] | None = None
    ) -> EventMetadata:
        """Do as ``add`` on a connection of sqlite3, from code that is not async, in any thread.

        Args:
            event: An event, or an ``EventEnvelope``, which keeps its metadata.
            connection: A connection of sqlite3.
            topic: As for ``add``.
            headers: As for ``add``.

        Raises:
            NotAnEventError: It is no event.
            InvalidArgumentError: The connection is another one, or the headers are not acceptable.
            InvalidTopicError: The topic is malformed.
            EncodeError: A value does not fit its field, or JSON cannot carry it.
            EventTooLargeError: The event takes more than ``max_event_bytes``.
            TransactionError: The connection commits each statement by itself, and is in no transaction.
            Exception: What sqlite3 raises.
        """
        writer = writer_now_on(connection)
        metadata, row = self._row_of(event, topic, headers)
        writer.execute_now(_ADD, *row)
        return metadata

    def _row_of(
        self, event: object, topic: str | None, headers: Mapping[str, str] | None
    ) -> tuple[EventMetadata, tuple[str, str, str, bytes, int]]:
        if topic is not None:
            check_topic(topic)
        envelope: EventEnvelope[Any] = stamp(event, clock=self._clock, headers=headers, topic=topic)
        if isinstance(envelope.event, ANSWERED_BY_ONE):
            raise NotAnEventError(envelope.event, problem=_NOT_FOR_MANY)
        document = cloudevents.encode(envelope, source=SOURCE, max_bytes=self._max_bytes)
        metadata = envelope.metadata
        if "\0" in metadata.aggregate_id:
            raise InvalidArgumentError("aggregate_id", metadata.aggregate_id, expected="text without NUL")
        added_us = self._clock.time_ns() // 1000
        return metadata, (metadata.event_id, metadata.event_type, metadata.aggregate_id, document, added_us)
