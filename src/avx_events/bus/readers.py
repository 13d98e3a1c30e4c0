"""Tasks that wait for something to read."""

import asyncio
from collections import deque

from avx_events.core.errors import WrongLoopError


class Readers(deque["asyncio.Future[None]"]):
    """Those who wait, the longest first; a deque, since whoever has something to read asks first if it is empty.

    Attributes:
        loop: The event loop that they must be on; None is any, for tasks of the bus itself.
    """

    __slots__ = ("_what", "loop")

    def __init__(self, what: str) -> None:
        """Begin with nobody; errors call it ``what``."""
        super().__init__()
        self._what = what
        self.loop: asyncio.AbstractEventLoop | None = None

    def wake_one(self) -> None:
        """Let the one look who waited longest; harmless where nobody waits.

        Raises:
            WrongLoopError: It waits on an event loop that was closed.
        """
        while self:
            reader = self.popleft()
            if not reader.done():
                try:
                    reader.set_result(None)
                except RuntimeError as exc:
                    raise WrongLoopError(self._what, "wake its reader") from exc
                return

    async def wait(self) -> None:
        """Wait to be woken; look again then, another reader may be faster.

        Raises:
            WrongLoopError: Whoever publishes is on another event loop, and could not wake this one.
        """
        loop = asyncio.get_running_loop()
        if self.loop is not None and loop is not self.loop:
            raise WrongLoopError(self._what, "wait for an event")
        reader: asyncio.Future[None] = loop.create_future()
        self.append(reader)
        try:
            await reader
        except asyncio.CancelledError:
            if not reader.cancelled():
                self.wake_one()  # this reader was chosen and cannot come: pass it on
            elif reader in self:
                self.remove(reader)
            raise
