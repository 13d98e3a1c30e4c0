"""Requests and replies over Redis: published to the inbox of one responder, answered into that of the requester.

Every bus has an inbox, a channel of its own. Who responds to a type is in a sorted set, by the millisecond at which it
counts as gone. Nothing is kept: a request is published to one who is there, and Redis says whether anybody heard it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast
from uuid import uuid4

import msgspec

from avx_events.bus.remote.asking import in_time
from avx_events.bus.remote.ports import Address, OnFailed, Question
from avx_events.core.errors import AvxEventsError, NoResponderError, TransportRefusedError, TransportUnavailableError
from avx_events.core.tasks import Changes, TaskScope
from avx_events.distributed.redis.names import Names
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import Servers, Wire, WireError, packed

log = logging.getLogger("avx_events")

_LIFE_S: Final = 10.0
"""How long a responder counts as there after its last sign of life."""
_BEAT_S: Final = _LIFE_S / 3
_KNOWN_FOR_S: Final = 1.0
"""How long a requester asks those that it knows, before it looks who else is there."""
_QUIET_S: Final = 5.0
"""After how much silence an inbox asks the server whether it is still there."""
_PAUSE_S: Final = 0.1

_QUESTION: Final = b"?"
_REPLY: Final = b"!"

# KEYS: responders of a type. ARGV: inbox, how long it counts as there (ms); 0 to leave.
_RESPOND: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) * 10)
"""
# KEYS: responders of a type. Gives the inboxes of those who are there.
_RESPONDERS: Final = """
local time = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000), '+inf')
"""


class _PerhapsAskedError(Exception):
    """A request was sent, and Redis did not say whether anybody heard it."""


class _Known:
    """Who responds to a type, as far as is known here, and whose turn it is."""

    def __init__(self) -> None:
        self.inboxes: list[bytes] = []
        self.until = 0.0
        self.looking = asyncio.Lock()
        self._turn = 0

    def next(self) -> bytes | None:
        if not self.inboxes:
            return None
        self._turn = (self._turn + 1) % len(self.inboxes)
        return self.inboxes[self._turn]

    def forget(self, inbox: bytes) -> None:
        with suppress(ValueError):  # another request found that out before
            self.inboxes.remove(inbox)


class _Asking(msgspec.Struct, frozen=True):
    """A request on its way.

    Attributes:
        event_type: Its type.
        message: What is published.
        timeout_s: How long it is worth anything.
        on_failed: Told where nobody gets it.
    """

    event_type: str
    message: bytes
    timeout_s: float
    on_failed: OnFailed


class RedisRequests:
    """One request-reply bus on one Redis."""

    def __init__(
        self,
        servers: Servers,
        pipe: Pipe,
        names: Names,
        *,
        timeout_s: float,
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        """Connect to nobody yet; ``open`` does.

        Args:
            servers: Where the connection of the inbox comes from.
            pipe: Where commands go.
            names: Of the namespace.
            timeout_s: How long the server may be away.
            on_close: Awaited at the end.
        """
        self._on_close = on_close
        self.name = servers.name
        self._names = names
        self._timeout_s = timeout_s
        self._pipe = pipe
        self._wire: Wire = servers.wire()
        self._inbox = names.inbox(uuid4().hex)
        self._asked = f"{self._inbox}:asked"
        self._is_asked = False  # as it is to be
        self._is_heard = False  # as Redis has said that it is
        self._is_open = False
        self._tuned = Changes()
        self._questions: dict[str, Callable[[Question], None]] = {}
        self._announced: set[str] = set()
        self._known: dict[str, _Known] = {}
        self._sending: set[asyncio.Future[Any]] = set()
        self._tasks = TaskScope()

    async def open(self, on_reply: Callable[[bytes], None]) -> None:
        """Have an inbox; see ``RequestTransport``."""
        is_listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._listen(on_reply, is_listening), name="avx-events redis: inbox")
        try:
            async with asyncio.timeout(self._timeout_s):
                await is_listening
        except TimeoutError as exc:
            problem = f"the inbox was not opened within {self._timeout_s:g} s"
            raise TransportUnavailableError(self.name, problem) from exc
        self._tasks.spawn(self._beat(), name="avx-events redis: respond")

    async def respond(self, event_type: str, on_question: Callable[[Question], None] | None) -> None:
        """Be asked, or not any more; see ``RequestTransport``."""
        if on_question is None:  # those who do not know yet are told that nobody answers, or that nobody hears it
            self._announced.discard(event_type)
            await self._pipe.ask(self._responding(event_type, 0))
            if not self._announced:
                await self._be_asked(is_asked=False)
        else:
            self._announced.add(event_type)
            self._questions[event_type] = on_question
            await self._be_asked(is_asked=True)
            await self._pipe.ask(self._responding(event_type, _LIFE_S))

    def ask(
        self,
        event_type: str,
        document: bytes,
        *,
        event_id: str,
        timeout_s: float,
        on_failed: OnFailed,
    ) -> None:
        """Give a request to somebody who is there; see ``RequestTransport``."""
        del event_id
        message = b"%b%b %b %d\n%b" % (
            _QUESTION,
            self._inbox.encode(),
            event_type.encode(),
            int(timeout_s * 1000),
            document,
        )
        known = self._known.get(event_type)
        if known is None:
            known = self._known[event_type] = _Known()
        asking = _Asking(event_type, message, timeout_s, on_failed)
        inbox = known.next() if known.until >= time.monotonic() else None
        if inbox is None:
            self._look_and_give(asking, known)
        else:
            giving = self._pipe.ask(packed("PUBLISH", inbox, message), unconfirmed=_PerhapsAskedError)
            giving.add_done_callback(partial(self._given, asking, known, inbox))

    def reply(self, to: Address, document: bytes) -> None:
        """Send a reply; see ``RequestTransport``."""
        sending = self._pipe.ask(packed("PUBLISH", to, _REPLY + document))
        self._sending.add(sending)
        sending.add_done_callback(self._sent)

    async def close(self) -> None:
        """Send what was replied, and leave no connection."""
        if self._sending:
            await asyncio.wait(set(self._sending))
        await self._tasks.cancel()
        await self._wire.close()
        await self._on_close()

    def _given(self, asking: _Asking, known: _Known, inbox: bytes, giving: "asyncio.Future[Any]") -> None:
        error = None if giving.cancelled() else giving.exception()
        if error is None and giving.result():
            return
        if isinstance(error, AvxEventsError):
            asking.on_failed(error)
        elif error is None:  # nobody is there; to ask another one does no harm
            known.forget(inbox)
            self._look_and_give(asking, known)

    def _look_and_give(self, asking: _Asking, known: _Known) -> None:
        giving = in_time(partial(self._give_to_any, asking, known), asking.timeout_s, asking.on_failed)
        self._tasks.spawn(giving, name="avx-events redis: look for a responder")

    async def _give_to_any(self, asking: _Asking, known: _Known) -> None:
        if not await self._give(known, asking.message):
            await self._look(asking.event_type, known)
            if not await self._give(known, asking.message):
                raise NoResponderError(asking.event_type)

    async def _give(self, known: _Known, message: bytes) -> bool:
        """Publish ``message`` to one of those who are ``known``; False where none of them is there."""
        if known.until < time.monotonic():
            known.inboxes.clear()
        while (inbox := known.next()) is not None:
            try:
                if await self._pipe.ask(packed("PUBLISH", inbox, message), unconfirmed=_PerhapsAskedError):
                    return True
            except _PerhapsAskedError:  # to ask again might have it done twice: the reply or the deadline tells
                return True
            known.forget(inbox)
        return False

    async def _look(self, event_type: str, known: _Known) -> None:
        """See who responds to a type now; one look for all who need it meanwhile."""
        async with known.looking:
            if not known.inboxes:
                known.inboxes = await self._pipe.ask(packed("EVAL", _RESPONDERS, 1, self._names.responders(event_type)))
                known.until = time.monotonic() + _KNOWN_FOR_S

    async def _be_asked(self, *, is_asked: bool) -> None:
        """Have requests come here, or not any more, and return when Redis has done that; at once where it is away."""
        if self._is_asked == is_asked:
            return
        self._is_asked = is_asked
        if self._is_open:
            with suppress(WireError, TimeoutError):  # the next connection is made as it is to be
                await self._tune()
                async with asyncio.timeout(self._timeout_s):
                    while self._is_heard != is_asked:
                        await self._tuned.wait()

    async def _tune(self) -> None:
        await self._wire.send(packed("SUBSCRIBE" if self._is_asked else "UNSUBSCRIBE", self._asked))

    def _responding(self, event_type: str, life_s: float) -> bytes:
        return packed("EVAL", _RESPOND, 1, self._names.responders(event_type), self._asked, int(life_s * 1000))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            for event_type in list(self._announced):
                try:
                    await self._pipe.ask(self._responding(event_type, _LIFE_S))
                except AvxEventsError as exc:
                    log.warning("the responder of %s is not announced: %s", event_type, exc)

    async def _listen(self, on_reply: Callable[[bytes], None], is_listening: "asyncio.Future[None]") -> None:
        while True:
            try:
                await self._wire.connect()
                is_asked = self._is_asked
                channels = [self._inbox, self._asked] if is_asked else [self._inbox]
                commands = [packed("SUBSCRIBE", channel) for channel in channels]
                await self._wire.exchange(commands, timeout_s=self._timeout_s)
                self._is_heard = is_asked
                if is_asked != self._is_asked:
                    await self._tune()
                self._is_open = True
                if not is_listening.done():
                    is_listening.set_result(None)
                await self._receive(on_reply)
            except (WireError, TransportRefusedError) as exc:
                self._is_open, self._is_heard = False, self._is_asked  # as the next connection will be
                self._tuned.tell()
                log.warning("the inbox at %s is away: %s", self.name, exc)
                await asyncio.sleep(_PAUSE_S)

    async def _receive(self, on_reply: Callable[[bytes], None]) -> None:
        while True:
            for pushed in await self._wire.receive(_QUIET_S, ask=_PING):
                parts = cast("list[bytes]", pushed) if isinstance(pushed, list) else [b""]
                if parts[0] in _TUNED:
                    self._is_heard = parts[0] == _TUNED[0]
                    self._tuned.tell()
                if parts[0] != b"message":  # a PONG, an error
                    continue
                message = parts[2]
                if message[:1] == _REPLY:
                    on_reply(message[1:])
                elif message[:1] == _QUESTION:
                    self._take(message)

    def _take(self, message: bytes) -> None:
        head, _, document = message[1:].partition(b"\n")
        try:
            inbox, event_type, timeout_ms = head.decode().split(" ")
            question = Question(document, inbox, int(timeout_ms) / 1000)
        except ValueError:
            log.warning("%s was sent a request without an address: %r", self.name, head[:100])
            return
        on_question = self._questions.get(event_type)
        if on_question is not None:
            on_question(question)

    def _sent(self, sending: "asyncio.Future[Any]") -> None:
        self._sending.discard(sending)
        error = None if sending.cancelled() else sending.exception()
        if error is not None:
            log.warning("a reply was not sent: %s", error)


_PING: Final = packed("PING")
_TUNED: Final = (b"subscribe", b"unsubscribe")
