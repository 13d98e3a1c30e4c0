"""The events of a listener without a group: everything from now on, read from the log itself."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from avx_events.bus.remote.ports import Incoming
from avx_events.core.errors import TransportRefusedError
from avx_events.distributed.redis.entries import incoming_of
from avx_events.distributed.redis.names import Names
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import Servers, WireError, packed, problem_of

log = logging.getLogger("avx_events")

_BLOCK_MS: Final = 5000
_ANSWERS_WITHIN_S: Final = _BLOCK_MS / 1000 + 10
_PAUSE_S: Final = 0.2


class BroadcastSource:
    """What a bus reads for one broadcast listener; after a reconnect it goes on where it was."""

    def __init__(self, servers: Servers, pipe: Pipe, names: Names, *, lanes: int) -> None:
        """Begin nowhere; ``create`` finds the end of the log.

        Args:
            servers: Where the connection comes from.
            pipe: Where other commands go.
            names: Of the namespace.
            lanes: How many lanes the log has.
        """
        self._wire = servers.wire()
        self._server = servers.name
        self._pipe = pipe
        self._streams = [names.lane(lane) for lane in range(lanes)]
        self._after = [b"0-0"] * lanes

    async def create(self) -> None:
        """Begin after the last event there is.

        Raises:
            TransportUnavailableError: The server is away.
        """
        replies = [self._pipe.ask(packed("XREVRANGE", stream, "+", "-", "COUNT", 1)) for stream in self._streams]
        for number, reply in enumerate(replies):
            newest = await reply
            if newest:
                self._after[number] = newest[0][0]

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for entries and return up to about ``most``; see ``Source``."""
        each = max(most // len(self._streams), 1)
        command = packed("XREAD", "COUNT", each, "BLOCK", _BLOCK_MS, "STREAMS", *self._streams, *self._after)
        try:
            await self._wire.connect()
            (reply,) = await self._wire.exchange([command], timeout_s=_ANSWERS_WITHIN_S)
        except (WireError, TransportRefusedError) as exc:
            log.warning("a listener waits for %s: %s", self._server, exc)
            await asyncio.sleep(_PAUSE_S)
            return []
        if isinstance(reply, Exception):
            raise problem_of(self._server, reply)
        return [incoming for stream, entries in reply or () for incoming in self._received(stream, entries)]

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Do nothing: a listener acknowledges nothing."""

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Do nothing: nobody gets the event after this listener."""

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Do nothing: nothing is known of what was received."""

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()

    def _received(self, stream: bytes, entries: list[Any]) -> list[Incoming]:
        self._after[int(stream.rpartition(b":")[2])] = entries[-1][0]
        return [incoming_of(None, entry, fields) for entry, fields in entries]
