"""Which lanes of a consumer this member holds, and until when."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from avx_events.bus.remote.ports import Lane, OnRedrive, Withdrawal
from avx_events.bus.remote.redrives import decode_redrive
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.scripts import HOLD
from avx_events.distributed.redis.wire import packed

log = logging.getLogger("avx_events")

_LONGEST_BEAT_S: Final = 1.0
_BEATS_IN_A_LEASE: Final = 3


class Leases:
    """Renews what this member holds, takes what is free up to its share, and gives up what is past it.

    With each beat come the redrive requests that were made since the one before.

    Attributes:
        held: The lanes by number.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        members: str,
        owners: str,
        redrives: str,
        member: str,
        lanes: int,
        lease_s: float,
        clock: Clock,
        withdrawal: Withdrawal,
        on_change: Callable[[], None],
        on_redrive: OnRedrive | None,
    ) -> None:
        """Begin with none.

        Args:
            pipe: Where commands go.
            members: Key of the consumer's members.
            owners: Key of who holds which lane.
            redrives: Key of the requests to redrive the consumer's dead letters.
            member: Who this is.
            lanes: How many there are.
            lease_s: How long a lane is held after the last sign of life.
            clock: Time.
            withdrawal: Told of what is lost.
            on_change: Called when other lanes are held than before.
            on_redrive: Told of redrive requests; None where nobody wants to know.
        """
        self.held: dict[int, Lane] = {}
        self._pipe = pipe
        self._keys = (members, owners, redrives)
        self._member = member
        self._lanes = lanes
        self._lease_s = lease_s
        self._clock = clock
        self._withdrawal = withdrawal
        self._on_change = on_change
        self._on_redrive = on_redrive
        self._beaten_at = ""  # the server's microsecond of the last beat
        self._leaving: dict[int, Lane] = {}  # given up, but not done with yet
        self._released: list[int] = []
        self._beat_now = asyncio.Event()
        self._tasks = TaskScope()

    async def begin(self) -> None:
        """Hold what is there to hold, and go on.

        Raises:
            TransportUnavailableError: The server is away.
        """
        await self._beat()
        self._tasks.spawn(self._run(), name="avx-events redis: hold lanes")

    async def end(self) -> None:
        """Give back everything, and be no member any more."""
        await self._tasks.cancel()
        self.held.clear()
        await self._pipe.ask(self._command(is_leaving=True))

    async def _run(self) -> None:
        beat_s = min(_LONGEST_BEAT_S, self._lease_s / _BEATS_IN_A_LEASE)
        while True:
            try:
                async with asyncio.timeout(beat_s):
                    await self._beat_now.wait()
            except TimeoutError:
                pass
            self._beat_now.clear()
            try:
                await self._beat()
            except AvxEventsError as exc:
                log.warning("lanes are not renewed: %s", exc)
                self._lose_expired()

    async def _beat(self) -> None:
        until = self._clock.monotonic() + self._lease_s  # of before it is asked: the server counts from later on
        released, self._released = self._released, []
        try:
            beaten_at, redrives, share, *numbers = await self._pipe.ask(self._command(released=released))
        except BaseException:
            self._released = released + self._released
            raise
        self._beaten_at = str(beaten_at)
        self._tell_of(redrives)
        if until <= self._clock.monotonic():  # the answer took too long to be true still
            self._lose_expired()
            self._beat_now.set()
        else:
            self._hold(set(numbers), share, until)

    def _tell_of(self, redrives: Iterable[bytes]) -> None:
        for document in redrives:
            request = decode_redrive(document)
            if request is not None and self._on_redrive is not None:
                self._on_redrive(request)

    def _hold(self, numbers: set[int], share: int, until: float) -> None:
        before = dict(self.held)
        now = self._clock.monotonic()
        for number, lane in list(self.held.items()):
            if number not in numbers or lane.is_lost or lane.held_until <= now:  # others may have had it meanwhile
                self._withdrawal.lose(self.held.pop(number))
            else:
                lane.held_until = until
        for number in sorted(numbers - set(self.held) - set(self._leaving)):
            if len(self.held) < share:
                self.held[number] = Lane(number, held_until=until)
            else:
                self._release(number)
        for number in sorted(self.held)[share:]:
            lane = self._leaving[number] = self.held.pop(number)
            self._tasks.spawn(self._leave(lane), name="avx-events redis: give up a lane")
        for lane in self._leaving.values():
            lane.held_until = until
        if self.held != before:
            self._on_change()

    async def _leave(self, lane: Lane) -> None:
        await self._withdrawal.give_up(lane)
        del self._leaving[lane.number]
        self._release(lane.number)

    def _release(self, number: int) -> None:
        self._released.append(number)
        self._beat_now.set()

    def _lose_expired(self) -> None:
        now = self._clock.monotonic()
        expired = [number for number, lane in self.held.items() if lane.held_until <= now]
        for number in expired:
            self._withdrawal.lose(self.held.pop(number))
        if expired:
            self._on_change()

    def _command(self, *, released: "list[int] | tuple[()]" = (), is_leaving: bool = False) -> bytes:
        leaves = "1" if is_leaving else "0"
        arguments: list[Any] = [self._member, int(self._lease_s * 1000), self._lanes, leaves, self._beaten_at]
        return packed("EVAL", HOLD, len(self._keys), *self._keys, *arguments, *released)
