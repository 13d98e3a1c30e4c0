"""Tells those who found their lanes empty when there is something new."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from avx_events.core.errors import TransportRefusedError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.redis.names import Names
from avx_events.distributed.redis.wire import Servers, WireError, packed

log = logging.getLogger("avx_events")

EntryId = tuple[int, int]

_BLOCK_MS: Final = 5000
_ANSWERS_WITHIN_S: Final = _BLOCK_MS / 1000 + 10
_PAUSE_S: Final = 0.2
_NEVER: Final = (1 << 64, 0)


def entry_id(text: bytes) -> EntryId:
    """Return an id of a stream's entry as numbers, which can be compared."""
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence or 0)


class Doorbell:
    """One blocking read for all consumers of a bus, whatever lanes they hold.

    It reads only while somebody waits, and what it reads it throws away: those who wait fetch it themselves, in one
    step with the check that the lane is still theirs.
    """

    def __init__(self, servers: Servers, names: Names) -> None:
        """Begin silent."""
        self._servers = servers
        self._names = names
        self._wire = servers.wire()
        self._held: dict[object, frozenset[int]] = {}
        self._last: dict[int, EntryId] = {}  # of each lane, as far as anybody knows
        self._asked: dict[int, EntryId] | None = None  # from where the read that waits now begins
        self._is_interrupted = False
        self._waiters: dict[asyncio.Future[None], Mapping[int, EntryId]] = {}
        self._begin: asyncio.Future[None] | None = None
        self._tasks = TaskScope()

    def hold(self, listener: object, lanes: Iterable[int]) -> None:
        """Listen to ``lanes`` for ``listener`` from now on, also while it does not wait, instead of those before."""
        self._held[listener] = frozenset(lanes)
        if not self._held[listener]:
            del self._held[listener]
        self.ring()

    async def wait(self, seen: Mapping[int, EntryId]) -> None:
        """Return when a lane has an entry past the last one ``seen`` there, or when it is time to look anyway."""
        is_late = [lane for lane, last in seen.items() if last < self._last.get(lane, last)]
        self._last.update(seen)  # also where more is known: after a loss of data that may be gone again
        if is_late:
            return
        if self._asked is not None and any(self._asked.get(lane, _NEVER) > last for lane, last in seen.items()):
            self._is_interrupted = True  # the read that waits now would not tell of all, the next one does
            await self._wire.close()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = seen
        if not self._tasks:
            self._tasks.spawn(self._listen(), name="avx-events redis: wait for events")
        if self._begin is not None:
            wake(self._begin)
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def ring(self) -> None:
        """Have everybody look who waits."""
        for waiter in self._waiters:
            wake(waiter)
        self._waiters.clear()

    async def close(self) -> None:
        """Stop listening."""
        self.ring()
        await self._tasks.cancel()

    async def _listen(self) -> None:
        wire = self._wire
        try:
            while True:
                if not any(self._waiters.values()):
                    self._begin = asyncio.get_running_loop().create_future()
                    await self._begin
                    self._begin = None
                    continue
                try:
                    await wire.connect()
                    self._is_interrupted = False
                    (reply,) = await wire.exchange([self._command()], timeout_s=_ANSWERS_WITHIN_S)
                except (WireError, TransportRefusedError) as exc:
                    if not self._is_interrupted:
                        log.debug("the doorbell is away: %s", exc)
                        self.ring()  # those who fetch find out themselves
                        await asyncio.sleep(_PAUSE_S)
                    continue
                finally:
                    self._asked = None
                self._take(reply)
        finally:
            await wire.close()

    def _command(self) -> bytes:
        held = frozenset[int]().union(*self._held.values(), *self._waiters.values())
        asked = self._asked = {lane: last for lane, last in self._last.items() if lane in held}
        streams = [self._names.lane(lane) for lane in asked]
        after = ["{}-{}".format(*last) for last in asked.values()]
        return packed("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", *streams, *after)

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            log.error("Redis does not tell of new events: %s", reply)
            return
        for stream, entries in reply or ():
            lane = int(stream.rpartition(b":")[2])
            self._last[lane] = entry_id(entries[-1][0])
        for waiter, seen in list(self._waiters.items()):
            if reply is None or any(last < self._last.get(lane, last) for lane, last in seen.items()):
                del self._waiters[waiter]
                wake(waiter)
