"""Commands of many tasks over one connection: those that come together go out together, and none waits for another."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import redis.exceptions

from avx_events.bus.remote.gate import Gate
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, TransportRefusedError, TransportUnavailableError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.redis.wire import Packed, Servers, Wire, WireError, problem_of

if TYPE_CHECKING:
    from avx_events.distributed.redis.flow import Flow

_MOST_ON_THE_WAY: Final = 1000
_MOST_BYTES_ON_THE_WAY: Final = 4 << 20
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
    """Sends commands in the order of the calls, those of one turn of the loop together; many are on their way at once.

    While the server is away, commands wait up to ``timeout_s`` seconds each, and no longer than for one attempt to
    reach it once it has been away for so long; those that may have been done, and must not be done twice, fail at once.
    """

    def __init__(self, servers: Servers, *, timeout_s: float, clock: Clock, what: str) -> None:
        """Begin without a connection; ``what`` is the task's name."""
        self._loop = asyncio.get_running_loop()  # to ask for it costs a system call each time
        self._servers = servers
        self._wire: Wire = servers.wire()
        self._flow: Flow | None = None
        self._timeout_s = timeout_s
        self._clock = clock
        self._what = what
        self._waiting: deque[Command] = deque()
        self._bytes_waiting = 0
        self._sent: deque[Command] = deque()
        self._bytes_sent = 0
        self._is_to_send = False
        self._is_connecting = False
        self._answered_at = 0.0  # or began to wait for an answer
        self._timer: asyncio.TimerHandle | None = None
        self._gate = Gate(self._has_room)
        self._tasks = TaskScope()
        self._away_since: float | None = None
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may."""
        # Each publish asks: what the gate would find out by two more calls.
        return len(self._waiting) > _MOST or self._bytes_waiting > _MOST_BYTES or bool(self._gate.waiting)

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
        self._bytes_waiting += len(command)
        if not self._is_to_send:
            self._is_to_send = True
            self._loop.call_soon(self._send)
        return reply

    async def room(self) -> None:
        """Wait until less waits than may, first come first served."""
        await self._gate.wait()

    async def close(self) -> None:
        """Send what somebody waits for, then close the connection. Harmless when repeated."""
        if self._sent or not all(command.reply.done() for command in self._waiting):
            with suppress(AvxEventsError):
                await self.ask(_PING)  # whose answer comes last
        await self._tasks.cancel()
        self._end()
        await self._wire.close()

    # Sending

    def _send(self) -> None:
        """Send what waits, as far as it may."""
        self._is_to_send = False
        flow = self._flow
        if not self._waiting or self._is_closed:
            return
        if flow is None:
            self._reach()
        elif not flow.is_clogged:
            packed = self._take()
            if packed:
                flow.write(b"".join(packed))
                self._watch()

    def _take(self) -> list[Packed]:
        """Have what waits on its way, and return it."""
        packed: list[Packed] = []
        waiting, sent = self._waiting, self._sent
        while waiting and len(sent) < _MOST_ON_THE_WAY and self._bytes_sent < _MOST_BYTES_ON_THE_WAY:
            command = waiting.popleft()
            size = len(command.packed)
            self._bytes_waiting -= size
            if not command.reply.done():
                self._bytes_sent += size
                sent.append(command)
                packed.append(command.packed)
        self._gate.let_in()
        return packed

    def _has_room(self) -> bool:
        return self._bytes_waiting <= _MOST_BYTES and len(self._waiting) <= _MOST

    # Replies: the three are called by the connection

    def take(self, replies: Sequence[Any]) -> None:
        """Give each its reply; see ``Listener``."""
        self._away_since = None
        self._answered_at = self._loop.time()
        sent = self._sent
        for reply in replies:
            if isinstance(reply, redis.exceptions.ConnectionError):
                self._break_off(reply)
                return
            command = sent.popleft()
            self._bytes_sent -= len(command.packed)
            if command.reply.done():
                continue
            if isinstance(reply, Exception):
                _fail(command, problem_of(self._servers.name, reply))
            else:
                command.reply.set_result(reply)
        if self._waiting:
            self._send()

    def go_on(self) -> None:
        """Send what waits; see ``Listener``."""
        self._send()

    def lose(self, problem: str) -> None:
        """Have sent again what was not answered, where it does no harm; see ``Listener``."""
        self._flow = None
        self._be_away()
        again: list[Command] = []
        for command in self._taken_back():
            if command.unconfirmed is None:
                again.append(command)
            else:
                _fail(command, command.unconfirmed(problem))
        self._wait_again(again)
        self._refuse_late(problem)
        if self._waiting:
            self._reach()

    def _break_off(self, reply: Exception) -> None:
        """End a connection on which the server does nothing of what was not answered yet, or says that it ends it."""
        flow = self._flow
        if isinstance(reply, redis.exceptions.AuthenticationError):  # one of the connection's errors for redis-py
            self._wait_again(self._taken_back())
            self._refuse_all(self._wire.refused(reply))
        if flow is not None:
            flow.give_up(str(reply) or type(reply).__name__)

    def _taken_back(self) -> list[Command]:
        """Return what was sent and is not answered, and is on its way no more."""
        unanswered = [command for command in self._sent if not command.reply.done()]
        self._sent.clear()
        self._bytes_sent = 0
        return unanswered

    def _wait_again(self, commands: list[Command]) -> None:
        self._waiting.extendleft(reversed(commands))
        self._bytes_waiting += sum(len(command.packed) for command in commands)

    def _watch(self) -> None:
        """See to it that what was sent is answered in time."""
        if self._timer is None:
            self._answered_at = self._loop.time()
            self._timer = self._loop.call_later(self._timeout_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._sent or self._flow is None:
            return
        due = self._answered_at + self._timeout_s
        if due <= self._loop.time():
            self._flow.give_up(f"no answer within {self._timeout_s} s")
        else:
            self._timer = self._loop.call_at(due, self._look)

    # The connection

    def _reach(self) -> None:
        if not self._is_connecting:
            self._is_connecting = True
            self._tasks.spawn(self._connect(), name=self._what)

    async def _connect(self) -> None:
        """Have a connection, as long as something waits for it."""
        pause_s = _FIRST_PAUSE_S
        try:
            while self._waiting and self._flow is None:
                await self._try_to_connect()
                if self._waiting and self._flow is None:
                    await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except BaseException:  # cancelled: nobody would send what waits
            self._end()
            raise
        self._is_connecting = False
        self._send()

    async def _try_to_connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._wire.close()  # what was lost
                await self._wire.connect()
            self._flow = self._wire.flow(self)
        except (WireError, TimeoutError) as exc:
            self._be_away()
            self._refuse_late(getattr(exc, "problem", f"no answer within {self._timeout_s:g} s"))
        except TransportRefusedError as exc:
            self._refuse_all(exc)

    def _refuse_late(self, problem: str) -> None:
        """Fail what has waited for the server as long as it may."""
        now = self._clock.monotonic()
        while self._waiting and (self._waiting[0].reply.done() or self._waiting[0].deadline <= now):
            command = self._waiting.popleft()
            self._bytes_waiting -= len(command.packed)
            _fail(command, TransportUnavailableError(self._servers.name, problem))
        self._gate.let_in()

    def _refuse_all(self, error: Exception) -> None:
        while self._waiting:
            command = self._waiting.popleft()
            self._bytes_waiting -= len(command.packed)
            _fail(command, error)
        self._gate.let_in()

    def _be_away(self) -> None:
        if self._away_since is None:
            self._away_since = self._clock.monotonic()

    def _end(self) -> None:
        """Be closed, and leave nobody waiting."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._flow is not None:
            self._flow.close()
        problem = "it was closed"
        for command in self._taken_back():
            unavailable = TransportUnavailableError(self._servers.name, problem)
            _fail(command, unavailable if command.unconfirmed is None else command.unconfirmed(problem))
        self._refuse_all(TransportUnavailableError(self._servers.name, problem))


def _fail(command: Command, error: Exception) -> None:
    """Let ``command`` fail; whoever asked may have stopped waiting, and then nobody complains."""
    if not command.reply.done():
        command.reply.set_exception(error)
        command.reply.exception()


_PING: Final = b"*1\r\n$4\r\nPING\r\n"
