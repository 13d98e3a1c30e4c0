"""Commands of many tasks over one connection: those that come together go out together."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec

from avx_events.bus.remote.gate import Gate
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, TransportRefusedError, TransportUnavailableError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.redis.wire import Packed, Servers, Wire, WireError, problem_of

_MOST_AT_ONCE: Final = 500
_MOST_BYTES_AT_ONCE: Final = 4 << 20
_MOST_BYTES: Final = 16 << 20
_MOST: Final = 10_000
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0


Unconfirmed: TypeAlias = Callable[[str], Exception]
"""Makes the error of a command that was sent and may have been done, of what happened."""


class Command(msgspec.Struct, gc=False):
    """What waits to be sent, or for its reply."""

    packed: Packed
    reply: "asyncio.Future[Any]"
    deadline: float
    unconfirmed: Unconfirmed | None


class Pipe:
    """Sends commands in the order of the calls; one batch is on its way at a time.

    While the server is away, commands wait up to ``timeout_s`` seconds each, and no longer than for one attempt to
    reach it once it has been away for so long; those that may have been done, and must not be done twice, fail at once.
    """

    def __init__(self, servers: Servers, *, timeout_s: float, clock: Clock, what: str) -> None:
        """Begin without a connection; ``what`` is the task's name."""
        self._loop = asyncio.get_running_loop()  # to ask for it costs a system call each time
        self._servers = servers
        self._wire: Wire = servers.wire()
        self._timeout_s = timeout_s
        self._clock = clock
        self._what = what
        self._waiting: deque[Command] = deque()
        self._bytes = 0
        self._sender: asyncio.Future[None] | None = None
        self._gate = Gate(self._has_room)
        self._tasks = TaskScope()
        self._away_since: float | None = None
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may."""
        return self._gate.is_shut

    async def connect(self) -> None:
        """Make the connection, waiting up to ``timeout_s`` seconds for the server.

        Raises:
            TransportUnavailableError: It did not answer.
            TransportRefusedError: It asks for a password or for TLS.
        """
        await self.ask(_PING)

    def ask(self, command: Packed, *, unconfirmed: Unconfirmed | None = None) -> "asyncio.Future[Any]":
        """Send ``command``; the future gives its reply, or fails.

        It fails with ``TransportUnavailableError`` (not sent, or the server did nothing) or ``TransportRefusedError``.
        One that may have been done is sent again or, where that would do harm, fails with what ``unconfirmed`` gives.
        One that is cancelled before it was sent is not sent.
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self._is_closed:
            reply.set_exception(ClosedError(f"the connection to {self._servers.name}", "use it"))
            return reply
        now = self._clock.monotonic()
        is_long_away = self._away_since is not None and now - self._away_since > self._timeout_s
        deadline = now if is_long_away else now + self._timeout_s
        self._waiting.append(Command(command, reply, deadline, unconfirmed))
        if not self._tasks:
            self._tasks.spawn(self._run(), name=self._what)
        self._bytes += len(command)
        if self._sender is not None:
            wake(self._sender)
        return reply

    async def room(self) -> None:
        """Wait until less waits than may, first come first served."""
        await self._gate.wait()

    async def close(self) -> None:
        """Send what waits, then close the connection. Harmless when repeated."""
        if self._waiting and self._tasks:
            with suppress(AvxEventsError):
                await self.ask(_PING)  # whose answer comes last
        self._is_closed = True
        await self._tasks.cancel()
        await self._wire.close()

    async def _run(self) -> None:
        batch: list[Command] = []
        try:
            while True:
                if not self._waiting:
                    self._sender = self._loop.create_future()
                    await self._sender
                    self._sender = None
                    continue
                if await self._is_ready():
                    batch = self._take()
                    await self._exchange(batch)
                    batch = []
        finally:
            self._is_closed = True
            for command in [*batch, *self._waiting]:
                _fail(command, TransportUnavailableError(self._servers.name, "it was closed"))

    async def _is_ready(self) -> bool:
        """Have a connection; False when nothing waits for it any more."""
        if self._wire.is_connected:
            await self._wire.look()  # what is not sent on a dead connection need not be unknown
        pause_s = _FIRST_PAUSE_S
        while not self._wire.is_connected:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._wire.connect()
            except (WireError, TimeoutError) as exc:
                self._be_away()
                self._refuse_late(getattr(exc, "problem", f"no answer within {self._timeout_s:g} s"))
            except TransportRefusedError as exc:
                self._refuse_all(exc)
            if not self._waiting:
                return False
            if not self._wire.is_connected:
                await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return True

    def _take(self) -> list[Command]:
        batch: list[Command] = []
        size = 0
        while self._waiting and len(batch) < _MOST_AT_ONCE and size < _MOST_BYTES_AT_ONCE:
            command = self._waiting.popleft()
            self._bytes -= len(command.packed)
            if not command.reply.done():
                size += len(command.packed)
                batch.append(command)
        self._gate.let_in()
        return batch

    def _has_room(self) -> bool:
        return self._bytes <= _MOST_BYTES and len(self._waiting) <= _MOST

    async def _exchange(self, batch: list[Command]) -> None:
        if not batch:
            return
        try:
            replies = await self._wire.exchange([command.packed for command in batch], timeout_s=self._timeout_s)
        except WireError as exc:
            self._be_away()
            self._unconfirmed(batch, exc.problem)
            return
        except TransportRefusedError as exc:
            self._waiting.extendleft(reversed(batch))
            self._bytes += sum(len(command.packed) for command in batch)
            self._refuse_all(exc)
            return
        self._away_since = None
        for command, reply in zip(batch, replies, strict=True):
            if command.reply.done():
                continue
            if isinstance(reply, Exception):
                _fail(command, problem_of(self._servers.name, reply))
            else:
                command.reply.set_result(reply)

    def _unconfirmed(self, batch: list[Command], problem: str) -> None:
        again: list[Command] = []
        for command in batch:
            if command.reply.done():
                continue
            if command.unconfirmed is None:
                again.append(command)
            else:
                _fail(command, command.unconfirmed(problem))
        self._waiting.extendleft(reversed(again))
        self._bytes += sum(len(command.packed) for command in again)
        self._refuse_late(problem)

    def _refuse_late(self, problem: str) -> None:
        """Fail what has waited for the server as long as it may."""
        now = self._clock.monotonic()
        while self._waiting and (self._waiting[0].reply.done() or self._waiting[0].deadline <= now):
            command = self._waiting.popleft()
            self._bytes -= len(command.packed)
            _fail(command, TransportUnavailableError(self._servers.name, problem))
        self._gate.let_in()

    def _refuse_all(self, error: TransportRefusedError) -> None:
        while self._waiting:
            command = self._waiting.popleft()
            self._bytes -= len(command.packed)
            _fail(command, error)
        self._gate.let_in()

    def _be_away(self) -> None:
        if self._away_since is None:
            self._away_since = self._clock.monotonic()


def _fail(command: Command, error: Exception) -> None:
    """Let ``command`` fail; whoever asked may have stopped waiting, and then nobody complains."""
    if not command.reply.done():
        command.reply.set_exception(error)
        command.reply.exception()


_PING: Final = b"*1\r\n$4\r\nPING\r\n"
