"""Who of a handler's members is alive, and which lanes each holds.

| a member | what others know |
|---|---|
| joins | its first beat, a value of its key in the bucket |
| lives | another beat within ``life_s`` seconds of the one before |
| leaves | its key is deleted |
| is dead | no beat for ``life_s`` seconds: whoever sees it first purges its key, and it notices if it was not dead |

Beats are seen as they are published; only who comes new, or was disconnected, reads them from the bucket.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from uuid import uuid4

import msgspec

from avx_events.core.clock import Clock
from avx_events.distributed.nats.frames import Message
from avx_events.distributed.nats.jetstream import ConflictError, JetStream, Stored
from avx_events.distributed.nats.names import bucket_stream
from avx_events.distributed.nats.wire import Wire

log = logging.getLogger("avx_events")


class Beat(msgspec.Struct, frozen=True):
    """The value of a member's key, as JSON.

    Attributes:
        life_s: For how many seconds it counts as alive.
        lanes: The lanes that it holds.
    """

    life_s: float
    lanes: tuple[int, ...] = ()


class Other(msgspec.Struct):
    """Another member.

    Attributes:
        beat: Its last beat.
        until: Until when it counts as alive, in monotonic seconds of this process.
    """

    beat: Beat
    until: float


class Membership:
    """This member, and what it knows of the others.

    Attributes:
        name: Of this member: no other has it.
    """

    def __init__(
        self,
        wire: Wire,
        jetstream: JetStream,
        consumer: str,
        bucket: str,
        *,
        life_s: float,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        """Begin as nobody.

        Args:
            wire: The connection.
            jetstream: What keeps beats.
            consumer: What the handler's subjects begin with.
            bucket: Where they are.
            life_s: How long this member counts as alive after a beat.
            clock: Time.
            on_change: Called when others come, go, or hold other lanes.
        """
        self.name = uuid4().hex
        self._wire = wire
        self._jetstream = jetstream
        self._prefix = f"{consumer}.member."
        self._stream = bucket_stream(bucket)
        self._life_s = life_s
        self._clock = clock
        self._on_change = on_change
        self._others: dict[str, Other] = {}
        self._number = 0  # of the last beat

    def others(self) -> Mapping[str, tuple[int, ...]]:
        """Return the lanes of the others who are not known to be dead."""
        return {name: other.beat.lanes for name, other in self._others.items()}

    async def begin(self) -> None:
        """Be a member, and know the others.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        self._wire.listen(f"{self._prefix}*", self._take)
        await self.beat(())
        await self.look()

    async def beat(self, lanes: tuple[int, ...]) -> bool:
        """Give a sign of life; False where the others had counted this member as dead, so that all it held is lost.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        body = msgspec.json.encode(Beat(self._life_s, lanes))
        subject = self._prefix + self.name
        was_alive = True
        while True:
            try:
                self._number = await self._jetstream.write(subject, body, expected=self._number)
            except ConflictError:
                stored = await self._jetstream.last_of(self._stream, subject)
                # What is there is ours: a beat whose answer was lost with the connection.
                was_alive = was_alive and stored is not None
                self._number = 0 if stored is None else stored.seq
            else:
                return was_alive

    async def look(self) -> None:
        """Read from the bucket who is there, and since when.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        now = self._clock.monotonic()
        info = await self._jetstream.stream(self._stream, subjects=f"{self._prefix}*")
        subjects = () if info is None else tuple(info.state.subjects)
        beats = [await self._jetstream.last_of(self._stream, subject) for subject in subjects]
        here = {beat.subject[len(self._prefix) :]: beat for beat in beats if beat is not None and not beat.is_deleted}
        own = here.pop(self.name, None)
        for name, stored in here.items():
            if name not in self._others and (beat := beat_of(stored.data)) is not None:
                age_s = 0.0 if own is None else _seconds_between(stored, own)
                self._others[name] = Other(beat, now + beat.life_s - age_s)
        self._on_change()

    async def is_gone(self, name: str) -> bool:
        """Tell whether a member that is named somewhere has left, or is dead.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        if name not in self._others and await self._stored(name) is not None:
            await self.look()  # it came, and we have not heard of it
        return name not in self._others

    def be_patient(self) -> None:
        """Give everybody time for a sign of life, since none could be heard for a while."""
        now = self._clock.monotonic()
        for other in self._others.values():
            other.until = max(other.until, now + other.beat.life_s)

    async def bury(self) -> None:
        """Purge the keys of the dead, right after a beat of this member.

        Whoever seems dead here is so only if the server says so, too: it may be this process that stood still.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        now = self._clock.monotonic()
        silent = [name for name, other in self._others.items() if other.until <= now]
        own = await self._stored(self.name) if silent else None
        for name in silent:
            stored = await self._stored(name)
            other = self._others.get(name)
            if own is None or other is None:
                continue
            if stored is not None and (left_s := other.beat.life_s - _seconds_between(stored, own)) > 0:
                other.until = max(other.until, now + left_s)
                continue
            if stored is not None:
                log.warning("a member gave no sign of life for %g s: %s%s", other.beat.life_s, self._prefix, name)
                await self._jetstream.purge(self._stream, stored.subject, up_to=stored.seq + 1)
            self._others.pop(name, None)
            self._on_change()

    async def end(self) -> None:
        """Be no member any more.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        await self._wire.ignore(f"{self._prefix}*")
        subject = self._prefix + self.name
        await self._jetstream.delete_key(subject)
        await self._jetstream.purge(self._stream, subject)

    async def _stored(self, name: str) -> Stored | None:
        stored = await self._jetstream.last_of(self._stream, self._prefix + name)
        return None if stored is None or stored.is_deleted else stored

    def _take(self, message: Message) -> None:
        """See the beat of another, or that it leaves."""
        name = message.subject[len(self._prefix) :]
        if name == self.name:
            return
        beat = beat_of(message.data)
        before = self._others.get(name)
        if beat is None:
            self._others.pop(name, None)
        else:
            self._others[name] = Other(beat, self._clock.monotonic() + beat.life_s)
        if (None if before is None else before.beat.lanes) != (None if beat is None else beat.lanes):
            self._on_change()


def beat_of(body: bytes) -> Beat | None:
    """Return the beat that is written there; None where a member has left, or it cannot be read."""
    try:
        return msgspec.json.decode(body, type=Beat)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _seconds_between(earlier: Stored, later: Stored) -> float:
    return max((_instant(later.time) - _instant(earlier.time)).total_seconds(), 0.0)


def _instant(text: str) -> datetime:
    return msgspec.convert(text, datetime)
