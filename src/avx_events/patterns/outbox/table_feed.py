"""The rows of ``avx_outbox`` as what a relay publishes: done is what is not there any more, or marked."""

import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import msgspec

from avx_events.core import cloudevents
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, RetryableError
from avx_events.patterns.lease import Lease
from avx_events.patterns.outbox.parcel import Parcel
from avx_events.patterns.outbox.tables import OUTBOX
from avx_events.patterns.pause import pause
from avx_events.patterns.shared_time import shared_now_us
from avx_events.patterns.tables import in_dialect, prepare
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection, Dialect

log = logging.getLogger("avx_events.outbox")

_PAGE: Final = 100
_COLUMNS: Final = "SELECT id, key, event_id, event_type, added_us, document FROM avx_outbox WHERE published_us IS NULL"
# One writer at a time commits rows in the order of their numbers: what was read need not be looked at again.
_NEXT_IN_SQLITE: Final = f"{_COLUMNS} AND id > ? ORDER BY id LIMIT {_PAGE}"
# Of many writers, one may commit a row after others with greater numbers.
_NEXT_IN_POSTGRESQL: Final = (
    f"{_COLUMNS} AND id <> ALL(?::bigint[]) AND key <> ALL(?::text[]) ORDER BY id LIMIT {_PAGE}"
)
_THESE: Final[dict[Dialect, str]] = {
    "sqlite": "id IN (SELECT value FROM json_each(?))",
    "postgresql": "id = ANY(?::bigint[])",
}
_REMOVE: Final = "DELETE FROM avx_outbox WHERE "
_MARK: Final = "UPDATE avx_outbox SET published_us = ? WHERE "
_PRUNE: Final = (
    "DELETE FROM avx_outbox WHERE id IN"
    " (SELECT id FROM avx_outbox WHERE published_us < ? ORDER BY published_us LIMIT 1000)"
)
_NEWEST: Final = "SELECT coalesce(max(id), 0) FROM avx_outbox WHERE published_us IS NULL"
_ANY_UNTIL: Final = "SELECT 1 FROM avx_outbox WHERE published_us IS NULL AND id <= ? LIMIT 1"
_LAG: Final = "SELECT count(*), min(added_us) FROM avx_outbox WHERE published_us IS NULL"

_as_json: Final = msgspec.json.encode


class TableFeed:
    """The events in the outbox's table."""

    what: str = "row"

    def __init__(
        self, store: EventStore, lease: Lease, *, keep_s: float | None, poll_s: float, relay: str, clock: Clock
    ) -> None:
        """Give what is in the table.

        Args:
            store: Whose database has it.
            lease: In whose row it is kept who publishes.
            keep_s: How many seconds rows stay after they were published; None removes them at once.
            poll_s: How often it is looked for new rows, in seconds.
            relay: What logs call the relay.
            clock: Time.
        """
        self._store: Final = store
        self._lease: Final = lease
        self._keep_us: Final = None if keep_s is None else int(keep_s * 1_000_000)
        self._poll_s: Final = poll_s
        self._clock: Final = clock
        self._trouble: Final = Trouble(f"{relay}: the store", log=log, clock=clock)
        self._dialect: Dialect = "sqlite"
        self._position = 0
        self._read_until = 0
        self._known: set[int] = set()
        self._held_keys: set[str] = set()
        self._done: list[int] = []
        self._noted: list[int] = []

    @property
    def position(self) -> int:
        """The greatest number of a row that was settled."""
        return self._position

    @property
    def settled(self) -> int:
        """How many rows were settled and are still there."""
        return len(self._done)

    async def prepare(self, connection: Connection) -> None:
        """Make the tables, and a row for the lease."""
        self._dialect = connection.dialect
        await prepare(connection, "outbox", [OUTBOX[self._dialect]])
        await self._lease.enter(connection, position=0)

    def begin(self, _: int, /) -> None:
        """Begin again, with all that is there."""
        self._read_until = 0
        self._known, self._held_keys, self._done, self._noted = set(), set(), [], []

    async def parcels(self) -> AsyncGenerator[Parcel, None]:
        """Give events in the order of their rows, as they come; ends with the store."""
        attempt = 1
        while True:
            try:
                rows = await self._rows()
            except ClosedError:
                return
            except RetryableError as exc:
                attempt += 1
                await self._trouble.wait(exc, attempt)
                continue
            attempt = 1
            self._trouble.end()
            for row in rows:
                if row[1] not in self._held_keys:
                    yield _parcel_of(row)
            if len(rows) < _PAGE:
                await pause(self._clock, self._poll_s)

    def settle(self, parcel: Parcel, /) -> None:
        """Count one as done."""
        self._done.append(parcel.place)
        self._position = max(self._position, parcel.place)

    def hold(self, parcel: Parcel, others: Sequence[Parcel], /) -> bool:
        """Leave the row where it is, and those of its key behind it, until a relay begins again."""
        if parcel.key:
            self._held_keys.add(parcel.key)
            self._known.difference_update(other.place for other in (parcel, *others))
        return True

    async def keep(self, connection: Connection) -> None:
        """Remove or mark what is settled; it was published, whoever holds the lease now."""
        self._noted = self._done[:]
        these = _THESE[self._dialect]
        given = _as_json(self._noted).decode() if self._dialect == "sqlite" else self._noted
        if self._keep_us is None:
            if self._noted:
                await connection.execute(in_dialect(_REMOVE + these, self._dialect), given)
            return
        now_us = await shared_now_us(connection, self._clock)
        if self._noted:
            await connection.execute(in_dialect(_MARK + these, self._dialect), now_us, given)
        await connection.execute(in_dialect(_PRUNE, self._dialect), now_us - self._keep_us)

    def kept(self) -> int:
        """Forget what is not there any more."""
        noted, self._noted = self._noted, []
        del self._done[: len(noted)]
        self._known.difference_update(noted)
        return len(noted)

    async def end(self) -> int:
        """Return the number of the newest row that is there."""
        row = await self._store.fetch_one(_NEWEST)
        return 0 if row is None else int(row[0])

    async def is_done(self, place: int) -> bool:
        """Tell whether no row is there any more up to ``place``."""
        return await self._store.fetch_one(in_dialect(_ANY_UNTIL, self._dialect), place) is None

    async def lag(self) -> tuple[int, int | None]:
        """Return how many rows are there, and when the oldest was added."""
        row = await self._store.fetch_one(_LAG)
        return (0, None) if row is None else (int(row[0]), row[1])

    async def _rows(self) -> list[tuple[Any, ...]]:
        if self._dialect == "sqlite":
            rows = await self._store.fetch(_NEXT_IN_SQLITE, self._read_until)
            self._read_until = rows[-1][0] if rows else self._read_until
            return rows
        sql = in_dialect(_NEXT_IN_POSTGRESQL, self._dialect)
        rows = await self._store.fetch(sql, list(self._known), list(self._held_keys))
        self._known.update(row[0] for row in rows)
        return rows


def _parcel_of(row: tuple[Any, ...]) -> Parcel:
    place, key, event_id, event_type, added_us, document = row
    parcel = Parcel(place, key=key, event_id=event_id, event_type=event_type, made_us=added_us, envelope=None)
    try:
        parcel.envelope = cloudevents.decode(document, keep_unknown=True, max_bytes=sys.maxsize)
    except AvxEventsError as exc:
        parcel.error, parcel.raw = exc, bytes(document)
    return parcel
