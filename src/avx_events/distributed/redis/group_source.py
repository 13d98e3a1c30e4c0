"""The events of a consumer group's member: from its lanes, with everything that came before it first."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from avx_events.bus.remote.ports import Consumer, Incoming, Lane
from avx_events.core.errors import AvxEventsError, TransportRefusedError, TransportUnavailableError
from avx_events.core.tasks import wake
from avx_events.distributed.redis.entries import incoming_of
from avx_events.distributed.redis.leases import Leases
from avx_events.distributed.redis.names import Names, consumer_of
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.scripts import READ
from avx_events.distributed.redis.waiting_wire import BLOCK_MS, LostReplyError, WaitingWire
from avx_events.distributed.redis.wire import Argument, Packed, packed

log = logging.getLogger("avx_events")

Receipt: TypeAlias = tuple[int, bytes]
"""A lane, and the id of an entry in it."""

EntryId = tuple[int, int]

_NEW: Final = b""
_NEW_OR_END: Final = b"?"
_FIRST: Final = b"0-0"
_LAST_PAGE: Final = b"0-0"
_MULTI: Final = packed("MULTI")
_EXEC: Final = packed("EXEC")
# A read that gave so many is followed by the next without a wait.
_BUSY: Final = 32


class Reading:
    """How far a lane is read.

    Attributes:
        lane: The lane.
        cursor: Where to go on with what was given out before; empty when that is done, and new entries follow.
    """

    __slots__ = ("cursor", "lane")

    def __init__(self, lane: Lane) -> None:
        """Begin with what was given out to others and not acknowledged."""
        self.lane = lane
        self.cursor = _FIRST


class GroupSource:
    """What a bus reads of one handler's consumer group."""

    def __init__(
        self, pipe: Pipe, wire: WaitingWire, names: Names, consumer: Consumer, *, lanes: int, server: str
    ) -> None:
        """Begin with no lanes; ``hold`` gives them.

        Args:
            pipe: Where commands go.
            wire: Where it reads.
            names: Of the namespace.
            consumer: Whose events.
            lanes: How many lanes the log has.
            server: What errors call the server.
        """
        self._pipe = pipe
        self._wire = wire
        self._change: asyncio.Future[None] | None = None
        self._names = names
        self._consumer = consumer
        self._lanes = lanes
        self._server = server
        self.name = consumer_of(consumer.group or "", consumer.name)
        self._owners = names.owners(self.name)
        self._leases: Leases | None = None
        self._member = ""
        self._readings: dict[int, Reading] = {}
        self._given: dict[int, set[bytes]] = {lane: set() for lane in range(lanes)}  # out here, not acknowledged
        self._counted: set[tuple[int, bytes]] = set()
        self._turn = 0
        self._is_busy = True  # as far as is known
        self._last: dict[int, EntryId] = {}  # of each lane: read, or known to be the end when nothing was to be read
        self._full: list[Reading] = []  # had more than they could give
        # The lanes that were held when the owners were last watched, on which connection; see decision 0024.
        self._watched: frozenset[int] = frozenset()
        self._watched_on = 0

    async def create(self) -> None:
        """Have the consumer group on each lane; one that is there keeps its position.

        Raises:
            TransportUnavailableError: The server is away.
        """
        begins_at = {"latest": "$", "earliest": "0"}[self._consumer.start]
        replies = [
            self._pipe.ask(packed("XGROUP", "CREATE", self._names.lane(lane), self.name, begins_at, "MKSTREAM"))
            for lane in range(self._lanes)
        ]
        for reply in replies:
            try:
                await reply
            except TransportRefusedError as exc:
                if not exc.problem.startswith("BUSYGROUP"):
                    raise

    async def hold(self, leases: Leases, member: str) -> None:
        """Read the lanes of ``leases`` as ``member``."""
        self._leases, self._member = leases, member
        await leases.begin()
        self.look()

    def look(self) -> None:
        """See which lanes are held now."""
        held = {} if self._leases is None else self._leases.held
        for number in [number for number in self._readings if held.get(number) is not self._readings[number].lane]:
            del self._readings[number]
        for number, lane in held.items():
            if number not in self._readings:
                self._readings[number] = Reading(lane)
        if self._change is not None:
            wake(self._change)
        self._wire.wake()

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for entries and return up to ``most``; see ``Source``."""
        readings = self._in_turn()
        if not readings:
            self._change = asyncio.get_running_loop().create_future()
            await self._change
            return []
        try:
            if self._are_watched(readings):
                found = await self._read_watched(readings, most)
            else:
                found = await self._read_by_script(readings, most)
        except LostReplyError:
            self._begin_anew(readings)
            return []
        except BaseException:
            self._begin_anew(readings)
            raise
        asked = {reading.lane.number: reading for reading in readings}
        received = await self._take({n: reading for n, reading in asked.items() if self._reads(reading)}, found)
        self._is_busy = len(received) >= _BUSY
        return received

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Acknowledge entries; see ``Source``."""
        ids: dict[int, list[bytes]] = {}
        for incoming in done:
            lane, entry = incoming.receipt
            ids.setdefault(lane, []).append(entry)
        commands = [packed("XACK", self._names.lane(lane), self.name, *entries) for lane, entries in ids.items()]
        counted = [incoming.receipt for incoming in done if incoming.receipt in self._counted]
        if counted:
            fields = [_field(*receipt) for receipt in counted]
            commands.append(packed("HDEL", self._names.attempts(self.name), *fields))
        for reply in [self._pipe.ask(command) for command in commands]:
            await reply
        for incoming in done:
            self._forget(incoming)

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Keep the number of attempts; see ``Source``."""
        self._counted.add(incoming.receipt)
        command = packed("HSET", self._names.attempts(self.name), _field(*incoming.receipt), attempts)
        await self._pipe.ask(command)

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Know it no more; see ``Source``."""
        self._forget(incoming)
        if not has_begun:  # whoever gets it then need not suspect that it ended this process
            command = packed("HSETNX", self._names.attempts(self.name), _field(*incoming.receipt), 0)
            self._pipe.ask(command)

    async def close(self) -> None:
        """Give back the lanes."""
        self._readings.clear()
        await self._wire.close()
        if self._leases is not None:
            try:
                await self._leases.end()
            except AvxEventsError as exc:
                log.warning("the lanes of %s are held until their time is up: %s", self.name, exc)

    def _forget(self, incoming: Incoming) -> None:
        lane, entry = incoming.receipt
        self._given[lane].discard(entry)
        self._counted.discard(incoming.receipt)

    def _in_turn(self) -> list[Reading]:
        """Return the lanes in the order in which they are asked: each is the first one in turn."""
        readings = list(self._readings.values())
        if not readings:
            return []
        self._turn = (self._turn + 1) % len(readings)
        return readings[self._turn :] + readings[: self._turn]

    def _begin_anew(self, readings: list[Reading]) -> None:
        """Ask first for what may have been given out without coming here."""
        for reading in readings:
            reading.cursor = _FIRST
        self._watched = frozenset()

    def _are_watched(self, readings: list[Reading]) -> bool:
        """Tell whether all there is to be read of ``readings`` is what is new, of lanes that are watched."""
        return all(
            not reading.cursor and reading.lane.number in self._last and reading.lane.number in self._watched
            for reading in readings
        )

    async def _read_watched(self, readings: list[Reading], most: int) -> list[Any]:
        """Read what is new, unless somebody has changed the owners since they were looked at."""
        readings = [reading for reading in self._full if self._reads(reading)] or readings
        readings, self._full = readings[:most], []
        each = most // len(readings)
        by_stream = {self._names.lane(reading.lane.number).encode(): reading for reading in readings}
        group: tuple[Argument, ...] = ("XREADGROUP", "GROUP", self.name, self._member, "COUNT", each)
        read = packed(*group, "STREAMS", *by_stream, *[">"] * len(readings))
        wait = self._wait_command(list(self._readings.values()))
        _, _, done = await self._exchange([_MULTI, read, _EXEC], wait=wait, on=self._watched_on)
        if done is None or isinstance(done[0], Exception):  # the owners have changed, or a group is gone
            self._watched = frozenset()  # the script finds out which
            return []
        found: list[Any] = []
        for stream, entries in done[0] or ():
            reading = by_stream[stream]
            found.append((reading.lane.number, b"new", entries))
            if len(entries) == each:
                self._full.append(reading)
        return found

    async def _read_by_script(self, readings: list[Reading], most: int) -> list[Any]:
        """Read whatever there is, each lane in one step with the look who owns it."""
        self._full = []
        (found,) = await self._exchange([self._script_command(readings, most)], wait=self._wait_command(readings))
        return list(found)

    async def _exchange(self, reads: list[Packed], *, wait: Packed | None, on: int | None = None) -> list[Any]:
        """Return the replies to ``reads``, and watch the owners from then on."""
        lanes = list(self._readings)
        watch = (packed("WATCH", self._owners), packed("HMGET", self._owners, *lanes))
        *replies, _, owners = await self._wire.read([*reads, *watch], wait=wait, on=on)
        member = self._member.encode()
        self._watched = frozenset(lane for lane, owner in zip(lanes, owners, strict=True) if owner == member)
        self._watched_on = self._wire.connections
        return replies

    def _script_command(self, readings: list[Reading], most: int) -> bytes:
        keys = [self._owners, *(self._names.lane(reading.lane.number) for reading in readings)]
        arguments: list[Any] = [self.name, self._member, most]
        for reading in readings:
            number = reading.lane.number
            arguments += [number, reading.cursor or (_NEW if number in self._last else _NEW_OR_END)]
        return packed("EVAL", READ, len(keys), *keys, *arguments)

    def _reads(self, reading: Reading) -> bool:
        """Tell whether the lane was held without a break since it was asked; else its order would not be kept."""
        return self._readings.get(reading.lane.number) is reading

    def _wait_command(self, readings: list[Reading]) -> bytes | None:
        """Return what waits for something new; None where something may be there already."""
        if self._is_busy or any(reading.cursor or reading.lane.number not in self._last for reading in readings):
            return None
        streams = [self._names.lane(reading.lane.number) for reading in readings]
        after = ["{}-{}".format(*self._last[reading.lane.number]) for reading in readings]
        return packed("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", *streams, *after)

    async def _take(self, asked: dict[int, Reading], reply: list[Any]) -> list[Incoming]:
        """Return what a reply holds of the lanes that were ``asked``, once all that must be known is known."""
        attempts = await self._attempts_of([(int(lane), *rest) for lane, what, *rest in reply if what == b"again"])
        received: list[Incoming] = []
        broken: list[tuple[int, bytes]] = []
        for text, what, *rest in reply:
            number = int(text)
            reading = asked.get(number)
            if what == b"error":
                broken.append((number, rest[0]))
            elif reading is None or not self._reads(reading):
                continue
            elif what == b"lost":
                del self._readings[number]
                reading.lane.is_lost = True
            elif what == b"end":
                self._last[number] = entry_id(rest[0])
            elif what == b"new":
                received += self._received(reading, rest[0], None)
            else:
                cursor, entries, gone = rest
                reading.cursor = _NEW if cursor == _LAST_PAGE else cursor
                received += self._received(reading, entries, attempts)
                self._say_what_is_gone(number, gone)
        if broken and not received:
            await self._mend(*broken[0])
        return received

    def _received(self, reading: Reading, entries: list[Any], attempts: "dict[Receipt, int] | None") -> list[Incoming]:
        """Return the entries of a lane; ``attempts`` are those of entries that come again."""
        number, given = reading.lane.number, self._given[reading.lane.number]
        received: list[Incoming] = []
        for entry, fields in entries:
            if entry in given:  # it is here: the lane came back while a handler still runs
                continue
            given.add(entry)
            known = None if attempts is None else attempts.get((number, entry))
            incoming = incoming_of(reading.lane, (number, entry), fields)
            incoming.attempts = known or 0
            incoming.is_redelivered = attempts is not None and known is None
            received.append(incoming)
        if entries:
            self._last[number] = max(self._last.get(number, (0, 0)), entry_id(entries[-1][0]))
        return received

    async def _attempts_of(self, again: "list[tuple[int, bytes, list[Any], list[bytes]]]") -> "dict[Receipt, int]":
        receipts: list[Receipt] = [(number, entry) for number, _, entries, _ in again for entry, _ in entries]
        if not receipts:
            return {}
        fields = [_field(*receipt) for receipt in receipts]
        counts = await self._pipe.ask(packed("HMGET", self._names.attempts(self.name), *fields))
        known = {receipt: int(count) for receipt, count in zip(receipts, counts, strict=True) if count is not None}
        self._counted.update(known)
        return known

    def _say_what_is_gone(self, lane: int, gone: list[bytes]) -> None:
        if gone:
            log.error(
                "%s lost %d events of lane %d: Redis was made to delete them before they were handled",
                self.name,
                len(gone),
                lane,
            )

    async def _mend(self, lane: int, message: bytes) -> None:
        """Make a consumer group again that somebody deleted, or whose server lost it."""
        text = message.decode(errors="replace")
        if "NOGROUP" not in text:
            raise TransportUnavailableError(self._server, text)
        last = self._last.get(lane)
        begins_at = "0" if last is None else "{}-{}".format(*last)
        log.error("the consumer group %s is gone from lane %d; it goes on after %s", self.name, lane, begins_at)
        command = packed("XGROUP", "CREATE", self._names.lane(lane), self.name, begins_at, "MKSTREAM")
        await self._pipe.ask(command)


def _field(lane: int, entry: bytes) -> bytes:
    return b"%d:%b" % (lane, entry)


def entry_id(text: bytes) -> EntryId:
    """Return an id of a stream's entry as numbers, which can be compared."""
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence or 0)
