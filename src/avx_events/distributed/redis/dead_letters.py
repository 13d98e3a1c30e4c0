"""Dead letters in Redis, beside the log: they are kept until somebody redrives or removes them.

| key | type | what it holds |
|---|---|---|
| ``avx:letters`` | hash | id → the letter, JSON; see ``bus/dead_letter_codec.py`` |
| ``avx:letters:order`` | sorted set | the ids, all with score 0, so that Redis sorts them by their bytes |
| ``avx:letters:facts`` | hash | id → JSON of what filters ask: handler, event_type, error_type, dead_at_us |
| ``avx:letters:claims`` | hash | id → who redrives it, and until which millisecond of the server's clock |
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import decode_or_describe, encode, portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.bus.remote.ports import TransportOptions
from avx_events.bus.remote.redrives import encode_redrive
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    TransportRefusedError,
    WrongLoopError,
)
from avx_events.core.metadata import EPOCH
from avx_events.distributed.redis.names import LAYOUT_VERSION, Names, consumer_of
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.scripts import ASK_FOR_REDRIVE
from avx_events.distributed.redis.wire import Argument, Packed, Servers, packed

log = logging.getLogger("avx_events")

# So much of documents in one reply, as far as they are more than one, and so many letters looked at for it: Redis does
# nothing else meanwhile, and the loop neither while it decodes them.
_PAGE_BYTES: Final = 262_144
_PAGE_LETTERS: Final = 1_000
_MICROSECOND: Final = timedelta(microseconds=1)
_OPTIONS: Final = {"namespace", "timeout_s"}
_ASKED_FOR_MS: Final = 10_000
"""How long members may see that they are asked: each beat looks, and there is one a second at least."""

# The scripts have the keys of the table above, in its order. Claims are "owner.number milliseconds"; an owner is one
# ``RedisDeadLetters``, and each claim of its has a number of its own, so that one that is sent twice is known again.
_FUNCTIONS: Final = """
local function claimed_by(owner, id)
  local claim = redis.call('HGET', KEYS[4], id)
  return claim and string.sub(claim, 1, #owner) == owner
end
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function forget(id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  redis.call('HDEL', KEYS[4], id)
  return redis.call('HDEL', KEYS[1], id)
end
local function page(after, most)
  return redis.call('ZRANGEBYLEX', KEYS[2], after, '+', 'LIMIT', 0, most)
end
local function matches(wanted, id)
  if next(wanted) == nil then return true end
  local read, facts = pcall(cjson.decode, redis.call('HGET', KEYS[3], id) or '')
  if not read or type(facts) ~= 'table' then return false end
  for _, name in ipairs({'handler', 'event_type', 'error_type'}) do
    if wanted[name] and facts[name] ~= wanted[name] then return false end
  end
  local at = tonumber(facts.dead_at_us) or 0
  return at >= (wanted.since_us or at) and at <= (wanted.until_us or at)
end
"""
# ARGV: id, document, facts, owner. A claim of another is left to it: whoever puts a letter then has lost its own.
_PUT: Final = f"""{_FUNCTIONS}
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
if claimed_by(ARGV[4], ARGV[1]) then redis.call('HDEL', KEYS[4], ARGV[1]) end
return 1
"""
# ARGV: id, claim, milliseconds.
_CLAIM: Final = f"""{_FUNCTIONS}
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local now = now_ms()
local claim, ends = string.match(redis.call('HGET', KEYS[4], ARGV[1]) or '', '^(%S+) (%d+)$')
if claim and claim ~= ARGV[2] and tonumber(ends) > now then return 0 end
redis.call('HSET', KEYS[4], ARGV[1], string.format('%s %d', ARGV[2], now + tonumber(ARGV[3])))
return 1
"""
# ARGV: owner, milliseconds, ids. Gives the ids that others have claimed.
_RENEW: Final = f"""{_FUNCTIONS}
local ends, lost = now_ms() + tonumber(ARGV[2]), {{}}
for i = 3, #ARGV do
  if claimed_by(ARGV[1], ARGV[i]) then
    local claim = string.match(redis.call('HGET', KEYS[4], ARGV[i]), '^%S+')
    redis.call('HSET', KEYS[4], ARGV[i], string.format('%s %d', claim, ends))
  elseif redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""
# ARGV: owner, or one claim of its, id.
_RELEASE: Final = f"""{_FUNCTIONS}
if claimed_by(ARGV[1], ARGV[2]) then redis.call('HDEL', KEYS[4], ARGV[2]) end
return 1
"""
# ARGV: owner.
_RELEASE_ALL: Final = f"""{_FUNCTIONS}
for _, id in ipairs(redis.call('HKEYS', KEYS[4])) do
  if claimed_by(ARGV[1], id) then redis.call('HDEL', KEYS[4], id) end
end
return 1
"""
# ARGV: id.
_DISCARD: Final = f"""{_FUNCTIONS}
return forget(ARGV[1])
"""
# ARGV: id. Gives document and facts.
_GET: Final = """
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[3], ARGV[1])}
"""
# ARGV: filter, begin, how many letters at most, how many to look at, how many bytes. Gives where to go on, if there is
# anything left to look at, then id, document and facts of each.
_SELECT: Final = f"""{_FUNCTIONS}
local wanted, most, bytes = cjson.decode(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[5])
local ids = page(ARGV[2], tonumber(ARGV[4]))
local found, last = {{}}, false
if #ids == tonumber(ARGV[4]) then last = ids[#ids] end
for i, id in ipairs(ids) do
  if matches(wanted, id) then
    local document = redis.call('HGET', KEYS[1], id)
    if document then
      for _, part in ipairs({{id, document, redis.call('HGET', KEYS[3], id)}}) do found[#found + 1] = part end
      most, bytes = most - 1, bytes - #document
      if most == 0 or bytes <= 0 then
        last = id
        break
      end
    end
  end
end
table.insert(found, 1, last)
return found
"""
# ARGV: filter, how many letters to look at between two questions.
_PURGE: Final = f"""{_FUNCTIONS}
local wanted, gone = cjson.decode(ARGV[1]), 0
if next(wanted) == nil then
  gone = redis.call('HLEN', KEYS[1])
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
end
local ids = page('-', ARGV[2])
while #ids > 0 do
  for _, id in ipairs(ids) do
    if matches(wanted, id) then gone = gone + forget(id) end
  end
  ids = page('(' .. ids[#ids], ARGV[2])
end
return gone
"""


class _Facts(msgspec.Struct):
    """What filters ask of a letter, and what is known of one whose document cannot be read."""

    handler: str = ""
    event_type: str | None = None
    error_type: str = ""
    dead_at_us: int = 0


_read_facts = msgspec.json.Decoder(_Facts).decode
_write = msgspec.json.Encoder().encode


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "RedisDeadLetters":
    """Open the dead letters of a namespace, on a connection of their own: for a bus in memory, or a look from outside.

    Args:
        url: As for a bus, with two of its options as the query, where they are not ``avx`` and 10 seconds:
            ``redis://localhost:6379/0?namespace=billing&timeout_s=5``. All else of the query is redis-py's.
        clock: Says when claims are renewed. When one is over the server says.

    Raises:
        InvalidArgumentError: The URL is none of Redis's, or an option none that a bus could have.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for a password, or the namespace has another layout.
    """
    place, options = _split(url)
    names = Names(options.namespace)
    servers = Servers(place, timeout_s=options.timeout_s, client=options.client)
    pipe = Pipe(servers, timeout_s=options.timeout_s, clock=clock, what="avx-events redis: dead letters")
    try:
        await pipe.connect()
        _check_layout(await pipe.ask(packed("HGET", names.meta, "version")), servers.name)
    except BaseException:
        await pipe.close()
        raise
    return RedisDeadLetters(pipe, names, clock=clock, hang_up=pipe.close)


class RedisDeadLetters:
    """The dead letters of one namespace, as a ``DeadLetterStore``."""

    def __init__(
        self,
        pipe: Pipe,
        names: Names,
        *,
        clock: Clock,
        lease_s: float = LEASE_S,
        hang_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Claim nothing yet, for the running loop.

        Args:
            pipe: What commands go over.
            names: The keys of the namespace.
            clock: Says when claims are renewed.
            lease_s: How long the claim of a process that died lasts, in seconds.
            hang_up: Called last when the letters are closed; None where ``pipe`` is somebody else's.
        """
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._names = names
        self._keys = (names.letters, f"{names.letters}:order", f"{names.letters}:facts", f"{names.letters}:claims")
        self._owner = f"{secrets.token_hex(16)}."
        self._numbers = count(1)
        self._lease_ms = max(int(lease_s * 1000), 1)
        self._leases = ClaimLeases(self._renew, clock=clock, lease_s=lease_s)
        self._hang_up = hang_up
        self._is_closed = self._has_claimed = False

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``."""
        self._check("keep a dead letter")
        try:
            await self._ask(_PUT, portable(letter.id), encode(letter), _write(_facts_of(letter)), self._owner)
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        self._check("read a dead letter")
        name = portable(letter_id)
        document, facts = await self._ask(_GET, name)
        return None if document is None else _letter(name.encode(), document, facts)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        self._check("claim a dead letter")
        name, claim = portable(letter_id), f"{self._owner}{next(self._numbers)}"
        self._has_claimed = True
        try:
            is_claimed = bool(await self._ask(_CLAIM, name, claim, self._lease_ms))
        except BaseException:
            _forget(self._ask(_RELEASE, f"{claim} ", name))  # nobody is told whether it was claimed
            raise
        if is_claimed and not self._is_closed:
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._check("release a dead letter")
        self._leases.drop(letter_id)
        await self._ask(_RELEASE, self._owner, portable(letter_id))

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        """Have the members asked; see ``BrokerDeadLetterStore.ask_for_redrive``."""
        self._check("ask for a redrive")
        redrives = self._names.redrives(consumer_of(letter.group, letter.handler))
        await self._pipe.ask(packed("EVAL", ASK_FOR_REDRIVE, 1, redrives, encode_redrive(letter), _ASKED_FOR_MS))

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first; Redis looks for them, page by page."""
        wanted = _wanted(letter_filter)
        begin = b"-" if after is None else b"(" + portable(after).encode()
        found: list[DeadLetter] = []
        while limit is None or len(found) < limit:
            self._check("list dead letters")
            most = _PAGE_LETTERS if limit is None else limit - len(found)
            last, *parts = await self._ask(_SELECT, wanted, begin, most, _PAGE_LETTERS, _PAGE_BYTES)
            found += [_letter(*parts[number : number + 3]) for number in range(0, len(parts), 3)]
            if last is None:
                break
            begin = b"(" + last
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._check("remove a dead letter")
        self._leases.drop(letter_id)  # also where that fails: its work is done
        return bool(await self._ask(_DISCARD, portable(letter_id)))

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, in one step of Redis; return how many went."""
        self._check("remove dead letters")
        return int(await self._ask(_PURGE, _wanted(letter_filter), _PAGE_LETTERS))

    async def count(self) -> int:
        """Return how many letters there are."""
        self._check("count dead letters")
        return int(await self._pipe.ask(packed("HLEN", self._keys[0])))

    async def close(self) -> None:
        """Give up the claims, then the connection, if that is the letters' own. Harmless when repeated.

        Raises:
            WrongLoopError: It is called on another loop while its own runs.
        """
        if self._loop.is_running() and asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", "close")
        is_first, self._is_closed = not self._is_closed, True
        try:
            await self._leases.close()
            if is_first and self._has_claimed:
                with suppress(AvxEventsError):  # a server that is away: the claims end by themselves
                    await self._ask(_RELEASE_ALL, self._owner)
        finally:
            if self._hang_up is not None:
                await self._hang_up()

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        names = {portable(letter_id).encode(): letter_id for letter_id in letter_ids}
        lost: list[bytes] = await self._ask(_RENEW, self._owner, self._lease_ms, *names)
        return [names[name] for name in lost]

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", action)

    def _ask(self, script: str, *arguments: Argument) -> "asyncio.Future[Any]":
        command: Packed = packed("EVAL", script, len(self._keys), *self._keys, *arguments)
        return self._pipe.ask(command)


def _split(url: str) -> tuple[str, TransportOptions]:
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise InvalidArgumentError("url", url, expected=f"a Redis URL, as 'redis://localhost:6379/0' ({exc})") from exc
    query = parse_qsl(parts.query, keep_blank_values=True)
    given: dict[str, Any] = {name: value for name, value in query if name in _OPTIONS}
    if "timeout_s" in given:
        given["timeout_s"] = _number("timeout_s", given["timeout_s"])
    place = parts._replace(query=urlencode([one for one in query if one[0] not in _OPTIONS])).geturl()
    return place, TransportOptions(**given)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise InvalidArgumentError(name, text, expected="a finite number of seconds, more than 0") from exc


def _check_layout(version: bytes | None, server: str) -> None:
    if version not in (None, LAYOUT_VERSION.encode()):
        remedy = "run the same version of avx-events everywhere, or use another namespace"
        raise TransportRefusedError(server, f"the namespace has layout {version.decode()}", remedy=remedy)


def _facts_of(letter: DeadLetter) -> _Facts:
    event_type = letter.event_type
    return _Facts(
        portable(letter.handler),
        None if event_type is None else portable(event_type),
        portable(letter.error_type),
        _us(letter.dead_at),
    )


def _wanted(letter_filter: LetterFilter) -> bytes:
    texts = {
        "handler": letter_filter.handler,
        "event_type": letter_filter.event_type,
        "error_type": letter_filter.error_type,
    }
    instants = {"since_us": letter_filter.since, "until_us": letter_filter.until}
    wanted: dict[str, object] = {name: portable(text) for name, text in texts.items() if text is not None}
    wanted |= {name: _us(instant) for name, instant in instants.items() if instant is not None}
    return _write(wanted)


def _us(instant: datetime) -> int:
    return (instant - EPOCH) // _MICROSECOND


def _letter(name: bytes, document: bytes, facts: bytes | None) -> DeadLetter:
    try:
        known = _Facts() if facts is None else _read_facts(facts)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # another program's
        known = _Facts()
    return decode_or_describe(
        document,
        id=name.decode(errors="backslashreplace"),
        handler=known.handler,
        error_type=known.error_type,
        dead_at=EPOCH + known.dead_at_us * _MICROSECOND,
    )


def _forget(future: "asyncio.Future[Any]") -> None:
    """Let ``future`` end as it likes."""
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
