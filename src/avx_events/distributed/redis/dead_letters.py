"""Dead letters in Redis, beside the log: they are kept until somebody redrives or removes them."""

import asyncio
import logging
from typing import Any, Final
from uuid import uuid4

from avx_events.bus import dead_letter_codec as codec
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.redis.names import Names
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import packed

log = logging.getLogger("avx_events")

_PAGE: Final = 200
_CLAIM_S: Final = 30.0
_RENEWALS_IN_A_CLAIM: Final = 3

# KEYS of all: letters (hash, id → document), order (sorted set of ids), claims (hash, id → holder and its last
# millisecond). ARGV[1] is the id but for PURGE.
_PUT: Final = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
"""
# ARGV: id, holder, how long (ms). Also renews.
_CLAIM: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claim = redis.call('HGET', KEYS[3], ARGV[1])
if claim and tonumber(string.match(claim, '%d+$')) > now and ARGV[4] ~= '1' then return 0 end
if ARGV[4] == '1' and not (claim and string.find(claim, ARGV[2], 1, true) == 1) then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. string.format('%d', now + tonumber(ARGV[3])))
return 1
"""
_RELEASE: Final = """
local claim = redis.call('HGET', KEYS[3], ARGV[1])
if claim and string.find(claim, ARGV[2], 1, true) == 1 then redis.call('HDEL', KEYS[3], ARGV[1]) end
return 1
"""
_DISCARD: Final = """
local gone = 0
for i = 1, #ARGV do
  gone = gone + redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  redis.call('HDEL', KEYS[3], ARGV[i])
end
return gone
"""


class RedisDeadLetters:
    """The dead letters of one namespace; a claim lasts as long as its process gives signs of life."""

    def __init__(self, pipe: Pipe, names: Names) -> None:
        """Claim nothing yet; commands go over ``pipe``."""
        self._pipe = pipe
        self._keys = (names.letters, f"{names.letters}:order", f"{names.letters}:claims")
        self._holder = uuid4().hex
        self._claimed: set[str] = set()
        self._tasks = TaskScope()

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; its claim ends."""
        await self._run(_PUT, letter.id, codec.encode(letter))
        self._claimed.discard(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        document = await self._pipe.ask(packed("HGET", self._keys[0], letter_id))
        return None if document is None else codec.decode(document)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; False where it is, or is not there."""
        is_ours = bool(await self._run(_CLAIM, letter_id, self._holder, int(_CLAIM_S * 1000), 0))
        if is_ours:
            self._claimed.add(letter_id)
            if not self._tasks:
                self._tasks.spawn(self._renew(), name="avx-events redis: renew claims")
        return is_ours

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this process."""
        self._claimed.discard(letter_id)
        await self._run(_RELEASE, letter_id, self._holder)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        found: list[DeadLetter] = []
        last = after
        while limit is None or len(found) < limit:
            begin = "-" if last is None else f"({last}"
            ids = await self._pipe.ask(packed("ZRANGEBYLEX", self._keys[1], begin, "+", "LIMIT", 0, _PAGE))
            if not ids:
                break
            last = ids[-1].decode()
            documents = await self._pipe.ask(packed("HMGET", self._keys[0], *ids))
            letters = [codec.decode(document) for document in documents if document is not None]
            found += [letter for letter in letters if letter_filter.matches(letter)]
        return found[:limit]

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._claimed.discard(letter_id)
        return bool(await self._run(_DISCARD, letter_id))

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, and return how many went."""
        gone = 0
        while letters := await self.select(letter_filter, limit=_PAGE):
            gone += int(await self._run(_DISCARD, *(letter.id for letter in letters)))
        return gone

    async def count(self) -> int:
        """Return how many letters there are."""
        return int(await self._pipe.ask(packed("HLEN", self._keys[0])))

    async def close(self) -> None:
        """Give up the claims. The connection is the bus's."""
        await self._tasks.cancel()
        claimed, self._claimed = self._claimed, set()
        for letter_id in claimed:
            await self.release(letter_id)

    async def _renew(self) -> None:
        while self._claimed:
            await asyncio.sleep(_CLAIM_S / _RENEWALS_IN_A_CLAIM)
            for letter_id in list(self._claimed):
                try:
                    await self._run(_CLAIM, letter_id, self._holder, int(_CLAIM_S * 1000), 1)
                except AvxEventsError as exc:
                    log.warning("the claim of dead letter %s is not renewed: %s", letter_id, exc)

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await self._pipe.ask(packed("EVAL", script, len(self._keys), *self._keys, *arguments))
