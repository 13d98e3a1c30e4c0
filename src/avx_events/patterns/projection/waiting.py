"""Those who wait for a projection to come to a position."""

import asyncio

from avx_events.core.tasks import wake


class Waiters:
    """Waits that end with the position, or with the projection."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._waiters: set[tuple[int, asyncio.Future[None]]] = set()

    def wake_until(self, position: int) -> None:
        """Let those go on who wait for ``position`` or an earlier one."""
        for wanted, waiter in self._waiters:
            if wanted <= position:
                wake(waiter)

    def wake_all(self) -> None:
        """Let all look again."""
        for _, waiter in self._waiters:
            wake(waiter)

    async def wait_for(self, position: int, *, timeout_s: float) -> bool:
        """Return True when woken; False where that takes longer than ``timeout_s`` seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add((position, waiter))
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard((position, waiter))
        return True
