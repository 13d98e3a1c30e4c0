"""Looks at a namespace in Redis and at the server's settings, and changes nothing."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from avx_events.bus.remote.inspection import Finding, GroupStatus, MemberStatus
from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import Clock
from avx_events.core.errors import TransportRefusedError
from avx_events.distributed.redis.durability import SETTINGS, findings_in
from avx_events.distributed.redis.names import LAYOUT_VERSION, Names
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import Argument, Servers, packed

_MOST_COUNTED: Final = 100_000
_NOT_COUNTED: Final = -1

# KEYS: a lane. Gives the millisecond, and for each consumer group: its name, how many are pending, the id of the oldest
# of these, the id of the first that was given to nobody, how many of those there are or -1, the id after which they
# are, and its consumers: name, pending, milliseconds since they last read.
# Redis's own lag counts what was deleted unread, too, and is not known of a group that began in the middle.
_LANE: Final = """
local function named(reply)
  local fields = {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end
local time, found = redis.call('TIME'), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {now, found} end
local length = redis.call('XLEN', KEYS[1])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
for _, about in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group, consumers = named(about), {}
  for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group.name)) do
    local consumer = named(one)
    consumers[#consumers + 1] = {consumer.name, consumer.pending, consumer.idle}
  end
  local oldest = redis.call('XPENDING', KEYS[1], group.name)[2] or ''
  local after = group['last-delivered-id']
  local waiting = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 1)[1]
  local count = -1
  if not waiting then
    count = 0
  elseif waiting[1] == first[1] then
    count = length
  elseif group.lag then
    count = math.min(group.lag, length)
  end
  found[#found + 1] = {group.name, group.pending, oldest, waiting and waiting[1] or '', count, after, consumers}
end
return {now, found}
"""
# KEYS: a lane. ARGV: after which id. Gives how many entries follow, up to a bound of entries and of bytes, for which
# Redis does nothing else, and the id to go on after where there are more.
_COUNT: Final = """
local count, bytes, after = 0, 0, ARGV[1]
while count < 5000 and bytes < 1048576 do
  local page = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 50)
  for _, entry in ipairs(page) do
    for _, field in ipairs(entry[2]) do bytes = bytes + #field end
  end
  count = count + #page
  if #page < 50 then return {count, ''} end
  after = page[#page][1]
end
return {count, after}
"""


class _Share(msgspec.Struct):
    """What one member has of one lane, as Redis knows it."""

    member: str
    pending: int
    idle_s: float


class _GroupOnLane(msgspec.Struct):
    """A consumer group on one lane."""

    pending: int
    oldest_s: float
    waiting: int | None
    shares: list[_Share]


class RedisInspection:
    """One look at a namespace, over a connection of its own."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL is none of Redis's.
        """
        self._servers = Servers(url, timeout_s=options.timeout_s, client=options.client)
        self._namespace = options.namespace
        self._names = Names(options.namespace)
        self._pipe = Pipe(self._servers, timeout_s=options.timeout_s, clock=clock, what="avx-events redis: inspect")

    @property
    def name(self) -> str:
        """What errors call the server."""
        return self._servers.name

    async def open(self) -> None:
        """Reach the server.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for a password.
        """
        await self._pipe.connect()

    async def groups(self) -> Sequence[GroupStatus]:
        """Return the handlers of all groups; see ``Inspection``."""
        lanes, _ = await self._layout()
        answers = [self._pipe.ask(packed("EVAL_RO", _LANE, 1, self._names.lane(lane))) for lane in range(lanes)]
        found: dict[str, list[_GroupOnLane]] = {}
        for lane, answer in enumerate(answers):
            now_ms, groups = await answer
            for name, pending, oldest, first, count, after, consumers in groups:
                waiting = await self._counted(lane, after) if count == _NOT_COUNTED else count
                group = _GroupOnLane(pending, _age_s(now_ms, oldest, first), waiting, _shares(consumers))
                found.setdefault(_text(name), []).append(group)
        # What has no colon is a consumer group of another program.
        return [await self._status(name, on_lanes) for name, on_lanes in sorted(found.items()) if ":" in name]

    async def findings(self) -> Sequence[Finding]:
        """Return what the settings of the server and the namespace mean; see ``Inspection``."""
        settings = await self._if_permitted("CONFIG", "GET", *SETTINGS)
        info = await self._if_permitted("INFO")
        lanes, version = await self._layout()
        pairs = None if settings is None else dict(zip(*[iter(map(_text, settings))] * 2, strict=True))
        return [*findings_in(pairs, _fields(info)), self._about_namespace(lanes, version)]

    async def close(self) -> None:
        """Leave no connection."""
        await self._pipe.close()

    async def _layout(self) -> tuple[int, str]:
        """Return how many lanes the namespace has, 0 where it is not there, and the version of its layout."""
        partitions, version = await self._pipe.ask(packed("HMGET", self._names.meta, "partitions", "version"))
        return int(partitions) if (partitions or b"").isdigit() else 0, _text(version or b"")

    def _about_namespace(self, lanes: int, version: str) -> Finding:
        subject = self._namespace
        if not lanes:
            says = "No bus has used this namespace yet: there are no events, and no groups."
            return Finding(level="note", subject=subject, setting="partitions", value="0", says=says)
        if version != LAYOUT_VERSION:
            says = "It was made by another version of avx-events, and buses of this one refuse it."
            return Finding(level="risk", subject=subject, setting="version", value=version, says=says)
        says = "So many lanes the log has, and no more members than that share the work of a handler."
        return Finding(level="ok", subject=subject, setting="partitions", value=str(lanes), says=says)

    async def _if_permitted(self, *command: Argument) -> Any:
        """Return what the server answers; None where this user may not ask, or the command was taken away."""
        try:
            return await self._pipe.ask(packed(*command))
        except TransportRefusedError:
            return None

    async def _counted(self, lane: int, after: bytes) -> int | None:
        """Return how many entries follow on ``after``; None where they are too many to count."""
        total: int = 0
        while total < _MOST_COUNTED:
            count, after = await self._pipe.ask(packed("EVAL_RO", _COUNT, 1, self._names.lane(lane), after))
            total += count
            if not after:
                return total
        return None

    async def _status(self, name: str, on_lanes: list[_GroupOnLane]) -> GroupStatus:
        group, _, handler = name.partition(":")
        asked = (packed("ZRANGE", self._names.members(name), 0, -1), packed("HGETALL", self._names.owners(name)))
        members, owners = [await answer for answer in [self._pipe.ask(command) for command in asked]]
        lanes: dict[str, list[int]] = {_text(member): [] for member in members}
        for lane, owner in zip(owners[::2], owners[1::2], strict=True):
            if (member := _text(owner)) in lanes:
                lanes[member].append(int(lane))
        shares = [share for on_lane in on_lanes for share in on_lane.shares]
        pending = sum(on_lane.pending for on_lane in on_lanes)
        waiting = [on_lane.waiting for on_lane in on_lanes]
        return GroupStatus(
            group=group,
            handler=handler,
            members=_members(lanes, shares),
            lag_events=None if None in waiting else pending + sum(count or 0 for count in waiting),
            lag_seconds=max(on_lane.oldest_s for on_lane in on_lanes),
            in_flight=pending,
        )


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> RedisInspection:
    """Return what has reached its server.

    Raises:
        InvalidArgumentError: The URL is none of Redis's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for a password.
    """
    inspection = RedisInspection(url, options, clock=clock)
    try:
        await inspection.open()
    except BaseException:
        await inspection.close()
        raise
    return inspection


def _members(lanes: dict[str, list[int]], shares: Iterable[_Share]) -> tuple[MemberStatus, ...]:
    """Return the members that are known, and those that are not any more and whose work nobody has taken over."""
    pending: dict[str, int] = {}
    idle_s: dict[str, float] = {}
    for share in shares:
        pending[share.member] = pending.get(share.member, 0) + share.pending
        idle_s[share.member] = min(idle_s.get(share.member, share.idle_s), share.idle_s)
    dead = {member for member, count in pending.items() if count} - lanes.keys()
    return tuple(
        MemberStatus(
            name=name,
            lanes=tuple(sorted(lanes.get(name, ()))),
            in_flight=pending.get(name, 0),
            idle_s=idle_s.get(name),
        )
        for name in sorted(dead.union(lanes))
    )


def _shares(consumers: list[Any]) -> list[_Share]:
    return [_Share(_text(name), pending, idle_ms / 1000) for name, pending, idle_ms in consumers]


def _age_s(now_ms: int, *entries: bytes) -> float:
    """Return how many seconds ago the oldest of ``entries`` was written, by their ids; 0 where there is none."""
    written_ms = [int(entry.partition(b"-")[0]) for entry in entries if entry]
    return max((now_ms - min(written_ms)) / 1000, 0.0) if written_ms else 0.0


def _fields(info: bytes | None) -> dict[str, str]:
    lines = [line.partition(":") for line in _text(info or b"").splitlines()]
    return {name: value for name, colon, value in lines if colon}


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
