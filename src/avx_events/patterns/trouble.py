"""What to do when something is away: say so once, wait longer each time, and go on."""

import random
from logging import Logger
from typing import Final

from avx_events.core.clock import Clock
from avx_events.core.policy import Retry
from avx_events.patterns.pause import pause

_PAUSES: Final = Retry(attempts=2**31, initial_s=0.2, max_s=10.0)
_LEAST_SHARE: Final = 0.5


class Trouble:
    """One thing that somebody needs and that may be away: a bus, a store, a dead letter queue."""

    def __init__(self, what: str, *, log: Logger, clock: Clock) -> None:
        """Begin without trouble; ``what`` is what ``log`` calls whoever waits for the thing."""
        self._what: Final = what
        self._log: Final = log
        self._clock: Final = clock
        self._is_there = False

    async def wait(self, error: BaseException, attempt: int, *, longest_s: float = _PAUSES.max_s) -> None:
        """Wait before ``attempt``, 2 or more, is made, up to ``longest_s`` seconds."""
        if not self._is_there:
            self._is_there = True
            self._log.warning("%s waits, and tries again: %s: %s", self._what, type(error).__name__, error)
        share = _LEAST_SHARE + random.random() * (1 - _LEAST_SHARE)  # noqa: S311 - spreads load
        delay_s = _PAUSES.delay_before(attempt, jitter=share) or 0.0
        await pause(self._clock, min(delay_s, longest_s))

    def end(self) -> None:
        """Say that it goes on, where there was trouble."""
        if self._is_there:
            self._is_there = False
            self._log.info("%s goes on", self._what)
