"""The events of a listener without a group: everything from now on, read from the log itself."""

import asyncio
from collections.abc import Sequence

from avx_events.bus.remote.ports import Incoming
from avx_events.core.tasks import wake
from avx_events.distributed.nats.messages import incoming_of
from avx_events.distributed.nats.names import Names
from avx_events.distributed.nats.reader import Reader, Readers

_MOST_ENTRIES = 1024


class BroadcastSource:
    """What a bus reads for one broadcast listener; after a reconnect it goes on where it was."""

    def __init__(self, readers: Readers, names: Names) -> None:
        """Begin nowhere; ``create`` finds the end of the log."""
        self._readers = readers
        self._names = names
        self._reader: Reader | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def create(self) -> None:
        """Begin after the last event there is.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        info = await self._readers.log.look()
        self._reader = Reader(
            self._readers,
            self._names.all_lanes,
            after=info.state.last_seq,
            created=info.created,
            most=_MOST_ENTRIES,
            share=1,
            on_entry=self._look,
            on_reset=self._look,
        )
        self._readers.add(self._reader)

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for entries and return up to ``most``; see ``Source``."""
        reader = self._reader
        if reader is None:
            return []
        while not reader.entries:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        entries = [reader.entries.popleft() for _ in range(min(most, len(reader.entries)))]
        reader.pull()
        return [incoming_of(None, entry.number, entry.data, entry.headers) for entry in entries]

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Do nothing: a listener acknowledges nothing."""

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Do nothing: nobody gets the event after this listener."""

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Do nothing: nothing is known of what was received."""

    async def close(self) -> None:
        """Leave no consumer."""
        if self._reader is not None:
            await self._reader.close()

    def _look(self) -> None:
        if self._waiter is not None:
            wake(self._waiter)
