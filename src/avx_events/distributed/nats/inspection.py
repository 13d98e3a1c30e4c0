"""Looks at a namespace in NATS JetStream and at its streams' settings, and leaves nothing behind.

To count what a lane has behind a position, JetStream needs a consumer. It is one that keeps nothing, in the server's
memory, which is deleted as soon as it was made, and by the server itself within seconds where that fails.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from avx_events.bus.remote import position as positions
from avx_events.bus.remote.inspection import Finding, GroupStatus, MemberStatus
from avx_events.bus.remote.ports import TransportOptions
from avx_events.bus.remote.position import Position
from avx_events.core.clock import Clock
from avx_events.core.errors import TransportUnavailableError
from avx_events.core.metadata import EPOCH
from avx_events.distributed.nats import durability
from avx_events.distributed.nats.jetstream import JetStream, JetStreamError, Stored
from avx_events.distributed.nats.membership import Beat, beat_of
from avx_events.distributed.nats.names import Names, bucket_stream, text_of
from avx_events.distributed.nats.pipe import Pipe
from avx_events.distributed.nats.wire import Wire

if TYPE_CHECKING:
    import asyncio

_GONE_AFTER_S: Final = 5.0
_MICROSECOND: Final = timedelta(microseconds=1)
_KEY_PIECES: Final = 6  # $KV, the bucket, group, handler, what it is, and which


class _Log(msgspec.Struct):
    """The log as it is now.

    Attributes:
        lanes: The subject of each lane.
        created: When it was made, which tells it from one of the same name before it.
        last: The last message of each lane.
    """

    lanes: list[str]
    created: str
    last: list[Stored | None]


class _Keys(msgspec.Struct):
    """What the bucket has of one handler.

    Attributes:
        positions: How far it is, by lane.
        beats: The last sign of life of each member, and when the server wrote it.
    """

    positions: dict[int, Position] = msgspec.field(default_factory=dict[int, Position])
    beats: dict[str, tuple[Beat, str]] = msgspec.field(default_factory=dict[str, tuple[Beat, str]])


class _Asked(msgspec.Struct):
    """What JetStream was asked of one lane, and answers soon.

    Attributes:
        left: The messages that a position names as not done.
        following: The first message that follows on it; None where there is none.
        counted: How many do; None where none does.
        counter: The consumer that counts them.
    """

    left: "list[asyncio.Future[Stored | None]]"
    following: "asyncio.Future[Stored | None] | None" = None
    counted: "asyncio.Future[int] | None" = None
    counter: str = msgspec.field(default_factory=lambda: f"avx-inspect-{uuid4().hex}")


class _Behind(msgspec.Struct):
    """What a handler has not acknowledged in one lane: how many, and when the server took the oldest."""

    events: int = 0
    oldest: str | None = None


class NatsInspection:
    """One look at a namespace, over a connection of its own."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL is none of NATS's.
        """
        self._wire = Wire(url, timeout_s=options.timeout_s, client=options.client, clock=clock)
        self._pipe = Pipe(self._wire, timeout_s=options.timeout_s, clock=clock, what="avx-events nats: inspect")
        self._jetstream = JetStream(self._pipe, self._wire.name)
        self._names = Names(options.namespace, lanes=0)
        self._clock = clock

    @property
    def name(self) -> str:
        """What errors call the server."""
        return self._wire.name

    async def open(self) -> None:
        """Reach the server.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for credentials.
        """
        await self._wire.open()
        await self._pipe.open()

    async def groups(self) -> Sequence[GroupStatus]:
        """Return the handlers of all groups; see ``Inspection``."""
        log = await self._log()
        if log is None:
            return []
        handlers = await self._handlers()
        return [await self._status(group, handler, keys, log) for (group, handler), keys in sorted(handlers.items())]

    async def findings(self) -> Sequence[Finding]:
        """Return what the settings of the account and the streams mean; see ``Inspection``."""
        try:
            account = await self._jetstream.account()
        except TransportUnavailableError:
            if not self._wire.is_connected:
                raise
            return [durability.no_jetstream()]
        return [*durability.findings_of_account(account), *await self._about_streams()]

    async def close(self) -> None:
        """Leave no connection."""
        await self._pipe.close()
        await self._wire.close()

    async def _about_streams(self) -> list[Finding]:
        names = self._names
        log = await self._jetstream.stream(names.log)
        if log is None:
            return [durability.no_log(names.log)]
        found = durability.findings_of_log(names.log, log.config)
        for stream in (bucket_stream(names.groups), names.letters, names.parts):
            info = await self._jetstream.stream(stream)
            if info is not None:
                found += durability.findings_of_other(stream, info.config)
        return found

    async def _log(self) -> _Log | None:
        """Return the log; None where it is not there, or none of ours."""
        info = await self._jetstream.stream(self._names.log)
        lanes = None if info is None else self._names.lanes_in(info.config.subjects)
        if info is None or lanes is None:
            return None
        subjects = Names(self._names.log, lanes=lanes).lanes
        asked = [self._jetstream.last_of(self._names.log, subject) for subject in subjects]
        return _Log(subjects, info.created, [await answer for answer in asked])

    async def _handlers(self) -> dict[tuple[str, str], _Keys]:
        """Return what the bucket has of each handler, by group and handler."""
        stream = bucket_stream(self._names.groups)
        info = await self._jetstream.stream(stream, subjects=f"$KV.{self._names.groups}.>")
        asked = [self._jetstream.last_of(stream, key) for key in (() if info is None else info.state.subjects)]
        found: dict[tuple[str, str], _Keys] = {}
        for stored in [await answer for answer in asked]:
            pieces = () if stored is None or stored.is_deleted else stored.subject.split(".")
            if stored is None or len(pieces) != _KEY_PIECES:
                continue
            keys = found.setdefault((text_of(pieces[2]), text_of(pieces[3])), _Keys())
            _keep(keys, pieces[4], pieces[5], stored)
        return found

    async def _status(self, group: str, handler: str, keys: _Keys, log: _Log) -> GroupStatus:
        # All lanes are asked at once, and handlers one after the other: no answer waits for too many before it.
        asked = [self._ask(keys.positions.get(lane), lane, log) for lane in range(len(log.lanes))]
        behind = [await self._behind(one) for one in asked]
        total = sum(one.events for one in behind)
        members = tuple(
            MemberStatus(name=name, lanes=tuple(sorted(beat.lanes)), in_flight=None, idle_s=self._age_s(written))
            for name, (beat, written) in sorted(keys.beats.items())
        )
        return GroupStatus(
            group=group,
            handler=handler,
            members=members,
            lag_events=total,
            lag_seconds=max((self._age_s(one.oldest) for one in behind if one.oldest is not None), default=0.0),
            in_flight=None if total else 0,
        )

    def _ask(self, position: Position | None, lane: int, log: _Log) -> _Asked:
        """Ask what a handler has not done in a lane: what its position names, and what follows on it."""
        if position is None or position.log != log.created:  # to whoever takes the lane all of it is new
            position = Position()
        asked = _Asked([self._jetstream.message(self._names.log, number) for number in position.open])
        last = log.last[lane]
        if last is not None and last.seq > position.done:
            begin, subject = position.done + 1, log.lanes[lane]
            asked.following = self._jetstream.first_of(self._names.log, subject, begin=begin)
            asked.counted = self._jetstream.make_consumer(
                self._names.log, asked.counter, subject, begin=begin, inactive_s=_GONE_AFTER_S
            )
        return asked

    async def _behind(self, asked: _Asked) -> _Behind:
        left = [stored for stored in [await answer for answer in asked.left] if stored is not None]
        count = len(left) + await self._counted(asked)
        if not left and asked.following is not None:
            left = [stored for stored in [await asked.following] if stored is not None]
        return _Behind(count, left[0].time if left else None)

    async def _counted(self, asked: _Asked) -> int:
        if asked.counted is None:
            return 0
        try:
            return await asked.counted
        except JetStreamError as exc:
            raise self._jetstream.problem(exc) from exc
        finally:
            self._jetstream.delete_consumer(self._names.log, asked.counter)

    def _age_s(self, written: str) -> float:
        """Return how many seconds ago the server wrote something, by the clock of this machine."""
        age_us = self._clock.time_ns() // 1000 - (msgspec.convert(written, datetime) - EPOCH) // _MICROSECOND
        return max(age_us / 1_000_000, 0.0)


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> NatsInspection:
    """Return what has reached its server.

    Raises:
        InvalidArgumentError: The URL is none of NATS's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for credentials.
    """
    inspection = NatsInspection(url, options, clock=clock)
    try:
        await inspection.open()
    except BaseException:
        await inspection.close()
        raise
    return inspection


def _keep(keys: _Keys, what: str, which: str, stored: Stored) -> None:
    """Take note of a key; what is none of ours, or cannot be read, says nothing."""
    if what == "position" and which.isdecimal() and (position := positions.decode(stored.data)) is not None:
        keys.positions[int(which)] = position
    elif what == "member" and (beat := beat_of(stored.data)) is not None:
        keys.beats[which] = (beat, stored.time)
