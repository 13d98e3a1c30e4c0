"""Which lanes of a consumer this member holds, and how they come and go."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from avx_events.bus.remote import position as positions
from avx_events.bus.remote.ports import Consumer, Lane, OnRedrive, Withdrawal
from avx_events.bus.remote.position import Position, Progress, first_position
from avx_events.bus.remote.redrives import decode_redrive
from avx_events.bus.remote.shares import plan
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.nats.frames import Message
from avx_events.distributed.nats.held_lane import AHEAD, HeldLane
from avx_events.distributed.nats.jetstream import ConflictError, JetStream, Stored, StreamInfo
from avx_events.distributed.nats.membership import Membership
from avx_events.distributed.nats.names import Names, bucket_stream
from avx_events.distributed.nats.reader import Entry, Reader, Readers
from avx_events.distributed.nats.wire import Wire

log = logging.getLogger("avx_events")

_LONGEST_BEAT_S: Final = 1.0
_BEATS_IN_A_LIFE: Final = 3
_PAUSE_S: Final = 0.2
_MOST_ENTRIES: Final = 1024
_LEAST_OF_A_LANE: Final = 64


class Lanes:
    """Beats, takes lanes that nobody holds up to this member's share, and gives those past it.

    Meanwhile it listens to requests to redrive the handler's dead letters.

    Attributes:
        held: The lanes by number.
    """

    def __init__(
        self,
        wire: Wire,
        jetstream: JetStream,
        readers: Readers,
        names: Names,
        consumer: Consumer,
        *,
        life_s: float,
        clock: Clock,
        withdrawal: Withdrawal,
        on_change: Callable[[], None],
    ) -> None:
        """Begin with none.

        Args:
            wire: The connection.
            jetstream: What keeps positions.
            readers: What gives entries.
            names: Of the namespace.
            consumer: Whose lanes.
            life_s: How long a lane is held after the last sign of life.
            clock: Time.
            withdrawal: Told of what is lost.
            on_change: Called when there may be entries that were not there before.
        """
        self.held: dict[int, HeldLane] = {}
        self._jetstream = jetstream
        self._readers = readers
        self._names = names
        self._start = consumer.start
        self._consumer = names.consumer(consumer.group or "", consumer.name)
        self._what = f"{consumer.group}:{consumer.name}"
        self._stream = bucket_stream(names.groups)
        self._life_s = life_s
        self._clock = clock
        self._withdrawal = withdrawal
        self._on_change = on_change
        self._leaving: dict[int, HeldLane] = {}  # given, but not done with yet
        self._lost: dict[int, HeldLane] = {}
        self._until = 0.0
        self._beat_at = 0.0
        self._is_beat_stale = False
        self._must_look = False
        self._look_now = asyncio.Event()
        self._tasks = TaskScope()
        self._wire = wire
        self._membership = Membership(
            wire,
            jetstream,
            self._consumer,
            names.groups,
            life_s=life_s,
            clock=clock,
            on_change=self._look_now.set,
        )
        self._on_redrive = consumer.on_redrive
        self._redrives = names.redrives(consumer.group or "", consumer.name)
        wire.watch(on_up=self._reconnected, on_down=self._look_now.clear)

    async def begin(self) -> None:
        """Have a position on each lane, hold what is there to hold, and go on.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        await self._jetstream.make_bucket(self._names.groups)
        await self._have_positions()
        self._beat_at = self._clock.monotonic()
        self._until = self._beat_at + self._life_s
        if self._on_redrive is not None:
            self._wire.listen(self._redrives, partial(_take_redrive, self._on_redrive))
        await self._membership.begin()
        await self._change()
        self._tasks.spawn(self._run(), name=f"avx-events nats: hold lanes of {self._what}")

    async def end(self) -> None:
        """Give back everything, and be no member any more.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        self._wire.unwatch(on_up=self._reconnected, on_down=self._look_now.clear)
        await self._wire.ignore(self._redrives)
        await self._tasks.cancel()
        held = [*self.held.values(), *self._leaving.values()]
        self.held.clear()
        self._leaving.clear()
        try:
            await all_of(
                [self._tasks.spawn(one.close_reader(), name="avx-events nats: close a reader") for one in held]
            )
            await all_of([one.release() for one in held])
            await self._membership.end()
        finally:
            await self._tasks.cancel()

    def is_held(self, held: HeldLane) -> bool:
        """Tell whether a lane is still held, as far as this process can know."""
        return not held.lane.is_lost and held.lane.held_until > self._clock.monotonic()

    # Beats

    async def _run(self) -> None:
        beat_s = min(_LONGEST_BEAT_S, self._life_s / _BEATS_IN_A_LIFE)
        while True:
            try:
                async with asyncio.timeout(max(self._beat_at + beat_s - self._clock.monotonic(), 0)):
                    await self._look_now.wait()
            except TimeoutError:
                self._is_beat_stale = True
            self._look_now.clear()
            try:
                if self._must_look:
                    await self._membership.look()
                    self._must_look = False
                if self._is_beat_stale:
                    await self._beat()
                    await self._membership.bury()
                await self._change()
            except AvxEventsError as exc:
                log.warning("the lanes of %s are not renewed: %s", self._what, exc)
                self._lose_expired()
                await asyncio.sleep(beat_s / 2)

    async def _beat(self) -> None:
        now = self._beat_at = self._clock.monotonic()
        self._is_beat_stale = False
        was_alive = await self._membership.beat(tuple(sorted([*self.held, *self._leaving])))
        self._lose_expired()
        if not was_alive:
            log.warning("%s: others took this member for dead, and may have its lanes", self._what)
            await all_of([held.save() for held in self.held.values()])  # those that they have are lost by this
        self._until = now + self._life_s  # of before it was sent: others count from later on
        for held in (*self.held.values(), *self._leaving.values()):
            held.lane.held_until = max(held.lane.held_until, self._until)
            held.allow()

    def _lose_expired(self) -> None:
        """Lose what others may have had meanwhile."""
        if self._until <= self._clock.monotonic():
            self._lose(list(self.held))

    def _lose(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            held = self._lost[number] = self.held.pop(number)
            self._withdrawal.lose(held.lane)
            held.lose()
            self._close_reader(held)
            self._is_beat_stale = True
        self._on_change()

    def _taken_away(self, held: HeldLane) -> None:
        number = held.lane.number
        log.warning("%s: another member holds lane %d", self._what, number)
        if self.held.get(number) is held:
            self._lose([number])
        else:  # it was being given
            self._withdrawal.lose(held.lane)
            held.lose()
        self._look_now.set()

    def _reset(self, number: int, reader: Reader) -> None:
        """Begin anew with a lane whose stream is not as it was."""
        held = self.held.get(number)
        if held is not None and held.reader is reader:
            self._lose([number])
            self._look_now.set()

    def _reconnected(self) -> None:
        self._membership.be_patient()
        self._must_look = self._is_beat_stale = True
        self._look_now.set()

    # What comes and goes

    async def _change(self) -> None:
        """Take what is missing, give what is too much, and tell the others."""
        member = self._membership.name
        todo = plan(member, self.held, self._leaving, self._membership.others(), lanes=len(self._names.lanes))
        for number in todo.give:
            held = self._leaving[number] = self.held.pop(number)
            self._tasks.spawn(self._leave(held), name=f"avx-events nats: give lane {number} of {self._what}")
        if todo.take:
            await self._take(todo.take)
        for number in todo.rest:
            await self._release_forgotten(number)
        if self._is_beat_stale:
            await self._beat()

    async def _leave(self, held: HeldLane) -> None:
        await self._withdrawal.give_up(held.lane)
        await held.close_reader()
        while True:
            try:
                await held.release()
            except AvxEventsError as exc:
                log.warning("lane %d of %s is not released yet: %s", held.lane.number, self._what, exc)
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        held.lose()
        del self._leaving[held.lane.number]
        self._is_beat_stale = True
        self._look_now.set()

    async def _take(self, numbers: Iterable[int]) -> None:
        """Hold those of ``numbers`` that nobody holds."""
        found: dict[int, tuple[Stored | None, Position | None]] = {}
        for number in numbers:
            stored = await self._jetstream.last_of(self._stream, self._subject(number))
            position = None if stored is None or stored.is_deleted else positions.decode(stored.data)
            if position is None or await self._is_free(position.member):
                found[number] = (stored, position)
        if not found:
            return
        info = await self._readers.log.look()
        claims: list[tuple[HeldLane, asyncio.Future[int]]] = []
        for number, (stored, position) in found.items():
            claims.append(self._claim(number, stored, position, info))
        await asyncio.wait([written for _, written in claims])
        for held, written in claims:
            if (error := written.exception()) is None:
                held.claimed(written.result())
                await self._serve(held, info, share=len(claims))
            elif not isinstance(error, ConflictError):
                raise error
        self._on_change()

    async def _release_forgotten(self, number: int) -> None:
        """Release a lane that this member has lost, and that nobody has taken since."""
        stored = await self._jetstream.last_of(self._stream, self._subject(number))
        position = None if stored is None else positions.decode(stored.data)
        if stored is not None and position is not None and position.member == self._membership.name:
            position.member = ""
            try:
                await self._jetstream.write(self._subject(number), positions.encode(position), expected=stored.seq)
            except ConflictError:
                return
            self._is_beat_stale = True  # so that others look again

    async def _is_free(self, member: str) -> bool:
        return member in {"", self._membership.name} or await self._membership.is_gone(member)

    def _claim(
        self, number: int, stored: Stored | None, position: Position | None, info: StreamInfo
    ) -> "tuple[HeldLane, asyncio.Future[int]]":
        last = info.state.last_seq
        if position is None:  # it is gone, or was overwritten: what was not handled cannot be told from what was
            log.error(
                "the position of %s in lane %d is lost; it goes on with the first event that is kept",
                self._what,
                number,
            )
            position = first_position("earliest", log=info.created, last=last)
        if position.log == info.created and position.done > last:
            log.error(
                "the server lost events up to %d: lane %d of %s goes on behind %d",
                position.done,
                number,
                self._what,
                last,
            )
        progress = Progress(position, log=info.created, last=last)
        before = self._lost.pop(number, None)
        if before is not None and stored is not None and before.number == stored.seq:
            progress.learn(before.progress)
        progress.given = last + AHEAD
        held = HeldLane(
            Lane(number, held_until=self._until),
            progress,
            member=self._membership.name,
            subject=self._subject(number),
            stream=self._stream,
            jetstream=self._jetstream,
            tasks=self._tasks,
            on_written=self._on_change,
            on_taken_away=self._taken_away,
        )
        claim = positions.encode(progress.position(self._membership.name))
        expected = 0 if stored is None else stored.seq
        return held, self._jetstream.write(self._subject(number), claim, expected=expected)

    async def _serve(self, held: HeldLane, info: StreamInfo, *, share: int) -> None:
        """Hold a lane that was claimed, with what is to be had again first."""
        number = held.lane.number
        for entry in held.progress.again:
            stored = await self._jetstream.message(self._names.log, entry)
            if stored is None:
                log.error(
                    "%s lost event %d of lane %d: it was deleted before it was handled", self._what, entry, number
                )
                held.progress.finish(entry)
            else:
                held.again.append(Entry(entry, stored.data, stored.headers))
        reader = Reader(
            self._readers,
            self._names.lanes[number],
            after=held.progress.done,
            created=info.created,
            most=max(_MOST_ENTRIES // share, _LEAST_OF_A_LANE),
            share=share,
            on_entry=self._on_change,
            on_reset=lambda: self._reset(number, reader),
        )
        held.reader = reader
        self.held[number] = held
        self._is_beat_stale = True
        self._readers.add(reader)

    def _close_reader(self, held: HeldLane) -> None:
        self._tasks.spawn(held.close_reader(), name="avx-events nats: close a reader")

    async def _have_positions(self) -> None:
        """Begin where the group is new; where it is not, it goes on."""
        info = await self._readers.log.look()
        position = positions.encode(first_position(self._start, log=info.created, last=info.state.last_seq))
        writes = [
            self._jetstream.write(self._subject(number), position, expected=0)
            for number in range(len(self._names.lanes))
        ]
        await all_of(writes, but=ConflictError)

    def _subject(self, number: int) -> str:
        return f"{self._consumer}.position.{number}"


def _take_redrive(on_redrive: OnRedrive, message: Message) -> None:
    request = decode_redrive(message.data)
    if request is not None:
        on_redrive(request)


async def all_of(futures: "Sequence[asyncio.Future[Any]]", *, but: type[Exception] | tuple[()] = ()) -> None:
    """Wait for all, then raise the first error that is none of ``but``."""
    if futures:
        await asyncio.wait(futures)
    for error in [future.exception() for future in futures]:
        if error is not None and not isinstance(error, but):
            raise error
