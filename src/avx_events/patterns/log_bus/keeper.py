"""Writes how far lanes are: those of a moment in one transaction."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope, wake
from avx_events.patterns.log_bus.held_lane import HeldLane
from avx_events.patterns.log_bus.rows import Rows

log = logging.getLogger("avx_events")

_PAUSE_S: Final = 0.2


class Keeper:
    """Keeps the positions of one consumer's lanes."""

    def __init__(
        self,
        rows: Rows,
        *,
        what: str,
        lease_s: float,
        reached: Callable[[], int],
        on_written: Callable[[], None],
        on_taken_away: Callable[[HeldLane], None],
    ) -> None:
        """Write nothing yet; ``begin`` does.

        Args:
            rows: Where to.
            what: What logs call the consumer.
            lease_s: How long the database lets a transaction of this process stand still.
            reached: Tells how far the log was read.
            on_written: Called when more events may be given than before.
            on_taken_away: Called with a lane that another member has.
        """
        self._rows: Final = rows
        self._what: Final = what
        self._lease_s: Final = lease_s
        self._reached: Final = reached
        self._on_written: Final = on_written
        self._on_taken_away: Final = on_taken_away
        self._stale: dict[HeldLane, None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._asked: Final = asyncio.Event()
        self._tasks: Final = TaskScope()

    def begin(self) -> None:
        """Write what is asked for, from now on."""
        self._tasks.spawn(self._run(), name=f"avx-events log bus: keep positions of {self._what}")

    def ask(self, lanes: Iterable[HeldLane]) -> None:
        """Have the positions of ``lanes`` written as they are then, soon."""
        self._stale.update(dict.fromkeys(held for held in lanes if not held.is_gone))
        if self._stale:
            self._asked.set()

    async def save(self, lanes: Iterable[HeldLane]) -> None:
        """Have the positions of ``lanes`` written as they are now; those that others hold are passed over.

        Raises:
            AvxEventsError: The database does not take them now; call again.
        """
        self.ask(lanes)
        if not self._stale:
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(written)
        await written

    async def close(self) -> None:
        """Write nothing more."""
        await self._tasks.cancel()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            wake(waiter)

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            stale, self._stale = self._stale, {}
            waiters, self._waiters = self._waiters, []
            try:
                await self._write(list(stale))
            except AvxEventsError as exc:
                self.ask(stale)
                log.warning("the positions of %s are not written yet: %s", self._what, exc)
                _fail(waiters, exc)
                await asyncio.sleep(_PAUSE_S)
            except BaseException:
                self._waiters = waiters + self._waiters
                raise
            else:
                for waiter in waiters:
                    wake(waiter)
                self._on_written()

    async def _write(self, lanes: list[HeldLane]) -> None:
        saved = [(held, held.saved(self._reached())) for held in lanes if not held.is_gone]
        taken_away = await self._rows.save([one for _, one in saved], lease_s=self._lease_s)
        for held, one in saved:
            if one in taken_away:
                held.is_gone = True
                self._on_taken_away(held)
            else:
                held.written(one)


def _fail(waiters: "list[asyncio.Future[None]]", error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # whoever asked may have stopped waiting, and then nobody complains
