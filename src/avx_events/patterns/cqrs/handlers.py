"""Handlers of commands and queries: how they are written, and which message each one is for."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, get_args, get_origin

from avx_events.core.callables import call_in_thread, describe, is_async, required_positional
from avx_events.core.errors import HandlerDefinitionError
from avx_events.core.event import Command, Query
from avx_events.core.generics import generic_argument, resolved
from avx_events.core.metadata import EventEnvelope

CommandT = TypeVar("CommandT", bound=Command[Any])
QueryT = TypeVar("QueryT", bound=Query[Any])
ResultT = TypeVar("ResultT")

Endpoint: TypeAlias = Callable[[EventEnvelope[Any]], Awaitable[Any]]
"""A handler as the bus calls it."""

_MOST_PARAMETERS = 2


class CommandHandler(Generic[CommandT, ResultT]):
    """Carries out one kind of command; derive from ``CommandHandler[CreateUser, str]`` and write ``handle``."""

    async def handle(self, command: CommandT, /, *args: Any, **kwargs: Any) -> ResultT:
        """Carry out ``command`` and return its result.

        Written as ``async def handle(self, command)``, or ``(self, command, envelope)`` to be given the
        ``EventEnvelope`` with the command's metadata as well. What it raises reaches the one who dispatched.
        """
        raise NotImplementedError


class QueryHandler(Generic[QueryT, ResultT]):
    """Answers one kind of query; derive from ``QueryHandler[GetUserView, UserView]`` and write ``handle``."""

    async def handle(self, query: QueryT, /, *args: Any, **kwargs: Any) -> ResultT:
        """Answer ``query``.

        Written as ``async def handle(self, query)``, or ``(self, query, envelope)`` to be given the
        ``EventEnvelope`` with the query's metadata as well. What it raises reaches the one who asked.
        """
        raise NotImplementedError


def message_class_of_object(handler: object, *, generic: type, message_root: type) -> type:
    """Return the message class that a handler object is for, from its generic argument or ``handle``'s annotation.

    Raises:
        HandlerDefinitionError: Neither names a class derived from ``message_root``, there is no ``handle``, or it does
            not take the message.
    """
    name = describe(handler)
    handle = getattr(type(handler), "handle", None)
    if isinstance(handler, type) or not callable(handle) or handle is vars(generic)["handle"]:
        problem = f"register an object whose class has 'async def handle(self, {message_root.__name__.lower()})'"
        raise HandlerDefinitionError(name, problem)
    bound: Callable[..., object] = getattr(handler, "handle")  # noqa: B009 - no type that says so is asked for
    parameter = _message_parameter(bound, message_root)
    argument = generic_argument(type(handler), generic)
    if argument is None or isinstance(argument, TypeVar):
        return _annotated(bound, parameter, message_root=message_root, names={})
    return _checked(name, _resolved(name, bound, argument, {}), message_root)


def message_class_of_function(
    function: Callable[..., object], *, message_root: type, names: Mapping[str, object]
) -> type:
    """Return the message class that annotates the first parameter of ``function``.

    Args:
        function: A function, bound method or callable object.
        message_root: ``Command`` or ``Query``.
        names: Where names of the annotation are looked up besides the function's module.

    Raises:
        HandlerDefinitionError: The annotation is missing, unresolvable, or no class derived from ``message_root``.
    """
    parameter = _message_parameter(function, message_root)
    return _annotated(function, parameter, message_root=message_root, names=names)


def endpoint_for(function: Callable[..., Any]) -> Endpoint:
    """Return ``function`` as an async function of the envelope; a plain ``def`` runs in a thread, in its context.

    A thread cannot be stopped: where the caller is cancelled, the function runs on to its end.
    """
    takes_envelope = len(required_positional(function)) == _MOST_PARAMETERS
    if is_async(function):
        if takes_envelope:
            return lambda envelope: function(envelope.event, envelope)
        return lambda envelope: function(envelope.event)

    async def in_thread(envelope: EventEnvelope[Any]) -> Any:
        arguments = (envelope.event, envelope) if takes_envelope else (envelope.event,)
        result = await asyncio.to_thread(call_in_thread, function, *arguments)
        # A plain function may still have made a coroutine, as a decorator without async def does.
        return await result if inspect.isawaitable(result) else result

    return in_thread


def _message_parameter(function: Callable[..., object], message_root: type) -> inspect.Parameter:
    kind = message_root.__name__.lower()
    try:
        parameters = required_positional(function)
    except (TypeError, ValueError) as exc:
        raise HandlerDefinitionError(describe(function), f"it cannot be called with a {kind}: {exc}") from exc
    if not 1 <= len(parameters) <= _MOST_PARAMETERS:
        raise HandlerDefinitionError(describe(function), f"it must take the {kind}, or the {kind} and its envelope")
    return parameters[0]


def _annotated(
    function: Callable[..., object], parameter: inspect.Parameter, *, message_root: type, names: Mapping[str, object]
) -> type:
    name = describe(function)
    if parameter.annotation is inspect.Parameter.empty:
        problem = f"annotate {parameter.name!r}, its first parameter, with the {message_root.__name__} class it is for"
        raise HandlerDefinitionError(name, problem)
    return _checked(name, _resolved(name, function, parameter.annotation, names), message_root)


def _resolved(name: str, function: Callable[..., object], annotation: object, names: Mapping[str, object]) -> object:
    inner: object = inspect.unwrap(getattr(function, "__func__", function))
    if not hasattr(inner, "__globals__"):  # an object that can be called
        inner = type(inner).__call__
    try:
        return resolved(annotation, module_names=getattr(inner, "__globals__", {}), names=names)
    except (NameError, AttributeError, SyntaxError, TypeError) as exc:
        problem = f"its annotation {annotation!r} cannot be resolved ({exc}); name a class that its module can see"
        raise HandlerDefinitionError(name, problem) from exc


def _checked(name: str, found: object, message_root: type) -> type:
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    message_class = get_origin(found) or found
    if (
        isinstance(message_class, type)
        and issubclass(message_class, message_root)
        and message_class is not message_root
    ):
        return message_class
    kind = message_root.__name__
    text = found.__qualname__ if isinstance(found, type) else repr(found)
    raise HandlerDefinitionError(name, f"it is for {text}, which is no class derived from {kind}")
