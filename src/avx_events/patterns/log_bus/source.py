"""The events of a group's member: from its lanes, with everything that came before it first."""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from avx_events.bus.remote.ports import Consumer, Incoming, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import Changes
from avx_events.patterns.log_bus.held_lane import AHEAD, HeldLane, Receipt
from avx_events.patterns.log_bus.keeper import Keeper
from avx_events.patterns.log_bus.lanes import Lanes
from avx_events.patterns.log_bus.reader import LogReader
from avx_events.patterns.log_bus.records import key_of, lane_of
from avx_events.patterns.log_bus.rows import Rows
from avx_events.store.log_filter import log_filter
from avx_events.store.ports import LogFilter, LogPage, RecordTuple, StoreEngine

log = logging.getLogger("avx_events")

_MOST_AHEAD: Final = 1024
"""Events that are read and not given yet; the page that follows on so many is not read."""


class LogSource:
    """What a bus reads of one handler's lanes."""

    def __init__(
        self,
        engine: StoreEngine,
        rows: Rows,
        consumer: Consumer,
        *,
        lanes: int,
        lease_s: float,
        clock: Clock,
        withdrawal: Withdrawal,
    ) -> None:
        """Begin with no lanes; ``begin`` takes some.

        Args:
            engine: Whose log.
            rows: What the database knows of the consumer.
            consumer: Whose events.
            lanes: How many lanes it has.
            lease_s: How long a lane is held after the last sign of life.
            clock: Time.
            withdrawal: Told of lanes that go to others.
        """
        self._what: Final = f"{consumer.group}:{consumer.name}"
        self._event_classes: Final = consumer.event_classes
        self._count: Final = lanes
        self._changes: Final = Changes()
        self._ahead: deque[tuple[HeldLane, RecordTuple]] = deque()
        self._error: AvxEventsError | None = None
        self._is_closed = False
        self._reader: Final = LogReader(
            engine, what=self._what, wanted=self._wanted, on_page=self._put, on_error=self._failed
        )
        self._keeper: Final = Keeper(
            rows,
            what=self._what,
            lease_s=lease_s,
            reached=lambda: self._reader.reached,
            on_written=self._changes.tell,
            on_taken_away=lambda held: self._lanes.taken_away(held),  # noqa: PLW0108 - there are none yet
        )
        self._lanes: Final = Lanes(
            engine,
            rows,
            self._keeper,
            what=self._what,
            count=lanes,
            lease_s=lease_s,
            clock=clock,
            withdrawal=withdrawal,
            reached=lambda: self._reader.reached,
            on_taken=self._begin_again,
        )

    async def begin(self) -> None:
        """Take the lanes that are there to take, and read.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        self._keeper.begin()
        await self._lanes.begin()

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for events and return up to ``most``; see ``Source``."""
        while not (batch := self._take(most)):
            if self._error is not None:
                error, self._error = self._error, None
                self._reader.begin(self._reader.reached)
                raise error
            await self._changes.wait()
        return batch

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Have it written that events are done; see ``Source``."""
        receipts: list[Receipt] = [incoming.receipt for incoming in done]
        for held, record in receipts:
            held.progress.finish(record[0])
        await self._keeper.save({held for held, _ in receipts})
        for held, record in receipts:
            held.running.discard(record[0])

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Have the number of attempts written; see ``Source``."""
        held, record = incoming.receipt
        held.progress.count(record[0], attempts)
        await self._keeper.save([held])

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Know it no more; see ``Source``."""
        held, record = incoming.receipt
        held.running.discard(record[0])
        if not has_begun:  # whoever gets it then need not suspect that it ended this process
            held.progress.give_back(record[0])

    async def close(self) -> None:
        """Give back the lanes."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._reader.close()
        try:
            await self._lanes.end()
        except AvxEventsError as exc:
            log.warning("the lanes of %s are held until their time is up: %s", self._what, exc)
        finally:
            await self._keeper.close()

    # Reading

    def _wanted(self) -> LogFilter | None:
        """Return what to look for: a class may have got others that derive from it meanwhile."""
        return log_filter(self._event_classes, "")

    def _begin_again(self, taken: Sequence[HeldLane]) -> None:
        """Read on from where the least of the lanes is; what the others have had of that already they skip."""
        after = min(held.progress.done for held in taken)
        if self._reader.has_begun:
            after = min(after, self._reader.reached)
        again = [(held, record) for held in taken for record in held.again]
        # What follows is read again; what is open of it comes twice then, and is given once.
        kept = sorted([*(entry for entry in self._ahead if entry[1][0] <= after), *again], key=_position)
        for held, _ in self._ahead:
            held.waiting = 0
        self._ahead.clear()
        for held, record in kept:
            self._append(held, record)
        self._reader.begin(after)
        self._changes.tell()

    def _put(self, page: LogPage) -> bool:
        held_lanes = self._lanes.held
        for record in page.records:
            held = held_lanes.get(lane_of(key_of(record), self._count))
            if held is not None:
                self._append(held, record)
        if page.records:
            self._keeper.ask(held for held in held_lanes.values() if not held.may_give(page.reached + AHEAD // 2))
        self._changes.tell()
        return bool(held_lanes) and len(self._ahead) < _MOST_AHEAD

    def _append(self, held: HeldLane, record: RecordTuple) -> None:
        held.waiting += 1
        self._ahead.append((held, record))

    def _failed(self, error: AvxEventsError) -> None:
        self._error = error
        self._changes.tell()

    # Giving

    def _take(self, most: int) -> list[Incoming]:
        """Return what is here and may be given, in the order of the log."""
        batch: list[Incoming] = []
        while len(batch) < most and self._ahead:
            held, record = self._ahead[0]
            if not held.lane.is_lost:
                if not self._lanes.is_held(held):  # until the next beat nobody knows
                    break
                if not held.may_give(record[0]):
                    self._keeper.ask(self._lanes.held.values())
                    break
            self._ahead.popleft()
            held.waiting -= 1
            incoming = None if held.lane.is_lost else held.take(record)
            if incoming is not None:
                batch.append(incoming)
        if len(self._ahead) < _MOST_AHEAD // 2:
            self._reader.go_on()
        return batch


def _position(entry: tuple[HeldLane, RecordTuple]) -> int:
    return entry[1][0]
