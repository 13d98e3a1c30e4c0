"""What the functions of our users look like, what they take, and how a thread calls them."""

import inspect
from collections.abc import Callable

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def describe(function: object) -> str:
    """Return the qualified name of a function, or of an object's class."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def is_async(function: Callable[..., object]) -> bool:
    """Tell whether calling ``function`` (or the object's ``__call__``) makes a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def required_positional(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Return what ``function`` must be given by position, without ``self`` where it is bound.

    The first parameter counts in any case; a further one with a default is the author's own option.

    Raises:
        TypeError: It cannot be called, or has a parameter that must be given by keyword; the text says which.
        ValueError: It has no signature.
    """
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty:
            problem = f"parameter {parameter.name!r} is by keyword only; handlers are called by position"
            raise TypeError(problem)
    found = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    return found[:1] + [parameter for parameter in found[1:] if parameter.default is inspect.Parameter.empty]


def call_in_thread(function: Callable[..., object], *args: object) -> object:
    """Return what ``function`` returns; to be called in a thread that a coroutine waits for.

    Raises:
        RuntimeError: It raised ``StopIteration`` or ``GeneratorExit``, which no future can hand to a coroutine.
    """
    try:
        return function(*args)
    except (StopIteration, GeneratorExit) as exc:
        raise RuntimeError(f"{describe(function)} raised {type(exc).__name__}") from exc
