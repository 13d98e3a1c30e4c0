"""Requests and replies through a broker, of one bus: what it asks, and what it is asked.

A request is a CloudEvents document like any event, and says where its reply goes and how long it is waited for. A reply
is a JSON object:

| field | what it carries |
|---|---|
| ``id`` | the event id of the request |
| ``result`` | what the responder returned, as JSON; left out where it raised |
| ``error_type``, ``message`` | class name and text of what it raised |
| ``is_stopped`` | true where the responder's bus was closed before it was done |
| ``is_unanswered`` | true where nobody responds here any more |
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from avx_events.bus.dead_letter_codec import portable
from avx_events.bus.deadlines import Deadlines
from avx_events.bus.remote.ports import Address, Question, RequestTransport
from avx_events.bus.remote.replies import Reply, decode_reply, encode_reply, id_of, refusal
from avx_events.bus.responders import Failure, Pending
from avx_events.core import cloudevents
from avx_events.core.errors import (
    AvxEventsError,
    DecodeError,
    EncodeError,
    NoResponderError,
    RemoteError,
    StoppedError,
)
from avx_events.core.event import Request, schema_of
from avx_events.core.metadata import EventEnvelope
from avx_events.core.results import ResultType

if TYPE_CHECKING:
    from avx_events.bus.life import Life

log = logging.getLogger("avx_events")

Ask = Callable[[EventEnvelope[Any]], Any]
"""Gives a request to a responder of this bus, and returns what ``Answering.ask`` does."""


class RemoteRequests:
    """The broker's side of a request-reply bus.

    Attributes:
        late: Replies that nobody waited for any more.
    """

    def __init__(self, transport: RequestTransport, life: "Life", *, source: str, max_bytes: int) -> None:
        """Begin with nothing asked.

        Args:
            transport: The broker.
            life: Of the bus.
            source: Who asks, as a URI reference.
            max_bytes: The largest request or reply that is sent or looked into.
        """
        self.late = 0
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._life = life
        self._source = source
        self._max_bytes = max_bytes
        self._waiting: dict[str, Pending] = {}
        self._types: dict[type, ResultType] = {}
        self._answering: set[asyncio.Future[Any]] = set()
        self._deadlines = Deadlines(life.clock, on_late=_give_up)

    @property
    def transport_name(self) -> str:
        """What errors call the broker."""
        return self._transport.name

    # Asking

    def ask(self, envelope: EventEnvelope[Any], timeout_s: float) -> Pending:
        """Send a request; the reply, or a ``Failure``, will be in what is returned. ``forget`` it in any case.

        Raises:
            EncodeError: The request cannot be written.
            EventTooLargeError: It is larger than the limit.
        """
        document = cloudevents.encode(envelope, source=self._source, max_bytes=self._max_bytes)
        pending = Pending(envelope, self._loop.create_future())
        metadata = envelope.metadata
        self._waiting[metadata.event_id] = pending
        try:
            self._transport.ask(
                metadata.event_type,
                document,
                event_id=metadata.event_id,
                timeout_s=timeout_s,
                on_failed=partial(_fail, pending),
            )
        except BaseException:
            self.forget(pending)
            raise
        return pending

    def forget(self, pending: Pending) -> None:
        """Wait for ``pending`` no longer."""
        self._waiting.pop(pending.envelope.metadata.event_id, None)

    def take_reply(self, document: bytes) -> None:
        """Give a reply to who waits for it."""
        try:
            reply = decode_reply(document)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            log.warning("%s was sent a reply that is none: %s", self._life.name, exc)
            return
        pending = self._waiting.pop(reply.id, None)
        if pending is None or pending.reply.done():
            self.late += 1
        else:
            pending.reply.set_result(self._outcome(pending, reply))

    def _outcome(self, pending: Pending, reply: Reply) -> Any:
        event_type = pending.envelope.metadata.event_type
        if reply.is_unanswered:
            return Failure(NoResponderError(event_type))
        if reply.is_stopped:
            return Failure(StoppedError(f"the responder of {event_type}"))
        if reply.error_type is not None:
            return Failure(RemoteError(reply.error_type, reply.message))
        try:
            return self._type_for(pending.envelope).decode(bytes(reply.result))
        except DecodeError as exc:
            return Failure(RemoteError(type(exc).__name__, exc.problem))

    # Answering

    async def answer(self, request_class: type, ask: Ask) -> None:
        """Have requests of ``request_class`` given to ``ask``, from now on, those under its former names too.

        Raises:
            HandlerDefinitionError: What it is answered with cannot be written as JSON.
            TransportUnavailableError: The broker is away.
        """
        self._type_of(request_class)
        for event_type in schema_of(request_class).names:
            await self._transport.respond(event_type, partial(self._take_question, ask))

    async def answer_no_more(self, request_class: type) -> None:
        """Have no requests of ``request_class`` come here."""
        for event_type in schema_of(request_class).names:
            await self._transport.respond(event_type, None)

    async def finish(self) -> None:
        """Wait until all that was answered is sent."""
        while self._answering:
            await asyncio.wait(set(self._answering))
        await self._transport.close()

    def _take_question(self, ask: Ask, question: Question) -> None:
        try:
            envelope = cloudevents.decode(question.document, max_bytes=self._max_bytes, clock=self._life.clock)
        except AvxEventsError as exc:
            self._refuse(question, exc)
            return
        reply = ask(envelope)
        if type(reply) is not Pending:
            self._send(question.reply_to, envelope, reply)
            return
        waiting = reply.reply
        tick = self._deadlines.add(waiting, question.timeout_s)
        self._answering.add(waiting)
        waiting.add_done_callback(partial(self._answered, question.reply_to, envelope, tick))

    def _answered(self, to: Address, envelope: EventEnvelope[Any], tick: int, waiting: "asyncio.Future[Any]") -> None:
        self._answering.discard(waiting)
        self._deadlines.discard(waiting, tick)
        if not waiting.cancelled():
            self._send(to, envelope, waiting.result())

    def _send(self, to: Address, envelope: EventEnvelope[Any], reply: Any) -> None:
        event_id = envelope.metadata.event_id
        if type(reply) is not Failure:
            try:
                result = self._type_for(envelope).encode(reply)
            except EncodeError as exc:
                reply = Failure(RemoteError(type(exc).__name__, str(exc)))
            else:
                self._transport.reply(to, encode_reply(Reply(event_id, msgspec.Raw(result))))
                return
        error = reply.error
        if isinstance(error, RemoteError):
            failure = Reply(event_id, error_type=error.error_type, message=portable(error.message))
        else:
            is_unanswered = isinstance(error, NoResponderError)
            failure = Reply(event_id, is_unanswered=is_unanswered, is_stopped=not is_unanswered)
        self._transport.reply(to, encode_reply(failure))

    def _refuse(self, question: Question, error: AvxEventsError) -> None:
        """Tell who asked that the question cannot be read, where at least its id can."""
        log.warning("%s was sent a request that cannot be read: %s", self._life.name, error)
        if id_of(question.document):
            self._transport.reply(question.reply_to, refusal(question.document, error))

    def _type_for(self, envelope: EventEnvelope[Any]) -> ResultType:
        request: object = envelope.event
        return self._type_of(type(request))

    def _type_of(self, request_class: type[Any]) -> ResultType:
        found = self._types.get(request_class)
        if found is None:
            found = self._types[request_class] = ResultType(request_class, Request)
        return found


def _fail(pending: Pending, error: Exception) -> None:
    if not pending.reply.done():
        pending.reply.set_result(Failure(error))


def _give_up(reply: "asyncio.Future[Any]") -> None:
    """Let a request go whose requester has stopped waiting, as far as is known here."""
    reply.cancel()
