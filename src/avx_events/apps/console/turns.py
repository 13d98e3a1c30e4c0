"""Long work in turns: a service in which a console is mounted has its handlers and leases on the same loop."""

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, TypeVar

ItemT = TypeVar("ItemT")
MadeT = TypeVar("MadeT")

LONGEST_TURN_S: Final = 0.02


class Turns:
    """Gives others on the loop a turn, now and then."""

    def __init__(self) -> None:
        """Begin a turn."""
        self._began_s = monotonic()

    async def rest(self) -> None:
        """Let others go on, if this turn has taken long."""
        if monotonic() - self._began_s > LONGEST_TURN_S:
            await asyncio.sleep(0)
            self._began_s = monotonic()


async def in_turns(make: Callable[[ItemT], MadeT], items: Iterable[ItemT]) -> list[MadeT]:
    """Return what ``make`` makes of each of ``items``; others go on between two of them."""
    turns = Turns()
    made: list[MadeT] = []
    for item in items:
        made.append(make(item))
        await turns.rest()
    return made
