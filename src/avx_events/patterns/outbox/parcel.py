"""What a relay publishes, and where it comes from."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from avx_events.core.metadata import EventEnvelope
from avx_events.store.ports import Connection


class Parcel:
    """An event on its way from a database to a bus.

    Attributes:
        place: Its position in the log, or the number of its row.
        key: What order is kept by; empty where it has none.
        event_id: Its id.
        event_type: Its type.
        made_us: When it was recorded or added, in Unix microseconds.
        envelope: What is published; None where it cannot be decoded.
        error: Why not.
        raw: What could not be decoded.
        is_settled: Whether the bus has accepted it, or the dead letter queue.
    """

    __slots__ = ("envelope", "error", "event_id", "event_type", "is_settled", "key", "made_us", "place", "raw")

    def __init__(
        self,
        place: int,
        *,
        key: str,
        event_id: str,
        event_type: str,
        made_us: int,
        envelope: EventEnvelope[Any] | None,
        error: Exception | None = None,
        raw: bytes | None = None,
    ) -> None:
        """Begin on its way."""
        self.place = place
        self.key = key
        self.event_id = event_id
        self.event_type = event_type
        self.made_us = made_us
        self.envelope = envelope
        self.error = error
        self.raw = raw
        self.is_settled = False


class Feed(Protocol):
    """Where the parcels of a relay come from, and where it is kept which of them are done.

    Attributes:
        what: What errors call a place in it.
    """

    what: str

    @property
    def position(self) -> int:
        """The place up to which everything is settled here."""
        ...

    @property
    def settled(self) -> int:
        """How many parcels were settled and can be kept so, since it began."""
        ...

    async def prepare(self, connection: Connection) -> None:
        """Make the tables it needs."""
        ...

    def begin(self, position: int, /) -> None:
        """Begin again, after ``position``, with nothing on its way."""
        ...

    def parcels(self) -> AsyncGenerator[Parcel, None]:
        """Give what is to be published, in order, and wait for more; ends with the store."""
        ...

    def settle(self, parcel: Parcel, /) -> None:
        """Count one as done."""
        ...

    def hold(self, parcel: Parcel, others: Sequence[Parcel], /) -> bool:
        """Leave one that can never be published where it is, with ``others`` that follow it, if that can be done."""
        ...

    async def keep(self, connection: Connection) -> None:
        """Write down what is settled, in a transaction that may still fail."""
        ...

    def kept(self) -> int:
        """Forget what the last ``keep`` has written down, now that it is committed; return how many parcels it was."""
        ...

    async def end(self) -> int:
        """Return the place where the newest one is that is there now."""
        ...

    async def is_done(self, place: int) -> bool:
        """Tell whether the database says that everything up to ``place`` is done."""
        ...

    async def lag(self) -> tuple[int, int | None]:
        """Return how many are not done, as the database says, and when the oldest of them was made."""
        ...
