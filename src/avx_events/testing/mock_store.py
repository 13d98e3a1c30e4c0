"""An event store for tests: the real one, which can be made to fail."""

from collections.abc import Awaitable, Sequence
from typing import Any, cast

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.event import UnknownEvent, class_for
from avx_events.store.event_store import MAX_EVENT_BYTES, EventStore
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import AppendResult, NewRecordTuple, StoreEngine
from avx_events.store.stored_event import Unknown
from avx_events.testing.faults import Faults


class MockEventStore(EventStore):
    """An ``EventStore``, in memory or on any engine, whose appends and saves fail by a plan.

    ::

        store = MockEventStore()
        store.faults.refuse(StoreUnavailableError("postgresql://...", "server away"), OrderPlaced)
        store.faults.lose_confirmation(ConnectionResetError(), after=1)

    In everything else, and in all that was not planned, it is the real one. What is refused was not appended; where
    the confirmation is lost it was, so that repeating the same envelopes (or ``save``) changes nothing. An append is
    one call, whichever of its events a fault is planned for.

    Attributes:
        faults: What is to fail.
    """

    def __init__(
        self,
        engine: StoreEngine | None = None,
        *,
        faults: Faults | None = None,
        unknown: Unknown = "raise",
        max_event_bytes: int = MAX_EVENT_BYTES,
        snapshot_every: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Keep events in ``engine``, or in memory.

        ``faults`` is a plan to share with others; the rest are the arguments of ``EventStore``.
        """
        self.faults = Faults() if faults is None else faults
        kept_in = MemoryEngine(clock=clock) if engine is None else engine
        super().__init__(
            cast("StoreEngine", _FaultyEngine(kept_in, self.faults)),
            unknown=unknown,
            max_event_bytes=max_event_bytes,
            snapshot_every=snapshot_every,
            clock=clock,
        )


class _FaultyEngine:
    """An engine whose appends fail by a plan; everything else is the engine's own."""

    def __init__(self, engine: StoreEngine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults

    # As that of an engine may, it accepts what it is given when it is called, and not when it is awaited.
    def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> Awaitable[AppendResult]:
        fault = self._faults.next_of([class_for(record[1]) or UnknownEvent for record in records])
        if fault is not None and not fault.is_confirmation_lost:
            return self._refused(stream, fault.error)
        accepted = self._engine.append(stream, records, expected_version=expected_version)
        return accepted if fault is None else self._unconfirmed(accepted, fault.error)

    async def _refused(self, stream: str, error: Exception) -> AppendResult:
        await self._engine.version_of(stream)  # a closed store says so, whatever was planned
        raise error

    async def _unconfirmed(self, accepted: Awaitable[AppendResult], error: Exception) -> AppendResult:
        await accepted
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
