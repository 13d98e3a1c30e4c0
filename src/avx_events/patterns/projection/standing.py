"""Where a projection stands by what is committed, whichever process has brought it there; nothing is locked."""

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from avx_events.core.errors import ProjectionReplacedError, RetryableError
from avx_events.patterns.projection.checkpoints import LETTER, SEEN, Checkpoint, checkpoint
from avx_events.patterns.projection.projection import Projection
from avx_events.patterns.tables import in_dialect
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

if TYPE_CHECKING:
    from avx_events.store.ports import Dialect


class Standing:
    """Reads the tables of checkpoints and letters, and the log, for one projection.

    Attributes:
        dialect: The SQL of the store's database.
    """

    def __init__(self, store: EventStore, projection: Projection) -> None:
        """Read what ``store`` has of ``projection``."""
        self._store: Final = store
        self._projection: Final = projection
        self.dialect: Dialect = "sqlite"

    async def versions(self) -> tuple[Checkpoint | None, Checkpoint | None]:
        """Return the checkpoint of this version, and that of the one that is read while this one is built beside it."""
        rows = await self._store.fetch(in_dialect(SEEN, self.dialect), self._projection.name)
        version, found = self._projection.version, [checkpoint(row) for row in rows]
        own = next((each for each in found if each.version == version), None)
        is_beside = own is not None and own.stage == "beside"
        return own, next((each for each in found if is_beside and each.version < version), None)

    async def ensure_is_there(self) -> None:
        """Return if there is a checkpoint of this version.

        Raises:
            ProjectionReplacedError: There is none any more: it was replaced, or is to be built anew.
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        own, _ = await self.versions()
        if own is None:
            raise ProjectionReplacedError(self._projection.name, version=self._projection.version)

    async def is_done(self, position: int) -> bool:
        """Return whether everything up to ``position`` is in the tables that are read; False where it is not known."""
        try:
            own, _ = await self.versions()
        except RetryableError:  # who waits has a deadline
            return False
        return own is not None and own.stage != "beside" and own.position >= position

    async def place_of(self, letter_id: str) -> tuple[int, int] | None:
        """Return the version that the letter is of, and its event's position; None where it needs no redrive."""
        row = await self._store.fetch_one(in_dialect(LETTER, self.dialect), self._projection.name, letter_id)
        return None if row is None else (row[0], row[1])

    async def event_after(self, position: int) -> StoredEvent[Any] | None:
        """Return the first event after ``position``, an ``UnknownEvent`` where no class has its type; None at the end.

        Raises:
            DecodeError: It does not fit its class.
        """
        async with aclosing(self._store.read_all(after=position, unknown="keep")) as events:
            return await anext(events, None)
