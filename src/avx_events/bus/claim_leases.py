"""Keeps what this process has claimed its own while it lives, and no longer: a claim is a lease that it renews.

A lease lasts ``LEASE_S``, or what else the store says, from its last renewal, and is renewed three times as often, so
that two renewals may fail. When a process dies its claims are free once their leases are over. A process that stands
still for longer than that, or cannot reach the store, loses its claims to others who ask for them: what it was doing
may then be done twice.

See docs/decisions/0015-a-claim-is-a-lease.md.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from avx_events.core.clock import Clock, Timer
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope

log = logging.getLogger("avx_events")

LEASE_S: Final = 30.0
"""How long a claim lasts without being renewed, in seconds."""

_RENEWALS_IN_A_LEASE: Final = 3

Renew = Callable[[Sequence[str]], Awaitable[Collection[str]]]
"""Renews the leases of these letters, and returns those of them that others have claimed."""


class ClaimLeases:
    """The letters that this process has claimed, by their ids."""

    def __init__(self, renew: Renew, *, clock: Clock, lease_s: float = LEASE_S) -> None:
        """Hold nothing yet; ``renew`` is called while something is held, for leases of ``lease_s`` seconds."""
        self._lease_s = lease_s
        self._renew = renew
        self._clock = clock
        self._tasks = TaskScope()
        self._timer: Timer | None = None
        # With the instant until which each is renewed, on the clock's monotonic scale; None is without end.
        self._held: dict[str, float | None] = {}

    def __contains__(self, letter_id: str) -> bool:
        """Tell whether the claim of this letter is renewed."""
        return letter_id in self._held

    def hold(self, letter_id: str) -> None:
        """Renew the claim of this letter from now on."""
        self._held[letter_id] = None
        if self._timer is None:
            self._plan()

    def drop(self, letter_id: str) -> None:
        """Let the claim of this letter run out; harmless where it is not held."""
        self._held.pop(letter_id, None)

    def hold_for_another_attempt(self, letter_id: str) -> None:
        """Renew the claim of this letter, if it is held, for one more lease: what should have ended it has failed."""
        if letter_id in self._held:
            self._held[letter_id] = self._clock.monotonic() + self._lease_s

    async def close(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.cancel()

    def _plan(self) -> None:
        self._timer = self._clock.call_later(self._lease_s / _RENEWALS_IN_A_LEASE, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        for letter_id in [one for one, until in self._held.items() if until is not None and until <= now]:
            del self._held[letter_id]
        if not self._held:
            return
        self._plan()
        if not self._tasks:  # else the last one still waits for the store
            self._tasks.spawn(self._renew_all(list(self._held)), name="avx-events dead letters: renew claims")

    async def _renew_all(self, letter_ids: Sequence[str]) -> None:
        try:
            lost = await self._renew(letter_ids)
        except AvxEventsError as exc:
            log.warning("the claims of %d dead letters that are redriven were not renewed: %s", len(letter_ids), exc)
            return
        for letter_id in lost:
            self.drop(letter_id)
            log.warning("dead letter %s is redriven here, and was claimed by another: it may be done twice", letter_id)
