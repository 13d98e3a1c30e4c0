"""Readiness: whether the store and the broker can be reached now, looked at every ``CHECK_EVERY_S``."""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Final

from avx_events import AvxEventsError, EventBus, EventStore
from examples.production_service.reports import HealthCheckPerformed

CHECK_EVERY_S: Final = 2.0
LONGEST_LOOK_S: Final = 2.0


class Dependencies:
    """What the service cannot do without.

    Attributes:
        problems: Those that could not be reached at the last look, each with the reason.
    """

    def __init__(self, store: EventStore, bus: EventBus) -> None:
        """Look at ``store``, and at the broker of ``bus`` if it has one."""
        self._store: Final = store
        self._bus: Final = bus
        self.problems: Mapping[str, str] = {}

    async def look(self, others: Mapping[str, str]) -> None:
        """Look at both, and publish what was found, with what others found: a broker that takes that is not away."""
        began_s = perf_counter()
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(LONGEST_LOOK_S):
                await self._store.last_position()
        except (AvxEventsError, TimeoutError) as exc:
            found["store"] = _away(exc)
        problems = {**others, **found}
        status = "not ready" if problems else "ready"
        check = HealthCheckPerformed(status, problems, (perf_counter() - began_s) * 1_000)
        try:
            async with asyncio.timeout(LONGEST_LOOK_S):
                await self._bus.publish(check)
        except (AvxEventsError, TimeoutError) as exc:
            found["bus"] = _away(exc)
        self.problems = found


def _away(exc: Exception) -> str:
    return f"away: {str(exc) or f'no answer within {LONGEST_LOOK_S:g} s'}"
