"""A lane that a member holds, or has held and works on still."""

from typing import TYPE_CHECKING, Final, NamedTuple

from avx_events.bus.remote.ports import Incoming, Lane
from avx_events.bus.remote.position import Progress
from avx_events.patterns.log_bus.records import key_of
from avx_events.patterns.log_bus.rows import SavedLane, TakenLane
from avx_events.store.ports import RecordTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

AHEAD: Final = 1024
"""How far past what was read a position allows events to be given, so that it is not written before each of them."""


class Receipt(NamedTuple):
    """What a source knows an event by."""

    held: "HeldLane"
    record: RecordTuple


class HeldLane:
    """One lane, from when it was taken; what its handler was given is acknowledged here, whoever holds it by then.

    Attributes:
        lane: What the bus knows it by.
        token: What it was taken with: what is written with an older one is refused.
        progress: How far it is.
        again: What is to be had before what follows on what is done, in the order of the log.
        running: The positions of what was given and is neither acknowledged nor given back.
        waiting: How many of its events were read and not given yet.
        is_read: Whether what is read of the log comes here.
        is_gone: Whether another member has taken it.
        is_released: Whether it is written that nobody holds it.
    """

    def __init__(self, lane: Lane, taken: TakenLane, *, last: int) -> None:
        """Go on from where it was when it was taken.

        Args:
            lane: What the bus knows it by.
            taken: How it was.
            last: The last position of the log. What comes later was given to nobody.
        """
        self.lane: Final = lane
        self.token: Final = taken.token
        self.progress: Final = Progress(taken.position, log="", last=last)
        self.again: Sequence[RecordTuple] = ()
        self.running: set[int] = set()
        self.waiting = 0
        self.is_read = True
        self.is_gone = False
        self.is_released = False
        self._may_give_to = self.progress.given
        self._written = taken.position.done

    def may_give(self, position: int) -> bool:
        """Tell whether it is written that the event at this position may have been given."""
        return position <= self._may_give_to

    def take(self, record: RecordTuple) -> Incoming | None:
        """Return an event for the handler; None where it was given, or is done."""
        position = record[0]
        if not self.progress.take(position) or position in self.running:
            return None
        self.running.add(position)
        known = self.progress.attempts(position)
        return Incoming(
            self.lane,
            Receipt(self, record),
            record[7],
            record[5],
            attempts=known or 0,
            is_redelivered=known is None,
            key=key_of(record),
        )

    def pass_over(self, reached: int) -> None:
        """Know that the log was read up to ``reached``: there is nothing for the handler but what came here."""
        if self.is_read and not self.waiting:
            self.progress.pass_over(reached)

    def stop_reading(self, reached: int) -> None:
        """Know that nothing comes here that is past ``reached``; what waits is left to who holds the lane next."""
        self.pass_over(reached)
        self.is_read = False

    def has_moved(self) -> bool:
        """Tell whether more is done than is written."""
        return self.progress.done > self._written

    def saved(self, reached: int) -> SavedLane:
        """Return what is to be written, where the log was read to ``reached``."""
        self.pass_over(reached)
        if self.is_released:
            return SavedLane(self.lane.number, self.token, self.progress.released(), is_released=True)
        if self.is_read:
            self.progress.given = max(self.progress.given, reached + AHEAD)
        return SavedLane(self.lane.number, self.token, self.progress.position(""))

    def written(self, saved: SavedLane) -> None:
        """Know that ``saved`` is written."""
        self._may_give_to, self._written = saved.position.given, saved.position.done
