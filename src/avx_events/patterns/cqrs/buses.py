"""The buses of commands and queries: one handler for each message, a typed result, middleware in between."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.event import Command, Query
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.cqrs.handlers import (
    CommandHandler,
    QueryHandler,
    message_class_of_function,
    message_class_of_object,
)
from avx_events.patterns.cqrs.routes import Middleware, Routes

ResultT = TypeVar("ResultT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class CommandBus:
    """Gives each command to its one handler, in this process, and returns the result.

    Handlers run in the task that dispatches: the bus starts nothing and queues nothing, so there is nothing to close.
    A command is given metadata as an event is, and what its handler publishes, appends or dispatches carries the
    command's correlation id and user id, and the command's event id as causation id.
    """

    def __init__(self, *, middleware: Iterable[Middleware] = (), clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin without handlers.

        Args:
            middleware: From the outermost to the innermost: the first sees the command first and the result last.
            clock: Gives the commands their timestamps.

        Raises:
            HandlerDefinitionError: A middleware is no function of an envelope and what to call next.
        """
        self._routes = Routes(Command, middleware=middleware, clock=clock)

    def use(self, *middleware: Middleware) -> None:
        """Add ``middleware`` inside of what is there, for all handlers, also those that are registered already.

        Raises:
            HandlerDefinitionError: One is no function of an envelope and what to call next.
        """
        self._routes.use(*middleware)

    def register(self, handler: CommandHandler[Any, Any]) -> None:
        """Let the object ``handler`` carry out the commands that its class is for.

        Which they are, the class says by its base, ``CommandHandler[CreateUser, str]``; an object of any other class
        serves as well if its ``handle`` is annotated. A plain ``def handle`` runs in a thread.

        Raises:
            HandlerDefinitionError: It is a class, has no ``handle``, or does not say which command it is for.
            DuplicateHandlerError: The command has a handler.
        """
        message_class = message_class_of_object(handler, generic=CommandHandler, message_root=Command)
        self._routes.add(message_class, handler.handle)

    def handler(self, function: FunctionT) -> FunctionT:
        """Decorate a function that carries out the command class which annotates its first parameter.

        ``async def`` or ``def`` (run in a thread, in the command's context); it takes the command, and its
        ``EventEnvelope`` too if it has a second parameter.

        Raises:
            HandlerDefinitionError: The annotation is missing or names no class derived from ``Command``.
            DuplicateHandlerError: The command has a handler.
        """
        message_class = message_class_of_function(function, message_root=Command, names=_names_of_caller())
        self._routes.add(message_class, function)
        return function

    async def dispatch(
        self, command: Command[ResultT] | EventEnvelope[Command[ResultT]], *, headers: Mapping[str, str] | None = None
    ) -> ResultT:
        """Have ``command`` carried out and return its result.

        What the handler or a middleware raises is raised here as it is. Where the caller is cancelled, so is the
        handler (one that runs in a thread runs on to its end).

        Args:
            command: An instance of a class derived from ``Command``, or an envelope, which keeps its metadata.
            headers: Text by name for the command's metadata, as the ``idempotency-key``.

        Raises:
            NoHandlerError: Nothing is registered for exactly this class.
            InvalidArgumentError: It is no command, or the headers are no mapping of text to text.
            NotAnEventError: It is a command class instead of an instance.
            ReplayedMessageError: It is called by what is being replayed.
        """
        result: ResultT = await self._routes.run(command, headers=headers)
        return result


class QueryBus:
    """Gives each query to its one handler, in this process, and returns the answer.

    Handlers run in the task that asks: the bus starts nothing and queues nothing, so there is nothing to close.
    """

    def __init__(self, *, middleware: Iterable[Middleware] = (), clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin without handlers.

        Args:
            middleware: From the outermost to the innermost: the first sees the query first and the answer last.
            clock: Gives the queries their timestamps.

        Raises:
            HandlerDefinitionError: A middleware is no function of an envelope and what to call next.
        """
        self._routes = Routes(Query, middleware=middleware, clock=clock)

    def use(self, *middleware: Middleware) -> None:
        """Add ``middleware`` inside of what is there, for all handlers, also those that are registered already.

        Raises:
            HandlerDefinitionError: One is no function of an envelope and what to call next.
        """
        self._routes.use(*middleware)

    def register(self, handler: QueryHandler[Any, Any]) -> None:
        """Let the object ``handler`` answer the queries that its class is for; as ``CommandBus.register``.

        Raises:
            HandlerDefinitionError: It is a class, has no ``handle``, or does not say which query it is for.
            DuplicateHandlerError: The query has a handler.
        """
        message_class = message_class_of_object(handler, generic=QueryHandler, message_root=Query)
        self._routes.add(message_class, handler.handle)

    def handler(self, function: FunctionT) -> FunctionT:
        """Decorate a function that answers the query class which annotates its first parameter.

        ``async def`` or ``def`` (run in a thread, in the query's context); it takes the query, and its
        ``EventEnvelope`` too if it has a second parameter.

        Raises:
            HandlerDefinitionError: The annotation is missing or names no class derived from ``Query``.
            DuplicateHandlerError: The query has a handler.
        """
        message_class = message_class_of_function(function, message_root=Query, names=_names_of_caller())
        self._routes.add(message_class, function)
        return function

    async def ask(
        self, query: Query[ResultT] | EventEnvelope[Query[ResultT]], *, headers: Mapping[str, str] | None = None
    ) -> ResultT:
        """Have ``query`` answered and return the answer; what the handler raises is raised here as it is.

        Args:
            query: An instance of a class derived from ``Query``, or an envelope, which keeps its metadata.
            headers: Text by name for the query's metadata.

        Raises:
            NoHandlerError: Nothing is registered for exactly this class.
            InvalidArgumentError: It is no query, or the headers are no mapping of text to text.
            NotAnEventError: It is a query class instead of an instance.
            ReplayedMessageError: It is called by what is being replayed.
        """
        result: ResultT = await self._routes.run(query, headers=headers)
        return result


def _names_of_caller() -> Mapping[str, object]:
    """Return the names where the decorator stands: message classes may be local to a function."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    return {} if frame is None else dict(frame.f_locals)
