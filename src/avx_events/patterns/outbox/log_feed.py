"""The log of a store as what a relay publishes: done is what lies before a position."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.errors import ClosedError, DecodeError, RetryableError
from avx_events.patterns.lease import Lease
from avx_events.patterns.outbox.parcel import Parcel
from avx_events.patterns.tables import in_dialect
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore
from avx_events.store.log_filter import WantedTypes, log_filter
from avx_events.store.ports import Connection, Dialect
from avx_events.store.stored_event import StoredEvent

log = logging.getLogger("avx_events.outbox")

if TYPE_CHECKING:
    from avx_events.store.subscription import StoreSubscription

_RECORDS: Final = (
    "SELECT position, stream, event_type, event_id, recorded_at, metadata, data FROM avx_events"
    " WHERE position > ? ORDER BY position LIMIT 500"
)
_POSITION: Final = "SELECT position FROM avx_relays WHERE name = ?"


class LogFeed:
    """The events of the log, or some of them."""

    what: str = "position"

    def __init__(
        self,
        store: EventStore,
        lease: Lease,
        *,
        types: WantedTypes | None,
        stream_prefix: str,
        after: int,
        relay: str,
        clock: Clock,
    ) -> None:
        """Give what is of ``types`` and in streams whose names begin with ``stream_prefix``.

        Args:
            store: Whose log.
            lease: In whose row the position is kept.
            types: Which events; None for all.
            stream_prefix: Of which streams.
            after: Where a relay begins that is new to the store.
            relay: What logs call the relay.
            clock: Time.

        Raises:
            InvalidArgumentError: There is no type, one is no event's, or the prefix could not begin a stream's name.
        """
        several = types is None or isinstance(types, type | str)
        self._types: WantedTypes | None = types if several else tuple(cast("Iterable[type | str]", types))
        self._wanted: Final = log_filter(self._types, stream_prefix)
        self._stream_prefix: Final = stream_prefix
        self._store: Final = store
        self._lease: Final = lease
        self._after: Final = after
        self._trouble: Final = Trouble(f"{relay}: the store", log=log, clock=clock)
        self._dialect: Dialect = "sqlite"
        self._subscription: StoreSubscription | None = None
        self._pending: deque[Parcel] = deque()
        self._reached = after
        self._settled = 0
        self._noted = (0, after)

    @property
    def position(self) -> int:
        """The position up to which everything that is wanted is settled."""
        if self._pending or self._subscription is None:
            return self._reached
        return max(self._reached, self._subscription.position)

    @property
    def settled(self) -> int:
        """How many parcels were settled, with all before them, and are not kept."""
        return self._settled

    async def prepare(self, connection: Connection) -> None:
        """Make the table of positions, and a row in it."""
        self._dialect = connection.dialect
        await self._lease.enter(connection, position=self._after)

    def begin(self, position: int, /) -> None:
        """Begin again, after ``position``."""
        self._subscription = None
        self._pending.clear()
        self._reached, self._settled, self._noted = position, 0, (0, position)

    async def parcels(self) -> AsyncGenerator[Parcel, None]:
        """Give events in the order of the log, as they come; ends with the store."""
        attempt = 1
        while True:
            try:
                parcel = await self._next()
            except (ClosedError, StopAsyncIteration):
                return
            except RetryableError as exc:
                attempt += 1
                await self._trouble.wait(exc, attempt)
                continue
            attempt = 1
            self._trouble.end()
            self._pending.append(parcel)
            yield parcel

    def settle(self, _: Parcel, /) -> None:
        """Count one as done."""
        pending = self._pending
        while pending and pending[0].is_settled:
            self._reached = pending.popleft().place
            self._settled += 1

    def hold(self, _: Parcel, __: Sequence[Parcel], /) -> bool:
        """Hold nothing: there is one position for all keys."""
        return False

    async def keep(self, connection: Connection) -> None:
        """Move the position, if the lease is still this relay's."""
        self._noted = (self._settled, self.position)
        await self._lease.move(connection, self._noted[1])

    def kept(self) -> int:
        """Count on what was kept."""
        count, self._noted = self._noted[0], (0, self._noted[1])
        self._settled -= count
        return count

    async def end(self) -> int:
        """Return the position of the newest event."""
        return await self._store.last_position()

    async def is_done(self, place: int) -> bool:
        """Tell whether the position that is kept has come to ``place``."""
        return await self._kept_position() >= place

    async def lag(self) -> tuple[int, int | None]:
        """Return how many positions of the log are behind the one that is kept, and when the first was recorded."""
        position = max(await self._kept_position(), self.position if self._lease.is_held else 0)
        events = max(await self._store.last_position() - position, 0)
        oldest = await self._first_after(position) if events else None
        return events, None if oldest is None else oldest.made_us

    async def _next(self) -> Parcel:
        subscription = self._subscription
        if subscription is None:
            subscription = self._subscription = self._store.subscribe(
                after=self._reached, types=self._types, stream_prefix=self._stream_prefix, unknown="keep"
            )
        try:
            return _parcel_of(await anext(subscription))
        except DecodeError as exc:
            parcel = await self._first_after(subscription.position)
            if parcel is None:  # it was there a moment ago
                raise
            parcel.error = exc
            self._subscription = self._store.subscribe(
                after=parcel.place, types=self._types, stream_prefix=self._stream_prefix, unknown="keep"
            )
            return parcel

    async def _first_after(self, position: int) -> Parcel | None:
        """Return the first wanted event after ``position``, not decoded."""
        sql = in_dialect(_RECORDS, self._dialect)
        while rows := await self._store.fetch(sql, position):
            for row in rows:
                if self._is_wanted(stream=row[1], event_type=row[2]):
                    return _undecoded(row)
            position = rows[-1][0]
        return None

    def _is_wanted(self, *, stream: str, event_type: str) -> bool:
        wanted = self._wanted
        return wanted is None or (
            stream.startswith(wanted.stream_prefix) and (wanted.event_types is None or event_type in wanted.event_types)
        )

    async def _kept_position(self) -> int:
        row = await self._store.fetch_one(in_dialect(_POSITION, self._dialect), self._lease.name)
        return 0 if row is None else int(row[0])


def _parcel_of(stored: StoredEvent[Any]) -> Parcel:
    metadata = stored.metadata
    return Parcel(
        stored.position,
        key=metadata.aggregate_id,
        event_id=metadata.event_id,
        event_type=metadata.event_type,
        made_us=stored.recorded_us,
        envelope=stored,
    )


def _undecoded(row: tuple[Any, ...]) -> Parcel:
    position, stream, event_type, event_id, recorded_us, metadata, data = row
    raw = {
        "type": event_type,
        "id": event_id,
        "stream": stream,
        "position": position,
        "metadata": bytes(metadata).decode("utf-8", "replace"),
        "data": bytes(data).decode("utf-8", "replace"),
    }
    return Parcel(
        position,
        key=_key_in(metadata),
        event_id=event_id,
        event_type=event_type,
        made_us=recorded_us,
        envelope=None,
        raw=msgspec.json.encode(raw),
    )


def _key_in(metadata: bytes) -> str:
    """Return the aggregate id in what the store keeps of an event's metadata; empty where it cannot be read."""
    try:
        _, key, *_ = msgspec.json.decode(metadata, type=list[Any])
    except (msgspec.MsgspecError, ValueError):
        return ""
    return key if isinstance(key, str) else ""
