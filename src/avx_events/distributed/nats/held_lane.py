"""A lane that this member holds: its entries as they come, and how far they are done."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from avx_events.bus.remote import position as positions
from avx_events.bus.remote.ports import Incoming, Lane
from avx_events.bus.remote.position import Progress
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.nats.jetstream import ConflictError, JetStream
from avx_events.distributed.nats.messages import incoming_of
from avx_events.distributed.nats.reader import Entry, Reader

log = logging.getLogger("avx_events")

AHEAD: Final = 1024
"""How far past what came a position allows entries to be given, so that it is not written before each of them."""


class HeldLane:
    """One lane; every write of its position says that nobody else has written since, so that only its holder writes.

    Attributes:
        lane: What the bus knows it by.
        progress: How far it is.
        reader: Where new entries come from; None until there is one.
        number: Of the message that its position was written with last.
        is_gone: Whether others write it now.
    """

    def __init__(
        self,
        lane: Lane,
        progress: Progress,
        *,
        member: str,
        subject: str,
        stream: str,
        jetstream: JetStream,
        tasks: TaskScope,
        on_written: Callable[[], None],
        on_taken_away: Callable[["HeldLane"], None],
    ) -> None:
        """Hold nothing yet; ``claimed`` tells that it does.

        Args:
            lane: What the bus knows it by.
            progress: How far it is.
            member: Who holds it.
            subject: Of its position.
            stream: Where that is.
            jetstream: What writes it.
            tasks: Owner of the task that looks what is there when a write is refused.
            on_written: Called when more entries may be given than before.
            on_taken_away: Called when another member holds it.
        """
        self.lane = lane
        self.progress = progress
        self.reader: Reader | None = None
        self.again: deque[Entry] = deque()
        self._member = member
        self._subject = subject
        self._stream = stream
        self.number = 0
        self._jetstream = jetstream
        self._tasks = tasks
        self._on_written = on_written
        self._on_taken_away = on_taken_away
        self._may_give_to = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._is_writing = False
        self._is_stale = False
        self._is_released = False
        self.is_gone = False

    def claimed(self, number: int) -> None:
        """Hold the lane: its position was written with what ``progress`` allowed for, in message ``number``."""
        self.number = number
        self._may_give_to = self.progress.given

    def next_entry(self) -> Entry | None:
        """Return the entry that is to be given next; None where none is here, or it may not be given yet."""
        entries = self.again or (self.reader.entries if self.reader is not None else None)
        if not entries:
            return None
        if entries is not self.again and entries[0].number > self._may_give_to:
            self.allow()
            return None
        return entries.popleft()

    def incoming(self, entry: Entry) -> Incoming:
        """Return an entry as the bus knows it."""
        known = self.progress.attempts(entry.number)
        incoming = incoming_of(self.lane, (self, entry.number), entry.data, entry.headers)
        incoming.attempts, incoming.is_redelivered = known or 0, known is None
        return incoming

    def allow(self) -> None:
        """Have it written that what came may be given."""
        if self.reader is None or self._is_released or self.is_gone:
            return
        if self.reader.after + AHEAD // 2 > self.progress.given:
            self.progress.given = self.reader.after + AHEAD
            self._is_stale = True
        if self._is_stale and not self._is_writing:
            self._write()

    def save(self) -> "asyncio.Future[None]":
        """Have its position written as it is now; the future tells when it is, or fails."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.is_gone:  # whoever holds it now does not want to know
            written.set_result(None)
            return written
        self._waiters.append(written)
        self._is_stale = True
        if not self._is_writing:
            self._write()
        return written

    def release(self) -> "asyncio.Future[None]":
        """Have it written that nobody holds the lane; the future fails as that of ``save``."""
        self._is_released = True
        return self.save()

    async def close_reader(self) -> None:
        """Receive nothing more of it."""
        if self.reader is not None and not self.reader.is_closed:
            await self.reader.close()

    def lose(self) -> None:
        """Write nothing any more."""
        self.is_gone = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            wake(waiter)

    def _write(self) -> None:
        self._is_writing, self._is_stale = True, False
        waiters, self._waiters = self._waiters, []
        if not self._is_released and self.reader is not None:
            self.progress.given = max(self.progress.given, self.reader.after + AHEAD)
        position = self.progress.released() if self._is_released else self.progress.position(self._member)
        answer = self._jetstream.write(self._subject, positions.encode(position), expected=self.number)
        answer.add_done_callback(partial(self._written, waiters, position.given))

    def _written(self, waiters: "list[asyncio.Future[None]]", given: int, answer: "asyncio.Future[int]") -> None:
        self._is_writing = False
        error = None if answer.cancelled() else answer.exception()
        if self.is_gone:
            for waiter in waiters:
                wake(waiter)
            return
        if isinstance(error, ConflictError):
            self._waiters += waiters
            self._is_writing = True
            self._tasks.spawn(self._look(), name="avx-events nats: look who holds a lane")
            return
        if error is None:
            for waiter in waiters:
                wake(waiter)
            self.number = answer.result()
            self._may_give_to = given
            if self._waiters or (self._is_stale and not self._is_released):
                self._write()
            self._on_written()
        else:
            _fail(waiters, error)
            self._is_stale = True  # with the next occasion
            if self._waiters:  # they came while it was on its way, and have their own deadline
                self._write()

    async def _look(self) -> None:
        """See whether it was a write of ours that is there, whose answer was lost with the connection."""
        try:
            stored = await self._jetstream.last_of(self._stream, self._subject)
        except AvxEventsError as exc:
            waiters, self._waiters = self._waiters, []
            _fail(waiters, exc)
            return
        finally:  # also where it is cancelled: the lane is released then, and that is a write
            self._is_writing = False
        if self.is_gone:
            return
        found = None if stored is None or stored.is_deleted else positions.decode(stored.data)
        if stored is None or (found is not None and found.member == self._member):
            self.number = 0 if stored is None else stored.seq  # also where somebody has purged it
            self._write()
        else:
            self._on_taken_away(self)


def _fail(waiters: "list[asyncio.Future[None]]", error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # whoever asked may have stopped waiting, and then nobody complains
