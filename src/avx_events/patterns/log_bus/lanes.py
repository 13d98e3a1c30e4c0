"""Which lanes of a consumer this member holds, and how they come and go.

| a lane | what this member does with it |
|---|---|
| held | gives its events, for as long as its beats are written in time |
| leaving | finishes what runs of it, and then says that it is free: another member is to have it |
| lost | begins nothing more of it, and acknowledges what still ends, unless another member has taken it |

A lane that is lost is not taken again here before nothing of it runs any more: its order would be lost.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final
from uuid import uuid4

from avx_events.bus.remote.ports import Lane, Withdrawal
from avx_events.bus.remote.shares import plan
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError
from avx_events.core.tasks import TaskScope
from avx_events.patterns.log_bus.held_lane import HeldLane
from avx_events.patterns.log_bus.keeper import Keeper
from avx_events.patterns.log_bus.rows import Rows, Standing, TakenLane
from avx_events.patterns.pause import pause
from avx_events.store.ports import PAGE_EVENTS, RecordTuple, StoreEngine

log = logging.getLogger("avx_events")

_BEATS_IN_A_LEASE: Final = 3
_LONGEST_LOOK_S: Final = 1.0
_SHORTEST_LOOK_S: Final = 0.1
"""How often a member looks for lanes that it lacks."""

_PAUSE_S: Final = 0.2


class Lanes:
    """Beats, takes lanes that nobody holds up to this member's share, and gives those past it.

    Attributes:
        held: The lanes by number.
    """

    def __init__(
        self,
        engine: StoreEngine,
        rows: Rows,
        keeper: Keeper,
        *,
        what: str,
        count: int,
        lease_s: float,
        clock: Clock,
        withdrawal: Withdrawal,
        reached: Callable[[], int],
        on_taken: Callable[[Sequence[HeldLane]], None],
    ) -> None:
        """Begin with none.

        Args:
            engine: Whose log.
            rows: Where it is written who holds them.
            keeper: What writes how far they are.
            what: What logs call the consumer.
            count: How many there are.
            lease_s: How long a lane is held after the last sign of life.
            clock: Time.
            withdrawal: Told of what is lost.
            reached: Tells how far the log was read.
            on_taken: Called with lanes that are held from now on.
        """
        self.held: dict[int, HeldLane] = {}
        self._engine: Final = engine
        self._rows: Final = rows
        self._keeper: Final = keeper
        self._what: Final = what
        self._count: Final = count
        self._lease_s: Final = lease_s
        self._clock: Final = clock
        self._withdrawal: Final = withdrawal
        self._reached: Final = reached
        self._on_taken: Final = on_taken
        self._member: Final = uuid4().hex
        self._leaving: dict[int, HeldLane] = {}
        self._lost: dict[int, HeldLane] = {}
        self._seen = Standing({}, {})
        self._dead_at = 0.0
        self._beat_at = 0.0
        self._until = 0.0
        self._is_lacking = False
        self._must_beat = False
        self._must_look: Final = asyncio.Event()
        self._tasks: Final = TaskScope()

    async def begin(self) -> None:
        """Hold what is there to hold, and go on.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        await self._beat()
        self._tasks.spawn(self._run(), name=f"avx-events log bus: hold lanes of {self._what}")

    async def end(self) -> None:
        """Give back everything, and be no member any more.

        Raises:
            AvxEventsError: As ``EventStore.transaction``.
        """
        await self._tasks.cancel()
        given_back = [*self.held.values(), *self._leaving.values()]
        for held in given_back:
            held.stop_reading(self._reached())
            held.is_released = True
        self.held.clear()
        await self._keeper.save(given_back)
        await self._rows.save((), lease_s=self._lease_s, leaving=self._member)

    def is_held(self, held: HeldLane) -> bool:
        """Tell whether a lane is still held, as far as this process can know."""
        return held.lane.held_until > self._clock.monotonic()

    def taken_away(self, held: HeldLane) -> None:
        """Know that another member has taken a lane."""
        number = held.lane.number
        log.warning("%s: another member has taken lane %d", self._what, number)
        if self.held.get(number) is held:
            self._lose([number])
        else:
            self._withdrawal.lose(held.lane)

    # Beats

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                if await self._is_time():
                    await self._beat()
            except ClosedError:
                self._lose(list(self.held))
                return
            except AvxEventsError as exc:
                log.warning("the lanes of %s are not renewed: %s", self._what, exc)
                self._lose_expired()
                self._must_beat = True
                await pause(self._clock, _PAUSE_S)

    async def _wait(self) -> None:
        """Wait until it is worth looking again."""
        delay_s = min(_LONGEST_LOOK_S, self._lease_s / _BEATS_IN_A_LEASE)
        timer = self._clock.call_later(_SHORTEST_LOOK_S if self._is_lacking else delay_s, self._must_look.set)
        try:
            await self._must_look.wait()
        finally:
            timer.cancel()
        self._must_look.clear()

    async def _is_time(self) -> bool:
        """Tell whether a beat is due, or others have come, gone or changed what they hold."""
        now = self._clock.monotonic()
        if self._must_beat or now >= min(self._beat_at + self._lease_s / _BEATS_IN_A_LEASE, self._dead_at):
            return True
        return not self._seen.is_as(await self._rows.look())

    async def _beat(self) -> None:
        """Say that this member lives, and come closer to its share, in one step that no other member comes between."""
        before = self._clock.monotonic()  # the database counts from later on
        self._must_beat = False
        async with self._rows.changing(lease_s=self._lease_s) as connection:
            seen, now_us = await self._rows.beat(connection, self._member, lease_s=self._lease_s)
            stolen = [number for number, held in self.held.items() if seen.holders.get(number) != self._own(held)]
            held = self.held.keys() - set(stolen)
            busy = {*self._leaving, *self._lost_and_running()}
            todo = plan(self._member, held, busy, seen.others(self._member), lanes=self._count)
            taken = await self._rows.take(connection, self._member, todo.take)
            unused = [number for number in seen.holders if self._is_unused(number, seen, held, todo.take)]
            await self._rows.free(connection, self._member, unused)
        self._know(seen, taken, unused, before=before, now_us=now_us)
        self._lose(stolen)
        self._lose_expired()
        self._until = before + self._lease_s
        for one in (*self.held.values(), *self._leaving.values()):
            one.lane.held_until = self._until
        self._keep_moved()
        for number in todo.give:
            if number in self.held:
                self._give(number)
        if taken:
            await self._serve(taken)

    def _keep_moved(self) -> None:
        """Have it written where a lane moved on without anything that was acknowledged."""
        for held in self.held.values():
            held.pass_over(self._reached())
        self._keeper.ask(held for held in self.held.values() if held.has_moved())

    def _own(self, held: HeldLane) -> tuple[str, int]:
        return self._member, held.token

    def _lost_and_running(self) -> Collection[int]:
        self._lost = {number: held for number, held in self._lost.items() if held.running}
        return self._lost.keys()

    def _is_unused(self, number: int, seen: Standing, held: Collection[int], take: Collection[int]) -> bool:
        """Tell whether a lane is this member's in name only."""
        is_own = seen.holders[number][0] == self._member
        return is_own and not (number in held or number in self._leaving or number in take)

    def _know(
        self, seen: Standing, taken: Mapping[int, TakenLane], unused: Iterable[int], *, before: float, now_us: int
    ) -> None:
        """Remember what others see now, to see what they change."""
        for number, lane in taken.items():
            seen.holders[number] = (self._member, lane.token)
        for number in unused:
            seen.holders[number] = ("", seen.holders[number][1])
        self._seen, self._beat_at = seen, before
        first_us = min(seen.members.values())
        self._dead_at = before + max((first_us - now_us) / 1_000_000, 0.0)
        self._is_lacking = len(self.held) + len(taken) < self._count // len(seen.members)

    # What comes and goes

    async def _serve(self, taken: Mapping[int, TakenLane]) -> None:
        """Hold lanes that were taken, with what is to be had again first."""
        last = await self._engine.last_position()  # whoever held one before can have been given nothing past this
        lanes = [HeldLane(Lane(number, held_until=self._until), lane, last=last) for number, lane in taken.items()]
        await self._find_again(lanes)
        self.held.update((held.lane.number, held) for held in lanes)
        self._on_taken(lanes)

    async def _find_again(self, lanes: Sequence[HeldLane]) -> None:
        """Read what is open before what is done."""
        wanted = sorted({number for held in lanes for number in held.progress.again})
        found: dict[int, RecordTuple] = {}
        while wanted:
            page = await self._engine.read_all(after=wanted[0] - 1, limit=PAGE_EVENTS)
            found.update((record[0], record) for record in page.records)
            reached = max(page.reached, wanted[0])
            wanted = [number for number in wanted if number > reached]
        for held in lanes:
            held.again = [found[number] for number in held.progress.again if number in found]
            for number in [number for number in held.progress.again if number not in found]:
                log.error("%s lost event %d of lane %d: it is not in the log", self._what, number, held.lane.number)
                held.progress.finish(number)

    def _give(self, number: int) -> None:
        held = self._leaving[number] = self.held.pop(number)
        held.stop_reading(self._reached())
        self._tasks.spawn(self._leave(held), name=f"avx-events log bus: give lane {number} of {self._what}")

    async def _leave(self, held: HeldLane) -> None:
        await self._withdrawal.give_up(held.lane)
        held.is_released = True
        while True:
            try:
                await self._keeper.save([held])
            except AvxEventsError as exc:
                log.warning("lane %d of %s is not released yet: %s", held.lane.number, self._what, exc)
                await pause(self._clock, _PAUSE_S)
            else:
                break
        del self._leaving[held.lane.number]

    def _lose(self, numbers: Iterable[int]) -> None:
        for number in [number for number in numbers if number in self.held]:
            held = self._lost[number] = self.held.pop(number)
            held.stop_reading(self._reached())
            self._withdrawal.lose(held.lane)
            self._must_beat = True
        if self._must_beat:
            self._must_look.set()

    def _lose_expired(self) -> None:
        """Lose what others may have had meanwhile, and what was dropped here since."""
        if self._until <= self._clock.monotonic():
            self._lose(list(self.held))
