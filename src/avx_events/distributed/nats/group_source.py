"""The events of a group's member: from its lanes, with everything that came before it first."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeAlias

from avx_events.bus.remote.ports import Incoming
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import wake
from avx_events.distributed.nats.held_lane import HeldLane
from avx_events.distributed.nats.lanes import Lanes, all_of

log = logging.getLogger("avx_events")

Receipt: TypeAlias = tuple[HeldLane, int]
"""A lane while it is held, and the number of an entry in the stream."""


class GroupSource:
    """What a bus reads of one handler's lanes."""

    def __init__(self, name: str) -> None:
        """Begin with no lanes; ``hold`` gives them. ``name`` is what logs call the consumer."""
        self._name = name
        self._lanes: Lanes | None = None
        self._running: set[tuple[int, str, int]] = set()  # lane, stream, number: out here, not acknowledged
        self._waiter: asyncio.Future[None] | None = None
        self._turn = 0

    async def hold(self, lanes: Lanes) -> None:
        """Read ``lanes``.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        self._lanes = lanes
        await lanes.begin()

    def look(self) -> None:
        """Let the one look again who waits for entries."""
        if self._waiter is not None:
            wake(self._waiter)

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for entries and return up to ``most``; see ``Source``."""
        while not (batch := self._take(most)):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return batch

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Have it written that entries are done; see ``Source``."""
        touched: set[HeldLane] = set()
        for incoming in done:
            held = self._holder(incoming)
            if held is not None:
                held.progress.finish(incoming.receipt[1])
                touched.add(held)
        await all_of([held.save() for held in touched])
        for incoming in done:
            self._forget(incoming)

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Have the number of attempts written; see ``Source``."""
        held = self._holder(incoming)
        if held is not None:
            held.progress.count(incoming.receipt[1], attempts)
            await held.save()

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Know it no more; see ``Source``."""
        self._forget(incoming)
        if not has_begun:  # whoever gets it then need not suspect that it ended this process
            held, number = incoming.receipt
            held.progress.give_back(number)

    async def close(self) -> None:
        """Give back the lanes."""
        if self._lanes is not None:
            try:
                await self._lanes.end()
            except AvxEventsError as exc:
                log.warning("the lanes of %s are held until their time is up: %s", self._name, exc)

    def _take(self, most: int) -> list[Incoming]:
        """Return what is here and may be given, from each lane in turn."""
        lanes = self._lanes
        held_lanes = [] if lanes is None else list(lanes.held.values())
        if lanes is None or not held_lanes:
            return []
        self._turn = (self._turn + 1) % len(held_lanes)
        batch: list[Incoming] = []
        for held in held_lanes[self._turn :] + held_lanes[: self._turn]:
            if len(batch) < most and lanes.is_held(held):
                self._take_of(held, batch, most)
        return batch

    def _take_of(self, held: HeldLane, batch: list[Incoming], most: int) -> None:
        number, stream = held.lane.number, held.progress.log
        while len(batch) < most and (entry := held.next_entry()) is not None:
            running = (number, stream, entry.number)
            # It may be here: the lane came back while a handler still runs.
            if held.progress.take(entry.number) and running not in self._running:
                self._running.add(running)
                batch.append(held.incoming(entry))
        if held.reader is not None:
            held.reader.pull()

    def _forget(self, incoming: Incoming) -> None:
        held, number = incoming.receipt
        self._running.discard((held.lane.number, held.progress.log, number))

    def _holder(self, incoming: Incoming) -> HeldLane | None:
        """Return what holds the lane of an entry now: what it came through, or what has held it since."""
        held: HeldLane = incoming.receipt[0]
        if not held.is_gone:
            return held
        now = None if self._lanes is None else self._lanes.held.get(held.lane.number)
        return now if now is not None and now.progress.log == held.progress.log else None
