"""Requests and their replies: a question to one of those who answer it, with a deadline."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from threading import get_ident
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar, cast, overload

import msgspec

from avx_events.bus.deadlines import Deadlines
from avx_events.bus.endpoints import endpoint_for
from avx_events.bus.life import Life, State
from avx_events.bus.observer import MEMORY, Observer, Observers, system_of
from avx_events.bus.remote.connecting import transport_at
from avx_events.bus.remote.ports import RequestTransport, TransportOptions
from avx_events.bus.remote.requests import RemoteRequests
from avx_events.bus.responders import Answering, Failure, Listener, Pending, ReplyCounts, Responder
from avx_events.core.arguments import seconds, text, whole
from avx_events.core.callables import describe
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.cloudevents import MAX_EVENT_BYTES
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    DuplicateHandlerError,
    InvalidArgumentError,
    NoResponderError,
    NotAnEventError,
    RequestTimeoutError,
)
from avx_events.core.event import Request, schema_of
from avx_events.core.ids import IdBlock
from avx_events.core.metadata import EventEnvelope, stamp, stamp_one

log = logging.getLogger("avx_events")

ReplyT = TypeVar("ReplyT")
RequestT = TypeVar("RequestT", bound=Request[Any])
ParametersT = ParamSpec("ParametersT")

DEFAULT_TIMEOUT_S: Final = 5.0
DEFAULT_CONCURRENCY: Final = 64


class RequestStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a bus has asked and answered, from its start.

    Attributes:
        requested: Requests that found somebody to answer.
        replied: Requests that were answered in time.
        failed: Requests whose responder raised.
        timed_out: Requests whose deadline passed.
        late_replies: Replies that nobody waited for any more; they were dropped.
        waiting: Requests that wait for a responder or reader now.
        in_flight: Requests that responders are answering now.
    """

    requested: int = 0
    replied: int = 0
    failed: int = 0
    timed_out: int = 0
    late_replies: int = 0
    waiting: int = 0
    in_flight: int = 0


class Route:
    """Who answers requests of one class.

    Attributes:
        event_type: Of the class.
        key_of: Gives the aggregate id of a request; None where it has none.
        answering: Who answers; who was asked last stands last.
        only: Who answers alone, if there is one.
    """

    __slots__ = ("answering", "event_type", "key_of", "only")

    def __init__(self, request_class: type) -> None:
        """Begin with nobody."""
        schema = schema_of(request_class)
        self.event_type = schema.event_type
        self.key_of = schema.key_of
        self.answering: list[Answering] = []
        self.only: Answering | None = None

    def add(self, answering: Answering) -> None:
        """Let ``answering`` answer too."""
        self.answering.append(answering)
        self._look_for_only()

    def remove(self, answering: Answering) -> None:
        """Let ``answering`` answer no more."""
        self.answering.remove(answering)
        self._look_for_only()

    def ask(self, envelope: EventEnvelope[Any]) -> Any:
        """Give a request from elsewhere to the least busy; see ``Answering.ask``."""
        if not self.answering:
            return Failure(NoResponderError(self.event_type))
        return self.next().ask(envelope)

    def next(self) -> Answering:
        """Return the least busy, the one that was asked longest ago among equals, and let it stand last."""
        answering = min(self.answering, key=lambda candidate: candidate.load)
        self.answering.remove(answering)
        self.answering.append(answering)
        return answering

    def _look_for_only(self) -> None:
        self.only = self.answering[0] if len(self.answering) == 1 else None


class RemoteOptions(msgspec.Struct, frozen=True):
    """What makes a bus a connected one.

    Attributes:
        transport: The broker.
        source: Who asks, as a URI reference.
        max_event_bytes: The largest request or reply that is sent or looked into.
    """

    transport: RequestTransport
    source: str
    max_event_bytes: int


class ResponderDecorator(Protocol[ReplyT]):
    """What ``bus.respond`` gives: type checkers see that the function returns what the requests ask for."""

    @overload
    def __call__(
        self, function: Callable[ParametersT, Coroutine[Any, Any, ReplyT]], /
    ) -> Callable[ParametersT, Coroutine[Any, Any, ReplyT]]: ...

    @overload
    def __call__(self, function: Callable[ParametersT, ReplyT], /) -> Callable[ParametersT, ReplyT]: ...


class RequestReplyBus:
    """Requests in memory: each goes to one responder of its type, and waits for the reply with a deadline.

    Responders run from ``start`` to ``close``, or inside of ``async with bus:``; listeners are read as soon as there is
    a bus. A bus belongs to the event loop that first uses it.
    """

    __slots__ = (
        "_counts",
        "_deadlines",
        "_elsewhere",
        "_ids",
        "_life",
        "_observer",
        "_ready",
        "_remote",
        "_requested",
        "_responders",
        "_routes",
        "_time_ns",
        "_timed_out",
        "_unannounced",
        "_whereabouts",
    )

    def __init__(
        self,
        *,
        name: str = "request-reply bus",
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        remote: RemoteOptions | None = None,
    ) -> None:
        """Make an open bus without responders.

        Args:
            name: What errors and logs call it.
            drain_timeout_s: How many seconds ``close`` lets responders finish what was asked.
            clock: Time.
            remote: A transport and how to use it, as ``connect`` gives them; None is memory.

        Raises:
            InvalidArgumentError: The timeout is no number of seconds above 0.
        """
        self._observer: Observer | None = None
        self._ready: dict[type, Route] = {}
        self._elsewhere: dict[type, Route] = {}
        self._remote: RemoteRequests | None = None
        self._life = Life(
            name,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
            on_change=self._look_again,
            on_refuse=self._refuse,
            on_stopped=self._disconnect,
        )
        if remote is not None:
            self._remote = RemoteRequests(
                remote.transport, self._life, source=remote.source, max_bytes=remote.max_event_bytes
            )
        self._unannounced: dict[type, None] = {}
        self._whereabouts = self._life.whereabouts
        self._routes: dict[type, Route] = {}
        self._responders: dict[str, Responder] = {}
        self._counts = ReplyCounts()
        self._deadlines = Deadlines(clock, on_late=_end_wait)
        self._ids = IdBlock()
        self._time_ns = clock.time_ns
        self._requested = 0
        self._timed_out = 0

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        namespace: str = "avx",
        timeout_s: float = 10.0,
        max_event_bytes: int = MAX_EVENT_BYTES,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        **client: Any,
    ) -> Self:
        """Return a bus on the broker at ``url``, which was reached: its requests go to the responders of any process.

        Args:
            url: Where the broker is: ``redis://`` and what else is installed.
            namespace: The prefix of every name in the broker.
            timeout_s: How many seconds the broker may be away before a call fails.
            max_event_bytes: The largest request or reply that is sent or looked into.
            drain_timeout_s: How many seconds ``close`` lets responders finish what was asked.
            clock: Time.
            client: Options of the broker's client library: credentials, TLS.

        Raises:
            InvalidArgumentError: The URL is none, or an option is outside its range.
            UnknownSchemeError: Nothing is installed for its scheme.
            MissingExtraError: The client library is not installed.
            TransportUnavailableError: The broker does not answer within ``timeout_s``.
            TransportRefusedError: It answers, and refuses: a password or TLS is missing.
            UnsupportedError: It cannot carry requests.
        """
        options = TransportOptions(namespace=namespace, partitions=None, timeout_s=timeout_s, client=client)
        max_bytes = whole("max_event_bytes", max_event_bytes, least=1)
        broker = await transport_at(url, options, clock=clock)
        try:
            transport = broker.requests()
        except BaseException:
            await broker.close()
            raise
        try:
            bus = cls(
                name=f"request-reply bus at {transport.name}",
                drain_timeout_s=drain_timeout_s,
                clock=clock,
                remote=RemoteOptions(transport, f"/{namespace}", max_bytes),
            )
            await transport.open(bus._take_reply)
        except BaseException:
            await transport.close()
            raise
        return bus

    @property
    def name(self) -> str:
        """What errors and logs call the bus."""
        return self._life.name

    @property
    def system(self) -> str:
        """What carries its requests: ``memory``, or the broker's kind, as ``redis``, ``nats`` or ``kafka``."""
        return MEMORY if self._remote is None else system_of(self._remote.transport_name)

    @property
    def group(self) -> str | None:
        """None: responders share requests without a name."""
        return None

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of all requests and responders from now on, beside those that are told already.

        A request is to it what a publish is, until the reply is there, and a responder an attempt; listeners are read
        without its knowledge.

        Raises:
            ClosedError: The bus is closed.
        """
        self._life.check_open("be observed")
        self._observer = observer if self._observer is None else Observers(self._observer, observer)
        for responder in self._responders.values():
            responder.observer = self._observer

    async def start(self) -> None:
        """Run the responders. Harmless when repeated.

        Raises:
            ClosedError: The bus was closed.
            TransportUnavailableError: The broker of a connected bus is away.
            WrongLoopError: The bus belongs to another event loop.
        """
        self._life.start()
        await self._announce()

    async def close(self) -> None:
        """Stop in good order; harmless when repeated.

        New requests are refused at once, but those that responders make themselves. What was asked is answered for up
        to ``drain_timeout_s`` seconds; then responders are cancelled, and their requesters get a ``StoppedError``.
        Listeners read what was asked before, and then the end.

        Raises:
            HandlerWaitError: One of its own responders calls it.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._life.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def respond(
        self, request_class: type[Request[ReplyT]], *, name: str | None = None, concurrency: int = DEFAULT_CONCURRENCY
    ) -> ResponderDecorator[ReplyT]:
        """Decorate a responder of ``request_class``: ``async def``, or ``def``, which runs in a thread.

        It takes the request, and its envelope if it has a second parameter, and returns the reply. What it raises
        reaches the requester as ``RemoteError``. A requester that gives up does not interrupt it. Several responders of
        one class share the requests.

        Args:
            request_class: A class derived from ``Request``.
            name: What errors and logs call it; its qualified name if not given.
            concurrency: How many requests it answers at once, at most; others wait.

        Raises:
            NotAnEventError: The class is no request class.
            InvalidArgumentError: An option is outside its range.
            HandlerDefinitionError: The function cannot be called with a request.
            DuplicateHandlerError: Another responder of the bus has the name.
            ClosedError: The bus is closed.
            WrongLoopError: The bus runs on another event loop.
        """
        _check_request_class(request_class)

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self._add_responder(request_class, function, name, whole("concurrency", concurrency, least=1))
            return function

        return register

    async def listen(self, request_class: "type[RequestT]") -> Listener[RequestT, Any]:
        """Return a listener that is given requests of ``request_class`` from now on, with where to reply to.

        Args:
            request_class: A class derived from ``Request``.

        Raises:
            NotAnEventError: The class is no request class.
            ClosedError: The bus is closed.
            WrongLoopError: The bus belongs to another event loop.
        """
        _check_request_class(request_class)
        self._life.check_open("listen")
        self._life.bind("listen")
        name = schema_of(request_class).event_type

        def forget(listener: Listener[Any, Any]) -> None:
            route = self._route(request_class)
            route.remove(listener)
            self._life.remove(listener)
            if self._remote is not None and not route.answering:
                ending = self._remote.answer_no_more(request_class)
                self._life.errands.spawn(_logged(ending), name=f"avx-events {self._life.name}: answer no more")

        listener: Listener[RequestT, Any] = Listener(name, life=self._life, counts=self._counts, on_close=forget)
        self._route(request_class).add(listener)
        self._life.add(listener)
        self._unannounced[request_class] = None
        await self._announce()
        return listener

    # The hot path: bench/request_reply.py.
    async def request(
        self,
        request: Request[ReplyT],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> ReplyT:
        """Ask, and return the reply.

        Args:
            request: The question.
            timeout_s: How many seconds to wait for the reply, more than 0; they end up to 10 ms late, or a 500th of
                them where that is more.
            headers: Text by name, for the metadata.

        Raises:
            NoResponderError: Nobody answers requests of this type.
            RequestTimeoutError: There was no reply in time; the responder may still do its work.
            RemoteError: The responder raised.
            StoppedError: The bus was closed before the responder was done.
            NotAnEventError: It is no request.
            InvalidArgumentError: The timeout is no number of seconds above 0, or the headers are no mapping of text.
            NotStartedError: The bus has responders and was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            WrongLoopError: It is called from another thread or event loop.
            ReplayedMessageError: It is called by what is being replayed.
        """
        if self._observer is not None:
            return await self._ask_observed(self._observer, request, timeout_s, headers)
        if self._remote is not None:
            return await self._ask_elsewhere(self._remote, request, timeout_s, headers)
        route = self._ready.get(type(request))
        if route is None or self._whereabouts._thread_id != get_ident():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see Whereabouts
            route = self._find(request)
        if timeout_s is not DEFAULT_TIMEOUT_S:
            seconds("timeout_s", timeout_s)
        if headers is None:
            envelope = stamp_one(request, route.event_type, route.key_of, self._ids, self._time_ns())
        else:
            envelope = stamp(request, clock=self._life.clock, headers=headers, new_id=self._ids.take)
        self._requested += 1
        only = route.only
        reply: Any = route.next().ask(envelope) if only is None else only.ask(envelope)
        if type(reply) is Pending:
            reply = await self._wait(reply, timeout_s)
        if type(reply) is Failure:
            try:
                raise reply.error
            finally:
                del reply  # the error's traceback holds this frame, which is not to hold the error
        answered: ReplyT = reply
        return answered

    async def _ask_observed(
        self, observer: Observer, request: Request[ReplyT], timeout_s: float, headers: Mapping[str, str] | None
    ) -> ReplyT:
        route = None
        if self._remote is None:
            route = self._find(request)
        else:
            self._check_request(request)
        seconds("timeout_s", timeout_s)
        envelope = stamp(request, clock=self._life.clock, headers=headers, new_id=self._ids.take)
        with observer.publishing([envelope]) as (observed,):
            if self._remote is not None:
                return cast("ReplyT", await self._exchange(self._remote, observed, timeout_s))
            self._requested += 1
            reply: Any = None if route is None else route.next().ask(observed)
            if isinstance(reply, Pending):
                reply = await self._wait(reply, timeout_s)
            if isinstance(reply, Failure):
                raise reply.error
            return cast("ReplyT", reply)

    async def _ask_elsewhere(
        self, remote: RemoteRequests, request: Request[ReplyT], timeout_s: float, headers: Mapping[str, str] | None
    ) -> ReplyT:
        """Ask over the broker, also where this bus responds itself."""
        route = self._elsewhere.get(type(request))
        if route is None or self._whereabouts._thread_id != get_ident():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see Whereabouts
            self._check_request(request)
            route = Route(type(request))
            if self._life.takes_all:
                self._elsewhere[type(request)] = route
        if timeout_s is not DEFAULT_TIMEOUT_S:
            seconds("timeout_s", timeout_s)
        if headers is None:
            envelope = stamp_one(request, route.event_type, route.key_of, self._ids, self._time_ns())
        else:
            envelope = stamp(request, clock=self._life.clock, headers=headers, new_id=self._ids.take)
        return cast("ReplyT", await self._exchange(remote, envelope, timeout_s))

    async def _exchange(self, remote: RemoteRequests, envelope: EventEnvelope[Any], timeout_s: float) -> Any:
        if self._unannounced:
            await self._announce()
        pending = remote.ask(envelope, timeout_s)
        self._requested += 1
        try:
            reply = await self._wait(pending, timeout_s)
        finally:
            remote.forget(pending)
        if type(reply) is Failure:
            raise reply.error
        self._counts.replied += 1
        return reply

    def statistics(self) -> RequestStatistics:
        """Return what was asked and answered, and what waits."""
        return RequestStatistics(
            requested=self._requested,
            replied=self._counts.replied,
            failed=self._counts.failed,
            timed_out=self._timed_out,
            late_replies=self._counts.late + (0 if self._remote is None else self._remote.late),
            waiting=sum(answering.waiting for route in self._routes.values() for answering in route.answering),
            in_flight=sum(responder.in_flight for responder in self._responders.values()),
        )

    def _add_responder(
        self, request_class: type[Request[Any]], function: Callable[..., Any], name: str | None, concurrency: int
    ) -> None:
        self._life.check_open("add a responder")
        if not callable(function):
            raise InvalidArgumentError("responder", function, expected="a function")
        name = describe(function) if name is None else text("name", name)
        if name in self._responders:
            raise DuplicateHandlerError(f"the name {name!r}", existing="another responder of this bus", new="this one")
        endpoint, takes_envelope = endpoint_for(function, self._life.threads, most=concurrency)
        responder = Responder(
            name,
            endpoint,
            takes_envelope=takes_envelope,
            concurrency=concurrency,
            life=self._life,
            counts=self._counts,
        )
        responder.observer = self._observer
        self._responders[name] = responder
        self._route(request_class).add(responder)
        self._life.add(responder)
        self._unannounced[request_class] = None
        if self._remote is not None and self._life.state is State.RUNNING:
            self._life.errands.spawn(_logged(self._announce()), name=f"avx-events {self._life.name}: announce")

    def _route(self, request_class: type) -> Route:
        route = self._routes.get(request_class)
        if route is None:
            route = self._routes[request_class] = Route(request_class)
        return route

    async def _announce(self) -> None:
        """Have the broker know which requests are answered here."""
        if self._remote is None or (self._life.state is State.OPEN and self._responders):
            return
        while self._unannounced:
            request_class = next(iter(self._unannounced))
            route = self._route(request_class)
            await self._remote.answer(request_class, route.ask)
            self._unannounced.pop(request_class, None)

    def _take_reply(self, document: bytes) -> None:
        if self._remote is not None:
            self._remote.take_reply(document)

    def _refuse(self) -> None:
        self._look_again()
        if self._remote is not None and self._life.loop is not None:
            for request_class in self._routes:
                ending = self._remote.answer_no_more(request_class)
                self._life.leave(_logged(ending), what="answer no more")

    async def _disconnect(self) -> None:
        if self._remote is not None:
            await self._remote.finish()

    def _check_request(self, request: object) -> None:
        """Raise where ``request`` cannot be made."""
        if not isinstance(request, Request):
            raise NotAnEventError(request, problem=None if isinstance(request, type) else _NO_REQUEST)
        if self._life.state is State.CLOSED:
            raise ClosedError(self._life.name, "request")
        self._life.check_takes("request")

    def _find(self, request: object) -> Route:
        """Return who answers ``request``, or raise why nobody does."""
        request_class: type = type(request)
        self._check_request(request)
        route = self._routes.get(request_class)
        if route is None or not route.answering:
            raise NoResponderError(schema_of(request_class).event_type)
        return route

    async def _wait(self, pending: Pending, timeout_s: float) -> Any:
        reply = pending.reply
        tick = self._deadlines.add(reply, timeout_s)
        try:
            answer = await reply
        finally:
            self._deadlines.discard(reply, tick)
        if answer is _TOO_LATE:
            self._timed_out += 1
            raise RequestTimeoutError(pending.envelope.metadata.event_type, timeout_s)
        return answer

    def _look_again(self) -> None:
        answered = {message: route for message, route in self._routes.items() if route.answering}
        self._ready = answered if self._life.takes_all and self._remote is None else {}
        if not self._life.takes_all:
            self._elsewhere.clear()
        self._whereabouts = self._life.whereabouts


async def _logged(step: Coroutine[Any, Any, None]) -> None:
    try:
        await step
    except AvxEventsError as exc:
        log.warning("the broker does not know who responds: %s", exc)


_TOO_LATE: Final = object()
_NO_REQUEST: Final = "is no request; derive the class from Request[...], of what it asks for"


def _end_wait(reply: Any) -> None:
    reply.set_result(_TOO_LATE)


def _check_request_class(given: object) -> None:
    if given is Request or not (isinstance(given, type) and Request in given.__mro__):
        raise NotAnEventError(given, problem=_NO_REQUEST)
