"""Tasks that wait for something to read."""

import asyncio
from collections import deque


class Readers(deque["asyncio.Future[None]"]):
    """Those who wait, the longest first; a deque, since whoever has something to read asks first if it is empty."""

    __slots__ = ()

    def wake_one(self) -> None:
        """Let the one look who waited longest; harmless where nobody waits.

        Raises:
            RuntimeError: It waits on an event loop that was closed.
        """
        while self:
            reader = self.popleft()
            if not reader.done():
                reader.set_result(None)
                return

    async def wait(self) -> None:
        """Wait to be woken; look again then, another reader may be faster."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.append(reader)
        try:
            await reader
        except asyncio.CancelledError:
            if not reader.cancelled():
                self.wake_one()  # this reader was chosen and cannot come: pass it on
            elif reader in self:
                self.remove(reader)
            raise
