"""The user's own code, named as ``module:name``: loaded, and opened as what a command needs."""

import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import reduce
from importlib import import_module
from inspect import isawaitable, signature
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from avx_events.apps.cli.application_code import ApplicationError, application_code
from avx_events.apps.cli.signals import at_once
from avx_events.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from avx_events.bus.delivering_bus import DeliveringBus
    from avx_events.patterns.aggregate import AggregateRoot
    from avx_events.patterns.projection import Projector

Application: TypeAlias = "DeliveringBus | Projector"
"""What handles events: a bus with its handlers, or a projector."""

_SHAPE = "module:name, as 'shop.app:bus'"


def loaded(argument: str, place: str) -> Any:
    """Return the object at ``place``; modules are looked for in the working folder too.

    Raises:
        InvalidArgumentError: It is not written so, or is not there.
        ApplicationError: Its module cannot be imported.
    """
    module_name, separator, name = place.partition(":")
    if not separator or not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidArgumentError(argument, place, expected=_SHAPE)
    folder = os.getcwd()  # noqa: PTH109 - as the interpreter writes it itself
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _imported(argument, place, module_name)
    with application_code(place):
        try:
            found: Any = reduce(getattr, name.split("."), module)
        except AttributeError as exc:
            raise InvalidArgumentError(argument, place, expected=f"{_SHAPE}; {exc}") from exc
    return found


def aggregate_class(place: str) -> "type[AggregateRoot]":
    """Return the aggregate class at ``place``.

    Raises:
        InvalidArgumentError: There is none.
        ApplicationError: Its module cannot be imported.
    """
    from avx_events.patterns.aggregate import AggregateRoot  # noqa: PLC0415 - only where it is asked for

    found: Any = loaded("--aggregate", place)
    if not is_class_of(AggregateRoot, found):
        raise InvalidArgumentError("--aggregate", place, expected="the place of an AggregateRoot class")
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
        ApplicationError: The application's own code raised something, when it was opened or closed.
        BaseException: What the block raised.
    """
    found = loaded("app", place)
    of_the_block: BaseException | None = None
    try:
        async with AsyncExitStack() as stack:
            application = await _application(found, place, stack)
            if runs and not _is_entered(application):
                await stack.enter_async_context(application)
            try:
                yield application
            except BaseException as exc:
                of_the_block = exc
                raise
    except (Exception, SystemExit) as exc:
        if exc is of_the_block:
            raise
        with application_code(place):
            raise


async def _application(found: Any, place: str, stack: AsyncExitStack) -> Application:
    from avx_events.bus.delivering_bus import DeliveringBus  # noqa: PLC0415 - only where it is asked for
    from avx_events.patterns.projection import Projector  # noqa: PLC0415 - likewise

    kinds = (DeliveringBus, Projector)
    if not isinstance(found, kinds) and _takes_nothing(found):
        with at_once():
            found = cast("Callable[[], Any]", found)()
    if isawaitable(found):
        found = await found
    if not isinstance(found, kinds) and isinstance(found, AbstractAsyncContextManager):
        found = await stack.enter_async_context(cast("AbstractAsyncContextManager[Any]", found))
    if not isinstance(found, kinds):
        expected = "the place of a bus or projector, of a function that returns one, or of one that opens one"
        raise InvalidArgumentError("app", place, expected=expected)
    return found


def _is_entered(application: Application) -> bool:
    """Tell whether it refuses to be entered, as a projector does the second time."""
    return bool(getattr(application, "is_entered", False))


def _imported(argument: str, place: str, module_name: str) -> object:
    try:
        with at_once(), application_code(place):
            return import_module(module_name)
    except ApplicationError as exc:
        cause = exc.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module_name}.".startswith(f"{cause.name}."):
            expected = f"{_SHAPE}, that can be imported ({cause})"
            raise InvalidArgumentError(argument, place, expected=expected) from cause
        raise


def _takes_nothing(found: object) -> bool:
    try:
        signature(cast("Callable[..., object]", found)).bind()
    except (TypeError, ValueError):
        return False
    return True
