"""A connection that waits for something new and reads it in the same breath: one round trip from entry to reader."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, Final

from avx_events.core.errors import AvxEventsError, TransportRefusedError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import Packed, Servers, WireError, packed, problem_of

log = logging.getLogger("avx_events")

BLOCK_MS: Final = 5000
"""How long a read waits at most: then it looks anyway, whatever it was told."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.01


class LostReplyError(Exception):
    """What was read did not arrive: entries may have been given to this member that it does not know of."""


class WaitingWire:
    """The connection on which one consumer reads; while it waits, it is woken from another one.

    Attributes:
        connections: How many connections were made; what is watched is forgotten with each.
    """

    def __init__(self, servers: Servers, pipe: Pipe, *, timeout_s: float) -> None:
        """Connect to nobody yet.

        Args:
            servers: Where the connection comes from.
            pipe: From where it is woken.
            timeout_s: Within how many seconds the server must answer, beside what it waits.
        """
        self._wire = servers.wire()
        self._server = servers.name
        self._pipe = pipe
        self._timeout_s = timeout_s
        self.connections = 0
        self._id = 0
        self._pause_s = _FIRST_PAUSE_S
        self._waits = 0  # counts the reads that waited; odd while one does
        self._tasks = TaskScope()

    async def read(self, reads: Sequence[Packed], *, wait: Packed | None, on: int | None = None) -> list[Any]:
        """Return the replies to ``reads``, which are done as soon as ``wait`` is over.

        A server that is away is waited for, a little longer each time.

        Args:
            reads: As ``packed`` gives them.
            wait: Waits at the server; None where there is nothing to wait for.
            on: On which of the ``connections`` alone they have a meaning; None is any.

        Raises:
            LostReplyError: The connection failed, or is another one; call again.
            TransportUnavailableError: The server does not do it now.
            TransportRefusedError: It refuses.
        """
        try:
            await self._connect()
            if on not in (None, self.connections):
                raise LostReplyError
            if wait is None:
                replies = await self._wire.exchange(reads, timeout_s=self._timeout_s)
            else:
                self._waits += 1
                try:
                    patience_s = BLOCK_MS / 1000 + self._timeout_s
                    replies = await self._wire.exchange([wait, *reads], timeout_s=patience_s)
                finally:
                    self._waits += 1
        except WireError as exc:
            log.debug("a reader waits for %s: %s", self._server, exc)
            await asyncio.sleep(self._pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            raise LostReplyError from exc
        self._pause_s = _FIRST_PAUSE_S
        for reply in replies:
            if isinstance(reply, Exception):
                raise problem_of(self._server, reply)
        return replies if wait is None else replies[1:]

    def wake(self) -> None:
        """Have a read that waits look at once. Harmless where none does."""
        if self._waits % 2:
            self._tasks.spawn(self._unblock(self._waits), name="avx-events redis: wake a reader")

    async def close(self) -> None:
        """Close the connection."""
        await self._tasks.cancel()
        await self._wire.close()

    async def _connect(self) -> None:
        if not self._wire.is_connected:
            await self._wire.connect()
            self.connections += 1
            (self._id,) = await self._wire.exchange([_CLIENT_ID], timeout_s=self._timeout_s)

    async def _unblock(self, waits: int) -> None:
        # The server may not have come to the read yet, and then it would wait all the same: until it does not.
        while self._waits == waits:
            try:
                await self._pipe.ask(packed("CLIENT", "UNBLOCK", self._id))
            except TransportRefusedError:  # not permitted: a connection that is closed waits no longer, either
                await self._wire.close()
                return
            except AvxEventsError:  # the server is away, and the read with it
                return
            await asyncio.sleep(_LOOK_AGAIN_S)


_CLIENT_ID: Final = packed("CLIENT", "ID")
