"""The user's own code, named as ``module:name``: loaded, and opened as what a command needs."""

import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import reduce
from importlib import import_module
from inspect import isawaitable, signature
from typing import Any, TypeAlias, cast

from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.projection import Projector

Application: TypeAlias = DeliveringBus | Projector
"""What handles events: a bus with its handlers, or a projector."""

_SHAPE = "module:name, as 'shop.app:bus'"


def loaded(argument: str, place: str) -> Any:
    """Return the object at ``place``; modules are looked for in the working folder too.

    Raises:
        InvalidArgumentError: It is not written so, cannot be imported, or is not there.
    """
    module_name, separator, name = place.partition(":")
    if not separator or not module_name or not name:
        raise InvalidArgumentError(argument, place, expected=_SHAPE)
    folder = os.getcwd()  # noqa: PTH109 - as the interpreter writes it itself
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module: object = import_module(module_name)
    except Exception as exc:  # it runs the user's code, which may raise anything
        expected = f"{_SHAPE}, that can be imported ({type(exc).__name__}: {exc})"
        raise InvalidArgumentError(argument, place, expected=expected) from exc
    try:
        found: Any = reduce(getattr, name.split("."), module)
    except AttributeError as exc:
        raise InvalidArgumentError(argument, place, expected=f"{_SHAPE}; {exc}") from exc
    return found


def aggregate_class(place: str) -> type[AggregateRoot]:
    """Return the aggregate class at ``place``.

    Raises:
        InvalidArgumentError: There is none.
    """
    found: Any = loaded("aggregate", place)
    if not is_class_of(AggregateRoot, found):
        raise InvalidArgumentError("aggregate", place, expected="the place of an AggregateRoot class")
    return cast("type[AggregateRoot]", found)


def is_class_of(base: type, found: object) -> bool:
    """Tell whether ``found`` is a class derived from ``base``."""
    return isinstance(found, type) and issubclass(found, base)


@asynccontextmanager
async def opened_application(place: str, *, runs: bool) -> AsyncGenerator[Application, None]:
    """Give the bus or projector at ``place``.

    It may be there itself; or a function without parameters that returns it, ``async`` or not; or one that returns an
    async context manager which gives it, so that the application can open and close what it needs.

    Args:
        place: Where it is.
        runs: Run its handlers meanwhile.

    Raises:
        InvalidArgumentError: There is none of these.
        Exception: What the application's own code raised.
    """
    found: Any = loaded("app", place)
    async with AsyncExitStack() as stack:
        if not isinstance(found, Application) and _takes_nothing(found):
            found = cast("Callable[[], Any]", found)()
        if isawaitable(found):
            found = await found
        if not isinstance(found, Application) and isinstance(found, AbstractAsyncContextManager):
            found = await stack.enter_async_context(cast("AbstractAsyncContextManager[Any]", found))
        if not isinstance(found, Application):
            expected = "the place of a bus or projector, of a function that returns one, or of one that opens one"
            raise InvalidArgumentError("app", place, expected=expected)
        if runs and not (isinstance(found, Projector) and found.is_entered):  # which refuses a second time
            await stack.enter_async_context(found)
        yield found


def _takes_nothing(found: object) -> bool:
    try:
        signature(cast("Callable[..., object]", found)).bind()
    except (TypeError, ValueError):
        return False
    return True
