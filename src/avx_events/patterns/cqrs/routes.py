"""Which handler each message class has, and the middleware around it."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from avx_events.core.callables import describe
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    DuplicateHandlerError,
    HandlerDefinitionError,
    InvalidArgumentError,
    NoHandlerError,
    NotAnEventError,
)
from avx_events.core.metadata import EventEnvelope, current_message, stamp
from avx_events.patterns.cqrs.handlers import Endpoint, endpoint_for

CallNext: TypeAlias = Callable[[EventEnvelope[Any]], Awaitable[Any]]
"""Calls what stands further inside: the next middleware, or the handler."""

Middleware: TypeAlias = Callable[[EventEnvelope[Any], CallNext], Awaitable[Any]]
"""An async function around every handler: it is given the envelope and what to call with it, and returns the result.

It may look, refuse by raising, return without calling, call more than once, or call with another envelope of the same
message class. It runs in the message's own context: what it publishes has the message as its cause.
"""


class Routes:
    """A handler for each message class, in its middleware."""

    def __init__(self, message_root: type, *, middleware: Iterable[Middleware], clock: Clock) -> None:
        """Begin without handlers.

        Args:
            message_root: ``Command`` or ``Query``: what all messages are derived from.
            middleware: From the outermost to the innermost.
            clock: Gives the messages their timestamps.

        Raises:
            HandlerDefinitionError: A middleware is no function of an envelope and what to call next.
        """
        self._root: Final = message_root
        self._clock: Final = clock
        self._middleware: list[Middleware] = []
        self._handlers: dict[type, Callable[..., Any]] = {}
        self._endpoints: dict[type, Endpoint] = {}
        self._calls: dict[type, CallNext] = {}
        self.use(*middleware)

    def use(self, *middleware: Middleware) -> None:
        """Put ``middleware`` inside of what is there, next to the handlers."""
        for function in middleware:
            _check_middleware(function)
        self._middleware += middleware
        self._calls = {message_class: self._wrapped(endpoint) for message_class, endpoint in self._endpoints.items()}

    def add(self, message_class: type, function: Callable[..., Any]) -> None:
        """Let ``function`` handle ``message_class``.

        Raises:
            DuplicateHandlerError: It has a handler.
        """
        existing = self._handlers.get(message_class)
        if existing is not None:
            raise DuplicateHandlerError(message_class.__qualname__, existing=describe(existing), new=describe(function))
        endpoint = endpoint_for(function)
        self._handlers[message_class] = function
        self._endpoints[message_class] = endpoint
        self._calls[message_class] = self._wrapped(endpoint)

    async def run(self, message: object, *, headers: Mapping[str, str] | None) -> Any:
        """Give ``message`` its metadata and its handler, and return what that returns."""
        message_class = self._class_of(message)
        call = self._calls.get(message_class)
        if call is None:
            known = [handled.__qualname__ for handled in self._calls]
            raise NoHandlerError(message_class.__qualname__, known=known)
        envelope = stamp(message, clock=self._clock, headers=headers)
        token = current_message.set(envelope.metadata)
        try:
            return await call(envelope)
        finally:
            current_message.reset(token)

    def _class_of(self, message: object) -> type:
        given = cast("EventEnvelope[object]", message).event if isinstance(message, EventEnvelope) else message
        root = self._root
        if isinstance(given, root):
            return type(given)
        if isinstance(given, type) and issubclass(given, root):
            raise NotAnEventError(given)
        kind = root.__name__
        raise InvalidArgumentError(kind.lower(), given, expected=f"an instance of a class derived from {kind}")

    def _wrapped(self, endpoint: Endpoint) -> CallNext:
        call: CallNext = endpoint
        for middleware in reversed(self._middleware):
            call = _around(middleware, call)
        return call


def _around(middleware: Middleware, call_next: CallNext) -> CallNext:
    return lambda envelope: middleware(envelope, call_next)


def _check_middleware(function: object) -> None:
    problem = "a middleware is an async function (envelope, call_next); one that has options is made by a call"
    if not callable(function):
        raise HandlerDefinitionError(describe(function), problem)
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as exc:  # not these two parameters, or no signature at all
        raise HandlerDefinitionError(describe(function), f"{problem} ({exc})") from exc
