"""Reads what one subject of the log has, in order, from a number on."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import uuid4

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.nats.frames import Message
from avx_events.distributed.nats.jetstream import JetStream, JetStreamError
from avx_events.distributed.nats.log import EventLog
from avx_events.distributed.nats.names import Names
from avx_events.distributed.nats.wire import Wire

log = logging.getLogger("avx_events")

_PULL_LASTS_S: Final = 20.0
_SIGN_OF_LIFE_S: Final = 2.0
_SILENT_FOR_S: Final = 3 * _SIGN_OF_LIFE_S
_CONSUMER_LASTS_S: Final = 60.0
_PAUSE_S: Final = 0.2
_LOOK_EVERY_S: Final = 0.5
_MOST_BYTES: Final = 16 << 20
_NS: Final = 1_000_000_000
_SIGN_OF_LIFE: Final = "100"
_TIME_IS_UP: Final = "408"
_SIZE_IS_UP: Final = "MaxBytes"

# $JS.ACK.<stream>.<consumer>.<times>.<number>.<number for this consumer>.<time>.<pending>, or with domain and account
# hash before the stream and a token behind it.
_PLACES: Final = {9: (3, 5, 6), 11: (5, 7, 8), 12: (5, 7, 8)}


class Entry(msgspec.Struct, gc=False):
    """A message of the log.

    Attributes:
        number: Its number in the stream.
        data: Its body.
        headers: And what stands above it.
    """

    number: int
    data: bytes
    headers: dict[str, str] | None


class Reader:
    """What one subject has, pulled before it is asked for.

    An ephemeral consumer that needs no acknowledgement is behind it. Where it is gone, skips something or is silent,
    another one goes on after the last entry that came.

    Attributes:
        entries: What is here, in order; whoever takes of it calls ``pull``.
        after: The number of the last entry that came.
    """

    def __init__(
        self,
        readers: "Readers",
        subject: str,
        *,
        after: int,
        created: str,
        most: int,
        share: int,
        on_entry: Callable[[], None],
        on_reset: Callable[[], None],
    ) -> None:
        """Read nothing yet.

        Args:
            readers: What gives messages.
            subject: Of the log.
            after: Begin behind this number.
            created: When the stream was made whose number that is.
            most: How many entries to have here at most.
            share: How many readers share the memory.
            on_entry: Called when something came.
            on_reset: Called when the stream has lost its end or is another one, so that ``after`` means nothing.
        """
        self.entries: deque[Entry] = deque()
        self.after = after
        self.name = ""
        self.is_closed = False
        self.subject = subject
        self._readers = readers
        self._created: str = created
        self._most = most
        self._max_bytes = _MOST_BYTES // share
        self._on_entry = on_entry
        self._on_reset = on_reset
        self._came = 0
        self._pulls: deque[tuple[str, int]] = deque()
        self._on_the_way = 0
        self._heard_at = 0.0
        self._is_as_known = True

    def pull(self) -> None:
        """Ask for more where there is room for it."""
        room = self._most - len(self.entries) - self._on_the_way
        if self.name and room > 0 and (room * 2 >= self._most or not self._on_the_way):
            self._pulls.append((self._readers.ask(self, room, max_bytes=self._max_bytes), room))
            self._on_the_way += room

    async def close(self) -> None:
        """Read no more, and leave no consumer."""
        self.is_closed = True
        self.entries.clear()
        await self._readers.forget(self)

    # Of Readers

    async def open(self) -> None:
        """Have a consumer, waiting as long as it takes."""
        while not self.is_closed:
            try:
                await self._open()
            except (AvxEventsError, JetStreamError) as exc:
                log.warning("%s is not read for now: %s", self.subject, exc)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    def begin(self, name: str) -> None:
        """Pull from the consumer of that name."""
        self.name = name
        self._came = 0
        self._on_the_way = 0
        self._heard_at = self._readers.now()
        self.pull()

    def end(self) -> list[str]:
        """Pull no more; return what was asked for."""
        self.name = ""
        tokens = [token for token, _ in self._pulls]
        self._pulls.clear()
        return tokens

    def take(self, message: Message, number: int, place: int) -> bool:
        """Take a message; False where one is missing before it."""
        if place != self._came + 1:
            return False
        self._came = place
        self.after = number
        self._heard_at = self._readers.now()
        self._on_the_way -= 1
        if self._pulls:
            token, left = self._pulls[0]
            if left > 1:
                self._pulls[0] = (token, left - 1)
            else:
                self._pulls.popleft()
                self._readers.asked_for.pop(token, None)
        self.entries.append(Entry(number, message.data, message.headers))
        self._on_entry()
        return True

    def heard(self) -> None:
        """Know that the server has not forgotten what it was asked for."""
        self._heard_at = self._readers.now()

    def ended(self, token: str) -> None:
        """Know that nothing comes any more because of one request, and ask again."""
        for pull in [pull for pull in self._pulls if pull[0] == token]:
            self._pulls.remove(pull)
            self._on_the_way -= pull[1]
        self.heard()
        self.pull()

    def is_silent(self, now: float) -> bool:
        """Tell whether the server has forgotten what it was asked for."""
        return bool(self.name and self._pulls) and now - self._heard_at > _SILENT_FOR_S

    async def _open(self) -> None:
        if self._is_as_known:
            self._is_as_known = False  # but not when it is opened again
        else:
            await self._check()
        if not self.is_closed:
            await self._readers.make(self)

    async def _check(self) -> None:
        info = await self._readers.log.look()
        if info.created != self._created or info.state.last_seq < self.after:
            log.error("the end of %s is lost in the server, or all of it", self.subject)
            self.after = 0 if info.created != self._created else info.state.last_seq
            self._created = info.created
            self.entries.clear()
            self._on_reset()


class Readers:
    """All readers of a bus, and the one subscription through which everything comes that they read."""

    def __init__(self, wire: Wire, jetstream: JetStream, event_log: EventLog, names: Names, *, clock: Clock) -> None:
        """Begin with none.

        Args:
            wire: The connection.
            jetstream: What makes consumers.
            event_log: What is read.
            names: Of the namespace.
            clock: Time.
        """
        self.log = event_log
        self.now = clock.monotonic
        self._wire = wire
        self._jetstream = jetstream
        self._stream = names.log
        self._inbox = f"_INBOX.{uuid4().hex}."
        self._next = 0
        self._readers: dict[str, Reader] = {}  # by consumer
        self._all: set[Reader] = set()
        self._opening: set[Reader] = set()
        self.asked_for: dict[str, Reader] = {}
        self._tasks = TaskScope()
        wire.watch(on_up=self._renew_all, on_down=self._stop_all)

    async def open(self) -> None:
        """Listen, and look after the readers."""
        self._wire.listen(f"{self._inbox}*", self._take)
        self._tasks.spawn(self._watch(), name="avx-events nats: watch readers")

    def add(self, reader: Reader) -> None:
        """Have ``reader`` read."""
        self._all.add(reader)
        self._renew(reader)

    async def forget(self, reader: Reader) -> None:
        """Have its consumer no more."""
        self._all.discard(reader)
        await self._delete(self._end(reader))

    async def close(self) -> None:
        """Look after none of them any more."""
        await self._tasks.cancel()

    async def make(self, reader: Reader) -> None:
        """Make a consumer for ``reader``, and pull.

        Raises:
            AvxEventsError: JetStream does not answer.
            JetStreamError: It makes none.
        """
        name = f"avx-{uuid4().hex}"
        self._readers[name] = reader
        begin = reader.after + 1
        try:
            await self._jetstream.make_consumer(
                self._stream, name, reader.subject, begin=begin, inactive_s=_CONSUMER_LASTS_S
            )
        except BaseException:
            self._readers.pop(name, None)
            raise
        if reader.is_closed or self._readers.get(name) is not reader:
            self._readers.pop(name, None)
            await self._delete(name)
        else:
            reader.begin(name)

    def ask(self, reader: Reader, count: int, *, max_bytes: int) -> str:
        """Ask the server for ``count`` messages; return what it calls the request."""
        self._next += 1
        token = str(self._next)
        pull = {
            "batch": count,
            "max_bytes": max(max_bytes, self._wire.max_payload + 4096),
            "expires": int(_PULL_LASTS_S * _NS),
            "idle_heartbeat": int(_SIGN_OF_LIFE_S * _NS),
        }
        self.asked_for[token] = reader
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{reader.name}"
        self._wire.post(subject, msgspec.json.encode(pull), reply=self._inbox + token)
        return token

    def _take(self, message: Message) -> None:
        if message.subject.startswith(self._inbox):
            self._hear(message.subject[len(self._inbox) :], message.headers or {})
            return
        parts = message.reply.split(".")
        places = _PLACES.get(len(parts))
        if places is None:
            return
        reader = self._readers.get(parts[places[0]])
        if reader is not None and not reader.take(message, int(parts[places[1]]), int(parts[places[2]])):
            self._renew(reader)

    def _hear(self, token: str, headers: dict[str, str]) -> None:
        """Take what the server says of a request."""
        status, description = headers.get("Status"), headers.get("Description", "")
        if status == _SIGN_OF_LIFE:
            if (reader := self.asked_for.get(token)) is not None:
                reader.heard()
        elif (reader := self.asked_for.pop(token, None)) is not None:
            if status == _TIME_IS_UP or _SIZE_IS_UP in description:
                reader.ended(token)
            else:
                log.info("the consumer of %s ends: %s", reader.subject, description)
                self._renew(reader)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = self.now()
            for reader in [reader for reader in self._all if reader.is_silent(now)]:
                log.warning("the consumer of %s is silent; another one goes on", reader.subject)
                self._renew(reader)

    def _renew(self, reader: Reader) -> None:
        """Have another consumer behind ``reader``."""
        name = self._end(reader)
        if name:
            self._tasks.spawn(self._delete(name), name="avx-events nats: delete a consumer")
        if reader not in self._opening and not reader.is_closed:
            self._opening.add(reader)
            self._tasks.spawn(self._open(reader), name=f"avx-events nats: read {reader.subject}")

    def _end(self, reader: Reader) -> str:
        """Take nothing more for ``reader``; return the name of its consumer."""
        name = reader.name
        self._readers.pop(name, None)
        for token in reader.end():
            self.asked_for.pop(token, None)
        return name

    async def _open(self, reader: Reader) -> None:
        try:
            await reader.open()
        finally:
            self._opening.discard(reader)

    async def _delete(self, name: str) -> None:
        if name and self._wire.is_connected:
            try:
                await self._jetstream.delete_consumer(self._stream, name)
            except AvxEventsError as exc:  # it ends by itself
                log.debug("consumer %s is left to itself: %s", name, exc)

    def _renew_all(self) -> None:
        for reader in self._all:
            self._renew(reader)

    def _stop_all(self) -> None:
        self._readers.clear()
        for reader in self._all:
            self._end(reader)
