"""The projections of a store as its tables tell of them: for those who look from outside, without their code."""

from time import time_ns
from typing import Final

import msgspec

from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.projection.checkpoints import MIGRATIONS, SET_ASIDE, Stage, set_paused
from avx_events.patterns.projection.versions import rebuild
from avx_events.patterns.tables import prepare
from avx_events.store.event_store import EventStore, record_after

# Where no projector was ever entered there is no table of theirs.
_IS_THERE: Final = "SELECT version FROM avx_schema WHERE component = 'projections'"
_ALL: Final = "SELECT name, version, position, stage, {paused} FROM avx_projections ORDER BY name, version"
_KNOWS_PAUSES: Final = 3
_LETTERS: Final = "SELECT name, version, count(*) FROM avx_projection_letters GROUP BY name, version"
_KNOWS_LETTERS: Final = 2


class KnownVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a projection, as the store has it.

    Attributes:
        name: The projection's name.
        version: Its version; 0 is one that is to be built anew, as it was: what is read until then.
        stage: ``building`` until it has come to the end of the log for the first time, ``beside`` while it is built
            next to the one that is read, then ``live``.
        paused: Whether nobody handles events for it.
        position: The position in the log up to which it is done.
        last_position: The end of the log.
        lag_events: How many positions are between the two.
        lag_seconds: How long the first event after ``position`` has been in the log; 0.0 where there is none.
        dead_letters: How many events were left out, of which dead letters tell.
    """

    name: str
    version: int
    stage: Stage
    paused: bool
    position: int
    last_position: int
    lag_events: int
    lag_seconds: float
    dead_letters: int

    @property
    def is_set_aside(self) -> bool:
        """Whether it is what another one, of its own version, is to take the place of."""
        return self.version == SET_ASIDE


class Overview:
    """Tells of the projections of a store, and tells those who run them to pause, go on or build anew."""

    def __init__(self, store: EventStore) -> None:
        """Look at ``store``, whoever runs its projections."""
        self._store: Final = store

    async def versions(self) -> list[KnownVersion]:
        """Return all versions of all projections, by name and version.

        Raises:
            TransactionError: The store is in memory without a database.
            StoreUnavailableError: The database cannot be read now.
            ClosedError: The store is closed.
        """
        schema = await self._store.fetch_one(_IS_THERE)
        known: int = 0 if schema is None else schema[0]
        if known < _KNOWS_LETTERS:
            return []
        last = await self._store.last_position()
        letters = {(name, version): count for name, version, count in await self._store.fetch(_LETTERS)}
        # Looking brings no table forward.
        rows = await self._store.fetch(_ALL.format(paused="paused" if known >= _KNOWS_PAUSES else "0"))
        return [
            KnownVersion(
                name=name,
                version=version,
                stage=stage,
                paused=bool(paused),
                position=position,
                last_position=last,
                lag_events=max(last - position, 0),
                lag_seconds=await self._age_after(position) if position < last else 0.0,
                dead_letters=letters.get((name, version), 0),
            )
            for name, version, position, stage, paused in rows
        ]

    async def of(self, name: str) -> list[KnownVersion]:
        """Return the versions of the projection ``name``, oldest first.

        Raises:
            InvalidArgumentError: There is none.
            AvxEventsError: As ``versions``.
        """
        known = await self.versions()
        found = [each for each in known if each.name == name]
        if not found:
            names = ", ".join(dict.fromkeys(each.name for each in known)) or "none"
            expected = f"the name of a projection of this store (there are: {names})"
            raise InvalidArgumentError("name", name, expected=expected)
        return found

    async def pause(self, name: str) -> None:
        """Have nobody handle events for a projection until it is resumed; ``Projector.pause`` says more.

        Raises:
            InvalidArgumentError: There is none.
            StoreUnavailableError: The database cannot be written now.
            ClosedError: The store is closed.
        """
        await self._set_paused(name, is_paused=True)

    async def resume(self, name: str) -> None:
        """Have events handled again for a projection.

        Raises:
            InvalidArgumentError: There is none.
            StoreUnavailableError: The database cannot be written now.
            ClosedError: The store is closed.
        """
        await self._set_paused(name, is_paused=False)

    async def rebuild(self, name: str) -> None:
        """Have a projection built anew by whoever runs it; ``Projector.rebuild`` says more.

        Raises:
            InvalidArgumentError: There is none.
            StoreUnavailableError: The database cannot be written now.
            ClosedError: The store is closed.
        """
        await self.of(name)
        async with self._store.transaction() as connection:
            await rebuild(connection, name)

    async def _set_paused(self, name: str, *, is_paused: bool) -> None:
        await self.of(name)
        async with self._store.transaction() as connection:
            await prepare(connection, "projections", MIGRATIONS)
            await set_paused(connection, name, is_paused=is_paused)

    async def _age_after(self, position: int) -> float:
        record = await record_after(self._store, position)
        return 0.0 if record is None else max(time_ns() / 1e9 - record.recorded_us / 1e6, 0.0)
