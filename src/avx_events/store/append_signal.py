"""Wakes those who wait for the log to grow."""

import asyncio
from typing import Final

from avx_events.core.tasks import wake


class AppendSignal:
    """Knows how far this process has seen the log grow, and ends the waits of those who are not that far.

    Belongs to one loop. A waiter per subscription: as many as there are subscriptions, no more.
    """

    __slots__ = ("_closed", "_poll_s", "_position", "_waiters")

    def __init__(self, *, poll_s: float | None = None) -> None:
        """Begin at position 0.

        Args:
            poll_s: The longest wait in seconds, for logs that others append to as well; None waits for a call.
        """
        self._position = 0
        self._closed = False
        self._poll_s: Final = poll_s
        self._waiters: set[asyncio.Future[None]] = set()

    def announce(self, position: int) -> None:
        """Say that there is a record at ``position``."""
        self._position = max(self._position, position)
        self._wake()

    def close(self) -> None:
        """End all waits, those to come as well."""
        self._closed = True
        self._wake()

    async def wait(self, after: int) -> None:
        """Return once there is a record past ``after``, ``poll_s`` seconds have passed or the signal is closed."""
        if self._position > after or self._closed:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if self._poll_s is None else loop.call_later(self._poll_s, wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        for waiter in self._waiters:
            wake(waiter)
