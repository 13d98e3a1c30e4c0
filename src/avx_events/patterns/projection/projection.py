"""How a projection is written: a class whose methods say which events they handle."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from avx_events.core.callables import required_positional
from avx_events.core.errors import NotAnEventError, ProjectionDefinitionError
from avx_events.core.event import ANSWERED_BY_ONE, Event, schema_of
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent

MethodT = TypeVar("MethodT", bound=Callable[..., Coroutine[Any, Any, None]])

Effect: TypeAlias = Callable[[StoredEvent[Any], Connection], Awaitable[None]]
"""A handler as the projector calls it."""

_NOT_IN_THE_LOG: Final = (
    "is answered by one handler and never stored; a projection handles events: derive the class from Event"
)
_MARK: Final = "__avx_handles__"
_LONGEST_NAME: Final = 200
_WITHOUT_STORED: Final = 3  # self, event, connection
_WITH_STORED: Final = 4


def handles(*event_classes: type) -> Callable[[MethodT], MethodT]:
    """Decorate a method of a projection that handles events of these classes.

    The method is ``async def add(self, event, connection)``, or ``(self, event, connection, stored)`` to be given the
    ``StoredEvent`` with its metadata and place as well. What it does with ``connection`` happens exactly once, with
    the checkpoint or not at all. Anything else it does (a mail, a file) happens again when the transaction is tried
    again, so it does not belong here.

    Args:
        event_classes: At least one. A base class counts for all classes derived from it, ``Event`` for all of them.

    Raises:
        NotAnEventError: One of them is no event class; commands, queries and requests are none.
        ProjectionDefinitionError: There is none.
    """
    if not event_classes:
        raise ProjectionDefinitionError("@handles", "name the event classes that the method handles, as @handles(A, B)")
    for event_class in event_classes:
        _refuse_other_message(event_class)
        if event_class is not Event:  # the root of all events is no event itself
            schema_of(event_class)

    def decorate(method: MethodT) -> MethodT:
        setattr(method, _MARK, (*event_classes, *getattr(method, _MARK, ())))
        return method

    return decorate


class Projection:
    """A read model made of events: derive from it, and write a method for each event that matters.

    Class keywords:
        name: What its checkpoint is kept under: text, stable over deployments, unlike any other's in the store.
        version: From 1; raise it when the read model must be made anew, as when its tables or handlers change.

    Every other event is passed over. A method for a base class runs as well as one for the class itself, in the order
    in which the methods are written, those of a base class first.

    Attributes:
        name: As given.
        version: As given.

    Raises:
        ProjectionDefinitionError: When the class is made: a keyword or a method is not acceptable.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    _handlers: ClassVar[dict[str, tuple[type, ...]]] = {}

    def __init_subclass__(cls, *, name: str | None = None, version: int | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            cls.name = _checked_name(cls, name)
        if version is not None:
            cls.version = _checked_version(cls, version)
        cls._handlers = _handlers_of(cls)

    async def setup(self, connection: Connection) -> None:
        """Make the tables of this version, empty, whatever an earlier version has left of them.

        Runs once for each version, in the transaction that makes its checkpoint, so that it has happened exactly when
        the checkpoint is there. As tables of an earlier version may be there under the same names, begin with ``DROP
        TABLE IF EXISTS``. Names that begin with ``avx_`` are ours. Does nothing unless it is overridden.
        """
        del connection

    def effects_of(self, event_class: type) -> tuple[Effect, ...]:
        """Return the handlers of events of exactly ``event_class``, in order; none where they do not matter."""
        return tuple(
            _effect(getattr(self, method))
            for method, handled in self._handlers.items()
            if Event in handled or issubclass(event_class, handled)  # Event is all, decorated classes too
        )

    @property
    def handles_nothing(self) -> bool:
        """Whether no method handles any event."""
        return not self._handlers


def _refuse_other_message(event_class: object) -> None:
    if isinstance(event_class, type) and issubclass(event_class, ANSWERED_BY_ONE):
        raise NotAnEventError(event_class, problem=_NOT_IN_THE_LOG)


def _handlers_of(projection_class: type[Projection]) -> dict[str, tuple[type, ...]]:
    found: dict[str, tuple[type, ...]] = {}
    for base in reversed(projection_class.__mro__):
        for name, member in vars(base).items():
            handled: tuple[type, ...] | None = getattr(member, _MARK, None)
            if handled is not None:
                found[name] = handled
            elif name not in found:  # one that is overridden stays a handler
                continue
            _check_method(projection_class, name, member)
    return found


def _check_method(projection_class: type, name: str, member: object) -> None:
    if not inspect.iscoroutinefunction(member):
        raise ProjectionDefinitionError(projection_class.__qualname__, f"{name} must be an 'async def' method")
    try:
        count = len(required_positional(member))
    except (TypeError, ValueError) as exc:
        raise ProjectionDefinitionError(projection_class.__qualname__, f"{name}: {exc}") from exc
    if count not in {_WITHOUT_STORED, _WITH_STORED}:
        problem = f"{name} must take (self, event, connection), or (self, event, connection, stored)"
        raise ProjectionDefinitionError(projection_class.__qualname__, problem)


def _effect(method: Callable[..., Awaitable[None]]) -> Effect:
    if len(required_positional(method)) == _WITH_STORED - 1:
        return lambda stored, connection: method(stored.event, connection, stored)
    return lambda stored, connection: method(stored.event, connection)


def _checked_name(projection_class: type, name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        problem = f"name= must be printable text of 1 to {_LONGEST_NAME} characters, not {name!r}"
        raise ProjectionDefinitionError(projection_class.__qualname__, problem)
    return name


def _checked_version(projection_class: type, version: object) -> int:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        problem = f"version= must be a whole number, 1 or more, not {version!r}"
        raise ProjectionDefinitionError(projection_class.__qualname__, problem)
    return version
