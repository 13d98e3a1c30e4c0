"""What to do when something is away: say so once, wait longer each time, and go on."""

import logging
import random
from typing import Final

from avx_events.core.clock import Clock
from avx_events.core.policy import Retry
from avx_events.patterns.pause import pause

log = logging.getLogger("avx_events.outbox")

_PAUSES: Final = Retry(attempts=2**31, initial_s=0.2, max_s=10.0)
_LEAST_SHARE: Final = 0.5


class Trouble:
    """One thing that a relay needs and that may be away: its bus, its store, its dead letter queue."""

    def __init__(self, relay: str, *, clock: Clock) -> None:
        """Begin without trouble; ``relay`` is what the log calls the relay."""
        self._relay: Final = relay
        self._clock: Final = clock
        self._is_there = False

    async def wait(self, error: BaseException, attempt: int, *, longest_s: float = _PAUSES.max_s) -> None:
        """Wait before ``attempt``, 2 or more, is made, up to ``longest_s`` seconds."""
        if not self._is_there:
            self._is_there = True
            log.warning("%s waits, and tries again: %s: %s", self._relay, type(error).__name__, error)
        share = _LEAST_SHARE + random.random() * (1 - _LEAST_SHARE)  # noqa: S311 - spreads load
        delay_s = _PAUSES.delay_before(attempt, jitter=share) or 0.0
        await pause(self._clock, min(delay_s, longest_s))

    def end(self) -> None:
        """Say that it goes on, where there was trouble."""
        if self._is_there:
            self._is_there = False
            log.info("%s goes on", self._relay)
