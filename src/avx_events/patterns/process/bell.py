"""Wakes those who wait for something to be otherwise, also where that came between their look and their wait."""

from typing import Final

from avx_events.core.tasks import Changes


class Bell:
    """Counts the changes that it tells of.

    Attributes:
        rung: How often it was rung.
    """

    def __init__(self) -> None:
        """Begin silent."""
        self._changes: Final = Changes()
        self.rung = 0

    def ring(self) -> None:
        """Tell of a change."""
        self.rung += 1
        self._changes.tell()

    async def wait(self, heard: int) -> None:
        """Return when it has been rung more often than ``heard``."""
        while self.rung <= heard:
            await self._changes.wait()
