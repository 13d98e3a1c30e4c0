"""The stream that all events of a namespace are in."""

import asyncio
import logging
from typing import Final

from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.errors import PartitionsMismatchError, TransportRefusedError, TransportUnavailableError
from avx_events.distributed.nats.jetstream import JetStream, StreamInfo
from avx_events.distributed.nats.names import Names

log = logging.getLogger("avx_events")

_NS: Final = 1_000_000_000
_REMEMBERS_IDS_S: Final = 120.0
IS_DELETED_WITHIN_S: Final = 1.0
"""The server says that a stream is gone before it has removed its files, and then removes those of a new one, too."""


class EventLog:
    """Makes the stream where it is missing, and tells how far it is."""

    def __init__(self, jetstream: JetStream, names: Names, options: TransportOptions, *, server: str) -> None:
        """Look at nothing yet; ``server`` is what errors call it."""
        self._jetstream = jetstream
        self._names = names
        self._options = options
        self._server = server
        self._was_there = False

    async def look(self) -> StreamInfo:
        """Return the stream as it is now, made anew where it is gone.

        Raises:
            TransportUnavailableError: JetStream does not answer.
            TransportRefusedError: The stream of that name is none of ours.
            PartitionsMismatchError: It has another number of lanes.
        """
        info = await self._jetstream.stream(self._names.log)
        if info is None and self._was_there:
            log.error("the stream %s is gone", self._names.log)
            await asyncio.sleep(IS_DELETED_WITHIN_S)
            info = await self._jetstream.stream(self._names.log)
        if info is None:
            await self._make()
            info = await self._jetstream.stream(self._names.log)
        if info is None:
            raise TransportUnavailableError(self._server, f"the stream {self._names.log!r} is deleted at once")
        self._check(info)
        self._was_there = True
        return info

    async def open(self) -> None:
        """Have the stream, and say where it keeps less or more than was asked for.

        Raises:
            TransportUnavailableError: JetStream does not answer.
            TransportRefusedError: The stream of that name is none of ours.
            PartitionsMismatchError: It has another number of lanes.
        """
        config = (await self.look()).config
        max_age, max_msgs = self._limits()
        if (config.max_age, max(config.max_msgs, -1)) != (max_age, max_msgs):
            log.warning(
                "the stream %s keeps its limits, max_age %d s and max_msgs %d, not those asked for here, %d s and %d; "
                "change them with `nats stream edit`",
                self._names.log,
                config.max_age // _NS,
                config.max_msgs,
                max_age // _NS,
                max_msgs,
            )

    def _check(self, info: StreamInfo) -> None:
        lanes = self._names.lanes_in(info.config.subjects)
        if lanes is None:
            problem = f"the stream {self._names.log!r} has the subjects {', '.join(info.config.subjects)}"
            remedy = "it is none of avx-events, or of another version; use another namespace"
            raise TransportRefusedError(self._server, problem, remedy=remedy)
        if lanes != self._options.partitions:
            raise PartitionsMismatchError(
                self._server, self._options.namespace, here=self._options.partitions or 0, there=lanes
            )

    async def _make(self) -> None:
        max_age, max_msgs = self._limits()
        remembers = max(_REMEMBERS_IDS_S, 2 * self._options.timeout_s)  # what is sent again comes within timeout_s
        if self._options.retention_s is not None:
            remembers = min(remembers, self._options.retention_s)
        await self._jetstream.make_stream(
            self._names.log,
            [self._names.all_lanes],
            retention="limits",
            discard="old",
            max_age=max_age,
            max_msgs=max_msgs,
            duplicate_window=int(remembers * _NS),
            description="events of avx-events, see docs/reference/nats.md",
        )

    def _limits(self) -> tuple[int, int]:
        retention_s, max_events = self._options.retention_s, self._options.max_events
        return (0 if retention_s is None else int(retention_s * _NS)), (-1 if max_events is None else max_events)
