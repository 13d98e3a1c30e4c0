"""Messages of many tasks that are answered, over one connection: many are on their way at once, in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any, Final, TypeAlias
from uuid import uuid4

import msgspec

from avx_events.bus.remote.gate import Gate
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, TransportUnavailableError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.nats.frames import Frame, Message, frame
from avx_events.distributed.nats.wire import Wire

_MOST_ON_THE_WAY: Final = 1024
_MOST_BYTES_ON_THE_WAY: Final = 8 << 20
_MOST_WAITING: Final = 10_000
_MOST_BYTES_WAITING: Final = 16 << 20
_SWEEPS_IN_A_TIMEOUT: Final = 50
_PAUSE_S: Final = 0.1

Read: TypeAlias = Callable[[Message, int], Any]
"""Makes the result of an answer to a message of so many bytes, or raises what the answer says."""

Unconfirmed: TypeAlias = Callable[[str], Exception]
"""Makes the error of a message that was sent and may have been done, of what happened."""


class Request(msgspec.Struct, gc=False):
    """A message that waits to be sent, or for its answer.

    Attributes:
        number: Its place in the order of the calls.
        subject: Where to.
        message: As it goes over the wire.
        read: What makes its result.
        reply: Its result, for who asked.
        deadline: Until when it waits.
        unconfirmed: Makes its error where it was sent and not answered; None where to repeat it does no harm.
        is_in_doubt: Whether it was sent on a connection that was lost before the answer came.
    """

    number: int
    subject: str
    message: bytes
    read: Read
    reply: "asyncio.Future[Any]"
    deadline: float
    unconfirmed: Unconfirmed | None
    is_in_doubt: bool = False


_number: Final = attrgetter("number")


class Pipe:
    """Sends messages in the order of the calls, and gives each the answer to it.

    When the connection is lost, what was not answered is sent again on the next one, before everything else; so
    whatever is sent here must do no harm when it comes twice. What nobody listens to at the other end (``503``) was not
    done: it is sent again, after ``on_nobody`` had a chance to mend that. Each waits up to ``timeout_s`` seconds, and
    fails at once where the server has been away for so long.

    Attributes:
        inbox: What the subjects of answers begin with; the number of a message follows.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        timeout_s: float,
        clock: Clock,
        what: str,
        on_nobody: Callable[[], Any] | None = None,
    ) -> None:
        """Begin with nothing to send.

        Args:
            wire: The connection.
            timeout_s: How long an answer may take.
            clock: Time.
            what: The task's name.
            on_nobody: A coroutine function, called where nobody listened to what was sent.
        """
        self._loop = asyncio.get_running_loop()  # to ask for it costs a system call each time
        self._wire = wire
        self._timeout_s = timeout_s
        self._clock = clock
        self._what = what
        self._on_nobody = on_nobody
        self.inbox = f"_INBOX.{uuid4().hex}."
        self._inbox_bytes = len(self.inbox)
        self._next = 0
        self._waiting: deque[Request] = deque()
        self._sent: dict[int, Request] = {}
        self._refused: list[Request] = []  # nobody listened
        self._bytes_waiting = 0
        self._bytes_sent = 0
        self._is_to_send = False
        self._gate = Gate(self._has_room)
        self._drained: list[asyncio.Future[None]] = []
        self._tasks = TaskScope()
        self._is_closed = False
        wire.watch(on_up=self._wake, on_down=self._lost)

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may."""
        # Each publish asks: what the gate would find out by two more calls.
        is_too_much = len(self._waiting) > _MOST_WAITING or self._bytes_waiting > _MOST_BYTES_WAITING
        return is_too_much or bool(self._gate.waiting)

    async def open(self) -> None:
        """Listen to answers, and send."""
        self._wire.listen(f"{self.inbox}*", self._take)
        self._tasks.spawn(self._sweep(), name=f"{self._what}: deadlines")

    def ask(
        self,
        subject: str,
        body: bytes,
        read: Read,
        *,
        headers: dict[str, str] | None = None,
        unconfirmed: Unconfirmed | None = None,
    ) -> "asyncio.Future[Any]":
        """Send a message; the future gives what ``read`` makes of the answer.

        It fails with what ``read`` raises, with ``TransportUnavailableError`` (not sent, or repeating it is safe), or
        with what ``unconfirmed`` gives. One that is cancelled before it was sent is not sent.
        """
        self._next += 1
        message = frame(subject, body, reply=f"{self.inbox}{self._next}", headers=headers)
        return self._ask(subject, message, read, unconfirmed)

    def ask_around(
        self, frame: Frame, value: bytes, body: bytes, read: Read, *, unconfirmed: Unconfirmed | None
    ) -> "asyncio.Future[Any]":
        """Send a message of ``frame``, whose reply begins with ``inbox``; as ``ask`` does."""
        self._next += 1
        return self._ask(frame.subject, frame.around(self._next, value, body), read, unconfirmed)

    async def room(self) -> None:
        """Wait until less waits than may, first come first served."""
        await self._gate.wait()

    async def close(self) -> None:
        """Wait for the answers to what was sent, as long as they may take, and send no more. Harmless when repeated."""
        if self._tasks and not self._is_closed:
            while self._waiting or self._sent or self._refused:
                drained: asyncio.Future[None] = self._loop.create_future()
                self._drained.append(drained)
                await drained
        self._is_closed = True
        await self._tasks.cancel()
        self._lost()
        for request in self._waiting:
            self._fail(request, "it was closed")

    # Sending

    def _ask(self, subject: str, message: bytes, read: Read, unconfirmed: Unconfirmed | None) -> "asyncio.Future[Any]":
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self._is_closed:
            reply.set_exception(ClosedError(f"the connection to {self._wire.name}", "use it"))
            return reply
        now = self._clock.monotonic()
        deadline = now if self._wire.is_away_for(self._timeout_s) else now + self._timeout_s
        self._waiting.append(Request(self._next, subject, message, read, reply, deadline, unconfirmed))
        self._bytes_waiting += len(message)
        if not self._is_to_send:
            self._wake()
        return reply

    def _wake(self) -> None:
        """Send in the next turn of the loop."""
        if not self._is_to_send:
            self._is_to_send = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Send what waits, as far as it may."""
        self._is_to_send = False
        if not self._waiting or self._refused or not self._wire.is_connected:
            return
        messages: list[bytes] = []
        waiting, sent = self._waiting, self._sent
        while waiting and len(sent) < _MOST_ON_THE_WAY and self._bytes_sent < _MOST_BYTES_ON_THE_WAY:
            request = waiting.popleft()
            size = len(request.message)
            self._bytes_waiting -= size
            if not request.reply.done():
                self._bytes_sent += size
                sent[request.number] = request
                messages.append(request.message)
        self._wire.write(messages)
        self._gate.let_in()
        self._look_drained()

    def _lost(self) -> None:
        for request in self._sent.values():
            request.is_in_doubt = True
        self._again()

    def _again(self) -> None:
        """Have everything that was not answered sent again, before what was not sent yet."""
        unanswered = sorted(chain(self._refused, self._sent.values()), key=_number)
        self._refused.clear()
        self._sent.clear()
        self._bytes_sent = 0
        self._waiting.extendleft(reversed(unanswered))
        self._bytes_waiting += sum(len(request.message) for request in unanswered)
        self._wake()

    # Answers

    def _take(self, message: Message) -> None:
        request = self._sent.pop(int(message.to[self._inbox_bytes :]), None)
        if request is None:
            return
        self._bytes_sent -= len(request.message)
        if message.block and message.is_for_nobody:
            self._refuse(request)
        else:
            if self._refused:
                self._give_up_overtaken(request)
            if not request.reply.done():
                _answer(request, message)
        if self._waiting:
            self._wake()
        if not self._sent:
            self._look_drained()

    def _refuse(self, request: Request) -> None:
        """Keep what nobody listened to; it is sent again when everything else on the way is answered."""
        self._refused.append(request)
        if len(self._refused) == 1:
            self._tasks.spawn(self._mend(), name=f"{self._what}: mend")

    def _give_up_overtaken(self, accepted: Request) -> None:
        """Fail what would come after a later one of its subject, if it were sent again."""
        for request in self._refused:
            if request.subject == accepted.subject and request.number < accepted.number:
                self._fail(request, "nobody took it, and what came after it was taken")

    async def _mend(self) -> None:
        while self._sent and self._refused:  # noqa: ASYNC110 - the answers, or the deadline, end it
            await asyncio.sleep(_PAUSE_S)
        if self._on_nobody is not None and self._wire.is_connected:
            try:
                await self._on_nobody()
            except AvxEventsError as exc:
                self._wire.problem = str(exc)
        await asyncio.sleep(_PAUSE_S)
        self._wire.problem = "JetStream does not answer; is it enabled there, with the option -js?"
        self._again()

    # Deadlines

    async def _sweep(self) -> None:
        """Fail, again and again, what has waited as long as it may."""
        while True:
            await asyncio.sleep(self._timeout_s / _SWEEPS_IN_A_TIMEOUT)
            now = self._clock.monotonic()
            while self._waiting and (self._waiting[0].reply.done() or self._waiting[0].deadline <= now):
                request = self._waiting.popleft()
                self._bytes_waiting -= len(request.message)
                self._fail(request, self._wire.problem)
            late = [request for request in chain(self._sent.values(), self._refused) if request.deadline <= now]
            for request in late:
                if self._sent.pop(request.number, None) is not None:
                    self._bytes_sent -= len(request.message)
                    request.is_in_doubt = True
                self._fail(request, f"no answer within {self._timeout_s:g} s")
            self._refused = [request for request in self._refused if not request.reply.done()]
            self._gate.let_in()
            self._wake()
            self._look_drained()

    def _fail(self, request: Request, problem: str) -> None:
        if request.reply.done():
            return
        if request.is_in_doubt and request.unconfirmed is not None:
            request.reply.set_exception(request.unconfirmed(problem))
        else:
            request.reply.set_exception(TransportUnavailableError(self._wire.name, problem))
        request.reply.exception()  # whoever asked may have stopped waiting, and then nobody complains

    # Waiters

    def _has_room(self) -> bool:
        return self._bytes_waiting <= _MOST_BYTES_WAITING and len(self._waiting) <= _MOST_WAITING

    def _look_drained(self) -> None:
        if not (self._waiting or self._sent or self._refused):
            for drained in self._drained:
                wake(drained)
            self._drained.clear()


def _answer(request: Request, message: Message) -> None:
    try:
        result = request.read(message, len(request.message))
    except Exception as exc:  # noqa: BLE001 - what the answer says is for who asked
        request.reply.set_exception(exc)
        request.reply.exception()
    else:
        request.reply.set_result(result)
