"""Holds publishers back while as much is on its way to a broker as may be."""

import asyncio
from collections import deque
from collections.abc import Callable


class Gate:
    """Lets publishers in while there is room for another event, first come first served.

    Attributes:
        waiting: Those who wait, in turn.
    """

    __slots__ = ("_has_room", "waiting")

    def __init__(self, has_room: Callable[[], bool]) -> None:
        """Begin with nobody waiting; ``has_room`` tells whether one more may come in."""
        self._has_room = has_room
        self.waiting: deque[asyncio.Event] = deque()

    @property
    def is_shut(self) -> bool:
        """Whether whoever comes now has to wait: there is no room, or others came first."""
        return bool(self.waiting) or not self._has_room()

    async def wait(self) -> None:
        """Return when it is the caller's turn and there is room."""
        turn = asyncio.Event()
        self.waiting.append(turn)
        try:
            while not (self.waiting[0] is turn and self._has_room()):
                turn.clear()
                await turn.wait()
        finally:
            self.waiting.remove(turn)
            self.let_in()

    def let_in(self) -> None:
        """Let the first in line look, where there is room; whoever comes in lets the next one look."""
        if self.waiting and self._has_room():
            self.waiting[0].set()
