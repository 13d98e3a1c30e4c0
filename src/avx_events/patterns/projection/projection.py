"""How a projection is written: a class whose methods say which events they handle."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeVar, cast

from avx_events.core.callables import required_positional
from avx_events.core.errors import (
    InvalidArgumentError,
    NotAnEventError,
    NotRunningError,
    ProjectionDefinitionError,
)
from avx_events.core.event import ANSWERED_BY_ONE, Event, schema_of
from avx_events.patterns.projection.handling import Action, current_handling
from avx_events.patterns.projection.naming import (
    LONGEST_IDENTIFIER,
    index_name,
    is_identifier,
    name_beside,
    quoted,
)
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent

MethodT = TypeVar("MethodT", bound=Callable[..., Coroutine[Any, Any, None]])


class Effect(NamedTuple):
    """A handler as the projector calls it.

    Attributes:
        method: The name of the method.
        call: The method, to be given the event, the connection and, if it wants it, the stored event.
        takes_stored: Whether it wants it.
    """

    method: str
    call: Callable[..., Awaitable[None]]
    takes_stored: bool

    def run(self, stored: StoredEvent[Any], connection: Connection) -> Awaitable[None]:
        """Call the method with what it takes of an event."""
        if self.takes_stored:
            return self.call(stored.event, connection, stored)
        return self.call(stored.event, connection)


class CaughtUp(Protocol):
    """Waits for one projection of a projector that runs."""

    async def __call__(self, position: int | None, *, timeout_s: float) -> None:
        """Return when it has done everything up to ``position``; see ``Projection.caught_up``."""
        ...


_NOT_IN_THE_LOG: Final = (
    "is answered by one handler and never stored; a projection handles events: derive the class from Event"
)
_IDENTIFIER: Final = (
    "an identifier of lower-case letters, digits and single underscores, of up to"
    f" {LONGEST_IDENTIFIER} characters with its version"
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
    again, and when the read model is built anew: leave that to ``after_commit``.

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
        tables: The names of the tables that it makes, as ``tables=("users",)``; ``setup`` and handlers write them as
            ``self.table("users")`` then. With them a new version is built beside the one that is read, in tables of
            names of its own, and takes its place once it has caught up. Without, it is built in the older one's place.

    Every other event is passed over. A method for a base class runs as well as one for the class itself, in the order
    in which the methods are written, those of a base class first.

    Attributes:
        name: As given.
        version: As given.
        tables: As given; empty if they were not.

    Raises:
        ProjectionDefinitionError: When the class is made: a keyword or a method is not acceptable.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]] = ()
    _handlers: ClassVar[dict[str, tuple[type, ...]]] = {}
    _caught_up: CaughtUp | None = None

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int | None = None,
        tables: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            cls.name = _checked_name(cls, name)
        if version is not None:
            cls.version = _checked_version(cls, version)
        cls.tables = _checked_tables(cls, cls.tables if tables is None else tables)
        cls._handlers = _handlers_of(cls)

    async def setup(self, connection: Connection) -> None:
        """Make the tables of this version, empty.

        Runs once for each version, in the transaction that makes its checkpoint, so that it has happened exactly when
        the checkpoint is there. A version that is built beside another finds no table of its own names, and makes
        ``self.table("users")``. One that is built in the place of another finds what that has left, so it begins with
        ``DROP TABLE IF EXISTS``; that does no harm in the first case. Names that begin with ``avx_`` are ours. Does
        nothing unless it is overridden.
        """
        del connection

    def table(self, name: str) -> str:
        """Return what table ``name`` is called now, quoted, for the text of a statement.

        In ``setup`` and in handlers that is the name itself, or a name of this version's own (``"users__2"``) while
        that is built beside another one. Everywhere else it is the name itself, under which the read model is read.

        Raises:
            InvalidArgumentError: It is none of ``tables=``.
        """
        if name not in self.tables:
            expected = f"one of the projection's tables=, {', '.join(map(repr, self.tables)) or 'of which it has none'}"
            raise InvalidArgumentError("name", name, expected=expected)
        handling = current_handling.get()
        is_beside = handling is not None and handling.owner is self and handling.is_beside
        return quoted(name_beside(name, self.version) if is_beside else name)

    def index(self, name: str) -> str:
        """Return the name of an index, quoted, for ``CREATE INDEX`` in ``setup``: this version's own, as "mails__2".

        An index keeps its name when its table takes that of an older version's, whose indexes may have the same. Every
        second time that a version is built anew it is "mails__2b".

        Raises:
            InvalidArgumentError: It is no identifier of lower-case letters, digits and single underscores, or too long.
        """
        if not is_identifier(name) or len(index_name(name, self.version, build=1)) > LONGEST_IDENTIFIER:
            raise InvalidArgumentError("name", name, expected=_IDENTIFIER)
        handling = current_handling.get()
        build = handling.build if handling is not None and handling.owner is self else 0
        return quoted(index_name(name, self.version, build))

    @property
    def is_replaying(self) -> bool:
        """Whether the event that is handled was there before this version: history, for which nobody is told again.

        Also true for every event that comes while the version is built beside another one, which still does what is
        to be done after a commit. False outside of handlers.
        """
        handling = current_handling.get()
        return handling is not None and handling.owner is self and handling.is_replaying

    def after_commit(self, action: Action) -> None:
        """Have ``action`` called once what the handler does is committed; not at all while ``is_replaying``.

        For what others are told (publish, notify), as ``self.after_commit(lambda: bus.publish(UserListed(user_id)))``.
        Actions are awaited one after the other, in the order of the log, and hold the projection up; each sees the
        event as its cause. At most once: where the process ends between the commit and the action it is lost, and one
        that fails, or takes longer than the projector's ``timeout_s``, is logged as an error and not repeated. What
        must not be lost is a row that the handler writes, and something else delivers.

        Args:
            action: Takes nothing and returns an awaitable.

        Raises:
            NotRunningError: It is called outside of a handler of this projection.
            InvalidArgumentError: The action cannot be called.
        """
        if not callable(action):
            raise InvalidArgumentError("action", action, expected="a function without parameters that can be awaited")
        handling = current_handling.get()
        if handling is None or handling.owner is not self or not handling.is_open:
            raise NotRunningError(f"projection {self.name!r}", "do something after a commit outside of a handler")
        handling.follow_up(action)

    async def caught_up(self, position: int | None = None, *, timeout_s: float = 5.0) -> None:
        """Return when this projection has done everything up to ``position``; see ``Projector.caught_up``.

        Args:
            position: As ``append`` returned it; the end of the log as it is now if not given.
            timeout_s: The longest wait, in seconds.

        Raises:
            ProjectionFailedError: It stopped before that position; its cause is what the handler raised.
            ProjectionLagError: It takes longer than ``timeout_s``; safe to call again.
            NotRunningError: No projector runs this object, or the store was closed.
            InvalidArgumentError: The position is negative, or the time is none.
        """
        if self._caught_up is None:
            raise NotRunningError(f"a projector of {self.name!r}", "wait for it")
        await self._caught_up(position, timeout_s=timeout_s)

    def attach(self, caught_up: CaughtUp) -> None:
        """Be run by a projector, which waits by ``caught_up``."""
        self._caught_up = caught_up

    def detach(self, caught_up: CaughtUp) -> None:
        """Be run no longer by the projector that waits by ``caught_up``; another one may run it meanwhile."""
        if self._caught_up is caught_up:
            self._caught_up = None

    def effects_of(self, event_class: type) -> tuple[Effect, ...]:
        """Return the handlers of events of exactly ``event_class``, in order; none where they do not matter."""
        return tuple(
            _effect(method, getattr(self, method))
            for method, handled in self._handlers.items()
            if Event in handled or issubclass(event_class, handled)  # Event is all, decorated classes too
        )

    def wanted_types(self) -> tuple[type, ...] | None:
        """Return the event classes that its methods handle; None where they handle a family, whoever belongs to it.

        Of a family there may be members that this process has no class for, which a filter by name would pass over.
        """
        handled = {event_class for classes in self._handlers.values() for event_class in classes}
        is_family = Event in handled or any(event_class.__subclasses__() for event_class in handled)
        return None if is_family else tuple(handled)

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


def _effect(name: str, method: Callable[..., Awaitable[None]]) -> Effect:
    return Effect(name, method, takes_stored=len(required_positional(method)) == _WITH_STORED - 1)


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


def _checked_tables(projection_class: type[Projection], tables: object) -> tuple[str, ...]:
    several = () if isinstance(tables, str) or not isinstance(tables, Iterable) else cast("Iterable[object]", tables)
    names = tuple(several)
    for name in names:
        own = name_beside(name, projection_class.version)
        if not is_identifier(name) or name.startswith("avx_") or len(own) > LONGEST_IDENTIFIER:
            problem = f"tables=: {name!r} must be {_IDENTIFIER}, not beginning with avx_"
            raise ProjectionDefinitionError(projection_class.__qualname__, problem)
    if len(set(names)) < len(names) or (not names and tables != ()):
        problem = f"tables= must be names of tables, each once, as ('users',), not {tables!r}"
        raise ProjectionDefinitionError(projection_class.__qualname__, problem)
    return cast("tuple[str, ...]", names)
