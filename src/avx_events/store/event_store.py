"""The event store that users import: events in, events out, aggregates loaded and saved, on any engine."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, Self, cast, overload

from avx_events.core.arguments import text, whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import AppendUnknownError, ClosedError, InvalidArgumentError, StreamNotFoundError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, refuse_in_replay, stamp
from avx_events.store.aggregates import Aggregate, AggregateT, schema_of_class, schema_of_instance
from avx_events.store.causal_tree import CausalTree, correlated_records, tree_of
from avx_events.store.engines import engine_factory
from avx_events.store.history import Bounds, HistoryEntry, history_of
from avx_events.store.instants import instant_us, position_at
from avx_events.store.log_filter import WantedTypes, log_filter
from avx_events.store.memory import MemoryEngine
from avx_events.store.observer import AppendObserver, AppendObservers
from avx_events.store.ports import AppendResult, Connection, NewRecordTuple, Record, StoreEngine
from avx_events.store.snapshot import Snapshots
from avx_events.store.stored_event import (
    Recorder,
    StoredEvent,
    Unknown,
    check_stream,
    envelopes_of,
    is_envelope,
    stored_events,
)
from avx_events.store.streams import StreamInfo, streams_of
from avx_events.store.subscription import StoreSubscription

MAX_EVENT_BYTES: Final = 1_048_576
_GREATEST: Final = 2**63 - 1


class EventStore:
    """Append-only streams of events with optimistic concurrency, in memory or in a database.

    ``EventStore()`` keeps everything in memory; ``await EventStore.connect(url)`` opens a database. It belongs to the
    loop that first uses it. Use it as ``async with store``, or close it with ``await store.close()``.
    """

    def __init__(
        self,
        engine: StoreEngine | None = None,
        *,
        unknown: Unknown = "raise",
        max_event_bytes: int = MAX_EVENT_BYTES,
        snapshot_every: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Keep events in ``engine``.

        Args:
            engine: Where they are kept; memory if not given.
            unknown: What reading an event type that no class of this process has gives: an error, or with ``"keep"``
                an ``UnknownEvent``.
            max_event_bytes: The most that one event's data and metadata may take.
            snapshot_every: A load that had to read so many events, 1 or more, leaves a snapshot of the aggregate for
                the next one; None for no snapshots. They never change what ``load`` returns.
            clock: Gives the timestamps, and in memory ``recorded_at``.

        Raises:
            InvalidArgumentError: A value is outside its range.
        """
        self._engine: StoreEngine = MemoryEngine(clock=clock) if engine is None else engine
        self._keep_unknown = _keeps(unknown)
        self._recorder = Recorder(clock=clock, max_bytes=_whole("max_event_bytes", max_event_bytes, least=1))
        self._snapshots = Snapshots(self._engine, every=_whole_or_none("snapshot_every", snapshot_every, least=1))
        self._clock = clock
        self._observer: AppendObserver | None = None
        self._is_closed = False
        self._url: str | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        unknown: Unknown = "raise",
        max_event_bytes: int = MAX_EVENT_BYTES,
        snapshot_every: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Self:
        """Open the store at ``url``.

        ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://`` for memory, or
        ``postgresql://user:password@host/database``.

        Args:
            url: Where it is; the engine's own options are its query, as ``sqlite:///events.db?writer=inline``.
            unknown: As for the class.
            max_event_bytes: As for the class.
            snapshot_every: As for the class.
            clock: Gives the timestamps and ``recorded_at``.

        Raises:
            InvalidArgumentError: The URL or another value is malformed.
            UnknownSchemeError: No engine is installed for the URL's scheme.
            MissingExtraError: The engine needs packages that are not installed.
            StoreSchemaError: There is something else at that place, or a store of a newer version.
            StoreRefusedError: Its server wants other credentials or TLS, has no such database, or permits too little.
            StoreUnavailableError: It cannot be opened now.
        """
        open_engine = engine_factory(url)
        _keeps(unknown)
        _whole("max_event_bytes", max_event_bytes, least=1)
        _whole_or_none("snapshot_every", snapshot_every, least=1)
        engine = await open_engine(url, clock=clock)
        store = cls(
            engine, unknown=unknown, max_event_bytes=max_event_bytes, snapshot_every=snapshot_every, clock=clock
        )
        store._url = url
        return store

    @property
    def url(self) -> str | None:
        """Where it is, as it was connected to, its password included; None where it was given an engine, or none."""
        return self._url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def append(
        self,
        stream: str,
        events: Iterable[object] | Event | EventEnvelope[Any],
        *,
        expected_version: int | None = None,
    ) -> AppendResult:
        """Add ``events`` to the end of ``stream``, all of them or none, and return the place of the last one.

        When it returned, they are as durable as the engine makes them. Envelopes keep their metadata; events are
        given new metadata in the current context. Envelopes whose event ids the stream has already, all of them,
        change nothing: the place of their last is returned, whatever ``expected_version`` says, so that an append
        with an unknown outcome (cancelled, or ended by a crash) can be repeated.

        Args:
            stream: Which stream, as ``"user-123"``; the first append makes it.
            events: One event or envelope, or at least one in order.
            expected_version: The version the stream must be at, 0 for one that is not there; None for any.

        Raises:
            ConcurrencyError: The stream is at another version, or has a part of the event ids.
            DuplicateEventIdError: Another stream has one of the event ids.
            InvalidArgumentError: The stream name is empty, no text or too long, the version negative, there are no
                events, or two with one id, or they are in a set, which has no order.
            NotAnEventError: One of them is no event.
            EncodeError: A value does not fit its field, or JSON cannot carry it.
            EventTooLargeError: One of them takes more than ``max_event_bytes``.
            StoreUnavailableError: Nothing was written; safe to call again.
            AppendUnknownError: It was sent to the store's server, which did not confirm it; safe to call again with
                the ``envelopes`` of the error.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
            TransactionError: It is called inside of ``async with store.transaction()``, which it would wait for.
            ReplayedMessageError: It is called by what is being replayed.
        """
        check_stream(stream)
        if expected_version is not None:
            _whole("expected_version", expected_version, least=0)
        several = _several(events)
        records: Sequence[NewRecordTuple] = ()
        # Written out: a coroutine in between is 3 % of what 1,000 appenders can append (bench/store_append.py).
        try:
            if self._observer is None:
                records = self._records_of(several)
                return await self._engine.append(stream, records, expected_version=expected_version)
            with self._observer.appending(stream, [*map(self._recorder.envelope_of, several)]) as observed:
                records = self._records_of(observed)
                return await self._engine.append(stream, records, expected_version=expected_version)
        except AppendUnknownError as error:
            error.stream, error.envelopes = stream, envelopes_of(records)
            raise

    async def get_events(
        self,
        stream: str,
        after_version: int = 0,
        *,
        at_version: int | None = None,
        as_of: datetime | None = None,
        unknown: Unknown | None = None,
    ) -> list[StoredEvent[Any]]:
        """Return the events of ``stream`` after ``after_version``, version ascending; none for a stream not there.

        Args:
            stream: Which stream.
            after_version: The version already seen; 0 starts at the beginning.
            at_version: Read the stream as it was at this version: the last one wanted; None for the newest.
            as_of: Read it as it was at this instant: the last ``recorded_at`` wanted, inclusive, with a time zone;
                None for the newest.
            unknown: What an unknown event type gives; None is the store's own choice.

        Raises:
            InvalidArgumentError: A value is not acceptable.
            UnknownEventTypeError: No class has the type of an event.
            DecodeError: An event does not fit its class.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        check_stream(stream)
        seen = _whole("after_version", after_version, least=0)
        _whole_or_none("at_version", at_version, least=0)
        until_us = instant_us("as_of", as_of)
        keep_unknown = self._keeps(unknown)
        events: list[StoredEvent[Any]] = []
        pages = self._engine.stream_pages(stream, after=seen, until_version=at_version, until_us=until_us)
        async for page in pages:
            events += stored_events(page, keep_unknown=keep_unknown)
        return events

    async def read_stream(
        self,
        stream: str,
        *,
        after: int = 0,
        at_version: int | None = None,
        until_version: int | None = None,
        as_of: datetime | None = None,
        unknown: Unknown | None = None,
    ) -> AsyncGenerator[StoredEvent[Any], None]:
        """Give the events of ``stream`` one by one, version ascending, read in pages; none for a stream not there.

        Args:
            stream: Which stream.
            after: The version already seen; 0 starts at the beginning.
            at_version: Read the stream as it was at this version: the last one wanted; None for the newest.
            until_version: The older name of ``at_version``.
            as_of: Read it as it was at this instant: the last ``recorded_at`` wanted, inclusive, with a time zone;
                None for the newest.
            unknown: What an unknown event type gives; None is the store's own choice.

        Raises:
            InvalidArgumentError: A value is not acceptable, or ``at_version`` is given by both of its names.
            UnknownEventTypeError: No class has the type of an event.
            DecodeError: An event does not fit its class.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        check_stream(stream)
        seen = _whole("after", after, least=0)
        last = _last_version(at_version, until_version)
        until_us = instant_us("as_of", as_of)
        keep_unknown = self._keeps(unknown)
        async for page in self._engine.stream_pages(stream, after=seen, until_version=last, until_us=until_us):
            for stored in stored_events(page, keep_unknown=keep_unknown):
                yield stored

    async def read_all(
        self,
        after: int = 0,
        *,
        until: int | None = None,
        as_of: datetime | None = None,
        types: WantedTypes | None = None,
        stream_prefix: str = "",
        unknown: Unknown | None = None,
    ) -> AsyncGenerator[StoredEvent[Any], None]:
        """Give the events of the whole log one by one, in commit order; ends where the log ends.

        Args:
            after: The position already seen; 0 starts at the beginning.
            until: The last position wanted; None for the newest.
            as_of: Read the log as it was at this instant: the last ``recorded_at`` wanted, inclusive, with a time
                zone; None for the newest.
            types: The event classes wanted, each with those derived from it, and event types by name; None for all.
                The engine sends no others, and what is not wanted need not be known.
            stream_prefix: What the names of their streams begin with, as ``"user-"``.
            unknown: What an unknown event type gives; None is the store's own choice.

        Raises:
            InvalidArgumentError: A position is negative or no number, or another value is not acceptable.
            UnknownEventTypeError: No class has the type of an event.
            DecodeError: An event does not fit its class.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        seen = _whole("after", after, least=0)
        _whole_or_none("until", until, least=0)
        until_us = instant_us("as_of", as_of)
        keep_unknown = self._keeps(unknown)
        wanted = log_filter(types, stream_prefix)
        async for page in self._engine.log_pages(after=seen, until=until, wanted=wanted):
            is_past = until_us is not None and bool(page) and page[-1][3] > until_us
            records = [record for record in page if record[3] <= until_us] if is_past and until_us is not None else page
            for stored in stored_events(records, keep_unknown=keep_unknown):
                yield stored
            if is_past:  # instants rise with positions
                return

    @overload
    def history(
        self,
        stream: str,
        *,
        aggregate: None = None,
        after: int = 0,
        at_version: int | None = None,
        since: datetime | None = None,
        as_of: datetime | None = None,
        user_id: str | None = None,
        unknown: Unknown | None = None,
    ) -> AsyncGenerator[HistoryEntry[None], None]: ...

    @overload
    def history(
        self,
        stream: str,
        *,
        aggregate: type[AggregateT],
        after: int = 0,
        at_version: int | None = None,
        since: datetime | None = None,
        as_of: datetime | None = None,
        user_id: str | None = None,
        unknown: Unknown | None = None,
    ) -> AsyncGenerator[HistoryEntry[AggregateT], None]: ...

    def history(
        self,
        stream: str,
        *,
        aggregate: type[Aggregate] | None = None,
        after: int = 0,
        at_version: int | None = None,
        since: datetime | None = None,
        as_of: datetime | None = None,
        user_id: str | None = None,
        unknown: Unknown | None = None,
    ) -> AsyncGenerator[HistoryEntry[Any], None]:
        """Give the history of ``stream`` one by one, version ascending: who did what, when and why.

        ``print(entry)`` shows an entry in one line. With an aggregate, each also has the state that its event led to
        and what it changed in it, field by field; the stream is read from its beginning then, and each state is a copy.

        Args:
            stream: Which stream; one that is not there has no history.
            aggregate: The class whose state the events make; None for the events alone.
            after: The version already seen; 0 starts at the beginning.
            at_version: The last version wanted; None for the newest.
            since: The first ``recorded_at`` wanted, inclusive, with a time zone; None for the oldest.
            as_of: The last ``recorded_at`` wanted, inclusive, with a time zone; None for the newest.
            user_id: Only what this user did; None for everybody.
            unknown: What an unknown event type gives; None is the store's own choice.

        Raises:
            InvalidArgumentError: The class is no aggregate, or another value is not acceptable.
            UnknownEventTypeError: While reading: no class has the type of an event.
            DecodeError: While reading: an event does not fit its class.
            StoreUnavailableError: While reading: it cannot be read now.
            StoreSchemaError: While reading: the database is damaged.
            ClosedError: While reading: the store is closed.
            WrongLoopError: While reading: the store belongs to another loop.
        """
        check_stream(stream)
        bounds = Bounds(
            after=_whole("after", after, least=0),
            until_version=_whole_or_none("at_version", at_version, least=0),
            since_us=instant_us("since", since),
            until_us=instant_us("as_of", as_of),
        )
        return history_of(
            self._engine,
            stream,
            bounds,
            user_id=None if user_id is None else text("user_id", user_id),
            schema=None if aggregate is None else schema_of_class(aggregate),
            keep_unknown=self._keeps(unknown),
        )

    async def correlated(
        self,
        correlation_id: str,
        *,
        after: int = 0,
        until: int | None = None,
        since: datetime | None = None,
        as_of: datetime | None = None,
        unknown: Unknown | None = None,
    ) -> CausalTree:
        """Return all events of one correlation id, over all streams, and which of them caused which.

        There is no index of correlation ids: it looks at every event of the log between the bounds, though it decodes
        no other than those it returns. Give it bounds where the log is long.

        Args:
            correlation_id: As ``entry.correlation_id`` says, or the event id of the first of the chain.
            after: The position to begin after; 0 is the beginning.
            until: The last position to look at; None for the newest.
            since: The first ``recorded_at`` to look at, inclusive, with a time zone; None for the oldest.
            as_of: The last ``recorded_at`` to look at, inclusive, with a time zone; None for the newest.
            unknown: What an unknown event type of the chain gives; None is the store's own choice.

        Returns:
            The events in the order of the log; none where no event has that id. ``print(tree)`` draws them.

        Raises:
            InvalidArgumentError: A value is not acceptable.
            UnknownEventTypeError: No class has the type of an event of the chain.
            DecodeError: An event of the chain does not fit its class.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        text("correlation_id", correlation_id)
        seen = _whole("after", after, least=0)
        last = _whole_or_none("until", until, least=0)
        since_us, until_us = instant_us("since", since), instant_us("as_of", as_of)
        keep_unknown = self._keeps(unknown)
        if since_us is not None:
            seen = max(seen, await position_at(self._engine, since_us - 1))
        if until_us is not None:
            reached = await position_at(self._engine, until_us)
            last = reached if last is None else min(last, reached)
        records = await correlated_records(self._engine, correlation_id, after=seen, until=last)
        return tree_of(correlation_id, [*stored_events(records, keep_unknown=keep_unknown)])

    async def load(
        self,
        aggregate: type[AggregateT],
        aggregate_id: str,
        *,
        at_version: int | None = None,
        as_of: datetime | None = None,
    ) -> AggregateT:
        """Return the aggregate that the events of stream ``aggregate_id`` make.

        Args:
            aggregate: Its class.
            aggregate_id: Its id, which is the name of its stream.
            at_version: Apply the events up to this version, inclusive; a later one than there is gives the newest.
            as_of: Apply the events that were recorded until this instant, inclusive, with a time zone.

        Raises:
            StreamNotFoundError: There are no events, or none that early.
            InvalidArgumentError: The class is no aggregate, or another value is not acceptable.
            UnknownEventTypeError: No class has the type of an event.
            DecodeError: An event does not fit its class.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        found = await self._load(aggregate, aggregate_id, until_version=at_version, as_of=as_of)
        if found.version == 0:
            raise StreamNotFoundError(aggregate_id)
        return found

    async def load_or_new(
        self,
        aggregate: type[AggregateT],
        aggregate_id: str,
        *,
        at_version: int | None = None,
        as_of: datetime | None = None,
    ) -> AggregateT:
        """Return the aggregate as ``load`` does, or a new one at version 0 where there are no events, or none so early.

        Args:
            aggregate: As for ``load``.
            aggregate_id: As for ``load``.
            at_version: As for ``load``.
            as_of: As for ``load``.

        Raises:
            AvxEventsError: As ``load``, but for StreamNotFoundError.
        """
        return await self._load(aggregate, aggregate_id, until_version=at_version, as_of=as_of)

    async def save(self, aggregate: Aggregate) -> AppendResult:
        """Append what ``aggregate`` recorded, if its stream is still at the version that it was loaded at.

        Whatever this raises, also where it is cancelled, the aggregate keeps its events with their ids, so that the
        same save can be repeated: what is in the store already is not appended again.

        Returns:
            The place of its last event; position 0 where it had recorded nothing, and nothing was done.

        Raises:
            ConcurrencyError: Another writer appended first. Load the aggregate, decide again, save again.
            InvalidArgumentError: It is no aggregate.
            EncodeError: A value of an event does not fit its field, or JSON cannot carry it.
            EventTooLargeError: An event takes more than ``max_event_bytes``.
            StoreUnavailableError: Nothing was written; safe to call again.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
            TransactionError: It is called inside of ``async with store.transaction()``, which it would wait for.
            ReplayedMessageError: It is called by what is being replayed.
        """
        schema = schema_of_instance(aggregate)
        waiting = schema.uncommitted(aggregate)
        if not waiting:
            return AppendResult(aggregate.version, 0)
        envelopes = [stamp(message, clock=self._clock) for message in waiting]
        schema.stamped(aggregate, envelopes)
        expected_version = aggregate.version - len(envelopes)
        result = await self.append(aggregate.id, envelopes, expected_version=expected_version)
        schema.saved(aggregate, envelopes)
        return result

    def subscribe(
        self,
        after: int = 0,
        *,
        types: WantedTypes | None = None,
        stream_prefix: str = "",
        unknown: Unknown | None = None,
    ) -> StoreSubscription:
        """Give the events of the whole log one by one, and wait for more at its end; ends when the store closes.

        Every event after ``after`` is given once, in commit order, whoever appends: this process's at once, other
        processes' within the engine's interval of looking. A step of the iteration that was cancelled, or raised one
        of the errors below, can be repeated.

        Args:
            after: The position already seen; 0 starts at the beginning.
            types: The event classes wanted, each with those derived from it until now, and event types by name; None
                for all.
            stream_prefix: What the names of their streams begin with, as ``"user-"``.
            unknown: What an unknown event type gives; None is the store's own choice.

        Raises:
            InvalidArgumentError: The position is negative or no number, or another value is not acceptable.
            ClosedError: The store is closed already.
            UnknownEventTypeError: While reading: no class has the type of an event.
            DecodeError: While reading: an event does not fit its class.
            StoreUnavailableError: While reading: it cannot be read now.
            StoreSchemaError: While reading: the database is damaged.
            WrongLoopError: While reading: the store belongs to another loop.
        """
        seen = _whole("after", after, least=0)
        keep_unknown = self._keeps(unknown)
        wanted = log_filter(types, stream_prefix)
        if self._is_closed:
            raise ClosedError("the event store", "subscribe")
        return StoreSubscription(self._engine, after=seen, keep_unknown=keep_unknown, wanted=wanted)

    async def last_position(self, *, as_of: datetime | None = None) -> int:
        """Return the position of the newest event, 0 where there is none.

        Args:
            as_of: That of the newest event at this instant, by ``recorded_at``, inclusive, with a time zone; it is
                found in a few dozen short reads, however long the log is. None is now.

        Raises:
            InvalidArgumentError: The instant is none, or has no time zone.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        until_us = instant_us("as_of", as_of)
        if until_us is None:
            return await self._engine.last_position()
        return await position_at(self._engine, until_us)

    async def version_of(self, stream: str) -> int:
        """Return the version that ``stream`` is at, 0 where it is not there.

        Raises:
            InvalidArgumentError: The stream name is not acceptable.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        return await self._engine.version_of(check_stream(stream))

    async def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> AsyncGenerator[StreamInfo, None]:
        """Give the streams one by one, ascending by name, read in pages.

        Names are in the order of their code points, on every engine. A stream costs a few looks into the index, however
        many events it has; one that is made meanwhile is given if its name is still to come.

        Args:
            prefix: What their names begin with, as ``"user-"``; empty for all.
            after: The name already seen, which need not be there; empty starts at the beginning.
            limit: The most streams wanted, from 1; None for all.

        Raises:
            InvalidArgumentError: No stream could have such a name or beginning, or the limit is outside its range.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        for argument, name in (("prefix", prefix), ("after", after)):
            if name != "":
                check_stream(name, argument=argument)
        most = _whole_or_none("limit", limit, least=1)
        async for stream in streams_of(self._engine, prefix=prefix, after=after, limit=most):
            yield stream

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction on the store's own database, for tables of your own beside it.

        ``async with store.transaction() as connection:`` commits at the end of the block and undoes everything where
        it raises or is cancelled. On SQLite appends wait meanwhile, so keep it short; an append inside of the block
        would wait for itself, or be committed apart from it, and is refused.

        Raises:
            TransactionError: The store is in memory, or the caller has a transaction open.
            ReplayedMessageError: It is called by what is being replayed.
            StoreUnavailableError: On entering or leaving: nothing was written.
            CommitUnknownError: On leaving: the server of the store did not confirm the commit.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        refuse_in_replay()
        return self._engine.transaction()

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query on the store's own database and return all its rows, each a tuple in the order of its columns.

        For reading the tables of projections and your own, as ``await store.fetch("SELECT email FROM users WHERE id =
        ?", user_id)``, in the engine's SQL and placeholders. It sees what was committed before the call, and neither
        waits for writers nor makes them wait; only ``sqlite://`` in memory has a single connection, on which a query
        takes its turn after an open transaction.

        Args:
            sql: One query; it cannot write.
            params: A value for each placeholder.

        Raises:
            StatementError: The database refused the query, or a parameter.
            TransactionError: It would write; or it is called inside of a transaction, whose ``connection`` has the
                same method; or the store is in memory without a database.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        return await self._engine.fetch(sql, *params)

    async def fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        """Run one query as ``fetch`` does, and return its first row, or None where it has none.

        Args:
            sql: One query; it cannot write.
            params: A value for each placeholder.

        Raises:
            StatementError: The database refused the query, or a parameter.
            TransactionError: As for ``fetch``.
            StoreUnavailableError: It cannot be read now.
            StoreSchemaError: The database is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        return await self._engine.fetch_one(sql, *params)

    def observe(self, observer: AppendObserver) -> None:
        """Tell ``observer`` of all appends from now on, beside those that are told already.

        Args:
            observer: See ``avx_events.store.observer.AppendObserver``; ``Tracing`` makes one.

        Raises:
            ClosedError: The store is closed.
        """
        if self._is_closed:
            raise ClosedError("the event store", "be observed")
        self._observer = observer if self._observer is None else AppendObservers(self._observer, observer)

    def statistics(self) -> Mapping[str, int | str]:
        """Return what the store and its engine count, by name.

        ``snapshots_taken`` and ``snapshots_used`` are the store's own; for SQLite there is also which ``writer`` runs.
        """
        counts = {"snapshots_taken": self._snapshots.taken, "snapshots_used": self._snapshots.used}
        return {**self._engine.statistics(), **counts}

    async def close(self) -> None:
        """Finish the appends that were accepted, end subscriptions, close the database. Harmless when repeated.

        Raises:
            WrongLoopError: The loop that it belongs to still runs, and is another one; nothing was closed.
        """
        await self._engine.close()
        self._is_closed = True

    async def _load(
        self, aggregate: type[AggregateT], stream: str, *, until_version: int | None, as_of: datetime | None
    ) -> AggregateT:
        schema = schema_of_class(aggregate)
        check_stream(stream)
        _whole_or_none("at_version", until_version, least=0)
        until_us = instant_us("as_of", as_of)
        restored = await self._snapshots.restore(schema, stream, until_version=until_version, until_us=until_us)
        version, recorded_us = restored.version, 0
        pages = self._engine.stream_pages(stream, after=version, until_version=until_version, until_us=until_us)
        async for page in pages:
            if page:
                version, recorded_us = page[-1][2], page[-1][3]
                restored.event_types.update(record[5] for record in page)
                events = (stored.event for stored in stored_events(page, keep_unknown=self._keep_unknown))
                schema.replay(restored.aggregate, events, version=version)
        if until_version is None and until_us is None:
            await self._snapshots.take(schema, restored, version=version, recorded_us=recorded_us)
        loaded: AggregateT = restored.aggregate
        return loaded

    def _records_of(self, several: Sequence[object]) -> list[NewRecordTuple]:
        records = [*map(self._recorder.record_of, several)]
        if len(records) == 1:
            return records
        if not records:
            raise InvalidArgumentError("events", several, expected="at least one event")
        if len({record[0] for record in records}) < len(records):
            raise InvalidArgumentError("events", several, expected="events with an id each; an envelope is there twice")
        return records

    def _keeps(self, unknown: Unknown | None) -> bool:
        return self._keep_unknown if unknown is None else _keeps(unknown)


def _several(events: object) -> Sequence[object]:
    if isinstance(events, list):
        return cast("list[object]", events)
    # Models of other libraries may be iterable: over their fields.
    if is_envelope(events) or "__avx_schema__" in type(events).__dict__:
        return (events,)
    if isinstance(events, set | frozenset):
        raise InvalidArgumentError("events", cast("object", events), expected="in an order, as a list; a set has none")
    if isinstance(events, Iterable):
        return [*cast("Iterable[object]", events)]
    raise InvalidArgumentError("events", events, expected="an event, or several in a list")


def _keeps(unknown: object) -> bool:
    if unknown not in {"raise", "keep"}:
        raise InvalidArgumentError("unknown", unknown, expected="'raise' or 'keep'")
    return unknown == "keep"


def _whole(name: str, number: object, *, least: int) -> int:
    return whole(name, number, least=least, most=_GREATEST)


def _whole_or_none(name: str, number: object, *, least: int) -> int | None:
    return None if number is None else _whole(name, number, least=least)


def _last_version(at_version: int | None, until_version: int | None) -> int | None:
    _whole_or_none("at_version", at_version, least=0)
    _whole_or_none("until_version", until_version, least=0)
    if at_version is not None and until_version is not None:
        expected = "left out where at_version= is given: it is the older name of that"
        raise InvalidArgumentError("until_version", until_version, expected=expected)
    return until_version if at_version is None else at_version


async def record_after(store: EventStore, position: int) -> Record | None:
    """Return the first record after ``position``; None at the end.

    It is there whatever is in it: no class needs to fit it, as for those who look at a store from outside.

    Raises:
        AvxEventsError: As ``EventStore.read_all``, but for what it says of events that cannot be read.
    """
    page = await store._engine.read_all(after=position, limit=1)  # noqa: SLF001 - of its own module  # pyright: ignore[reportPrivateUsage]
    return next((Record(*record) for record in page.records), None)
