"""How a process manager is written: which of its methods react to what, and to which process an event belongs."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from avx_events.core.callables import required_positional
from avx_events.core.errors import NotAnEventError, ProcessDefinitionError
from avx_events.core.event import ANSWERED_BY_ONE, Command, Event, schema_of, text_of
from avx_events.store.stored_event import StoredEvent, check_stream

MethodT = TypeVar("MethodT", bound=Callable[..., None])

By: TypeAlias = str | Callable[[Any], object] | None
"""Which process an event belongs to: the field that holds its id, a function of the event, or its aggregate id."""

Kind: TypeAlias = Literal["starts", "reacts"]

_MARK: Final = "__avx_process_marks__"
_LONGEST_NAME: Final = 200
_NOT_PLAIN: Final = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
NOT_PLAIN: Final = "must be a plain method: it changes the state and says what is to happen, and waits for nobody"
"""What is wrong with a reaction that is asynchronous, or a generator."""

Mark: TypeAlias = Callable[["Definition", type, str, Any], None]
"""Tells a definition of a method; it is given the class, the method's name and the method."""


class Reaction(msgspec.Struct, frozen=True):
    """A method that is called with events.

    Attributes:
        kind: Whether it starts a process, or belongs to one that is there.
        event_classes: Of what; a base class counts for all classes derived from it.
        by: Which process an event belongs to.
        method: The method's name.
        takes_stored: Whether it takes the ``StoredEvent`` too.
    """

    kind: Kind
    event_classes: tuple[type, ...]
    by: By
    method: str
    takes_stored: bool

    def id_of(self, event: Any) -> str:
        """Return the id of the process that ``event`` belongs to, empty where it belongs to none.

        Raises:
            InvalidArgumentError: It cannot be the id of a process.
            Exception: What ``by`` raises.
        """
        if self.by is None:
            process_id = schema_of(event).aggregate_id(event)
        else:
            process_id = text_of(getattr(event, self.by) if isinstance(self.by, str) else self.by(event))
        return process_id and check_stream(process_id, argument="process id")


class Definition:
    """What the runner needs to know of one process manager class.

    Attributes:
        name: What its processes are kept under.
        reactions: In the order in which they are written, those of base classes first.
        deadlines: The method for each deadline.
        failures: The method for each command class whose failure is reacted to.
        event_classes: All classes that it reacts to.
    """

    def __init__(self, process_class: type, name: str, members: Mapping[str, tuple[Any, tuple[Mark, ...]]]) -> None:
        """Look at the ``members`` of ``process_class``, each with what it is marked with; see ``members_of``.

        Raises:
            ProcessDefinitionError: One cannot be used as it is marked, or nothing starts a process.
        """
        self.name = name
        self.reactions: list[Reaction] = []
        self.deadlines: dict[str, str] = {}
        self.failures: dict[type, str] = {}
        for method, (member, marks) in members.items():
            for mark in marks:
                mark(self, process_class, method, member)
        if not any(reaction.kind == "starts" for reaction in self.reactions):
            raise ProcessDefinitionError(process_class.__qualname__, "needs a method that @starts a process")
        self.event_classes = tuple(dict.fromkeys(cls for each in self.reactions for cls in each.event_classes))
        self.of_class: Callable[[type], tuple[Reaction, ...]] = lru_cache(maxsize=4_096)(self._of_class)

    def failure_method(self, command_class: type) -> str | None:
        """Return the method that is called when a command of ``command_class`` has failed for good."""
        for base in command_class.__mro__:
            if base in self.failures:
                return self.failures[base]
        return None

    def _of_class(self, event_class: type) -> tuple[Reaction, ...]:
        return tuple(
            each
            for each in self.reactions
            if Event in each.event_classes or issubclass(event_class, each.event_classes)
        )


def starts(*event_classes: type, by: By = None) -> Callable[[MethodT], MethodT]:
    """Decorate a method of a process manager that is called with the event that starts a process.

    ``def placed(self, event)``, or ``(self, event, stored)`` to be given the ``StoredEvent`` with its metadata as well.
    Where the process is there already, or has ended, a later one of these events is passed over.

    Args:
        event_classes: At least one. A base class counts for all classes derived from it.
        by: The field that holds the id of the process, or a function that returns it; the aggregate id if not given.

    Raises:
        NotAnEventError: One of them is no event class.
        ProcessDefinitionError: There is none; or, when the class is made, the method cannot be called like this.
    """
    return _reacting("starts", event_classes, by)


def reacts(*event_classes: type, by: By = None) -> Callable[[MethodT], MethodT]:
    """Decorate a method of a process manager that is called with an event of a process that is there.

    As ``starts`` otherwise. An event whose process was not started, or has ended, is passed over.

    Raises:
        NotAnEventError: One of the classes is no event class.
        ProcessDefinitionError: There is none; or, when the class is made, the method cannot be called like this.
    """
    return _reacting("reacts", event_classes, by)


def on_deadline(name: str) -> Callable[[MethodT], MethodT]:
    """Decorate a method of a process manager, ``def too_late(self)``, that is called when the deadline has come.

    Raises:
        ProcessDefinitionError: When the class is made: the deadline has a method already, or it takes arguments.
    """

    def mark(definition: Definition, process_class: type, method: str, member: Any) -> None:
        _check_method(process_class, method, member, arguments=(1,), shape="(self)")
        _check_deadline(process_class, name)
        if definition.deadlines.setdefault(name, method) != method:
            raise ProcessDefinitionError(process_class.__qualname__, f"deadline {name!r} has two methods")

    return _marking(mark)


def on_failure(*command_classes: type) -> Callable[[MethodT], MethodT]:
    """Decorate a method of a process manager that is called when a command it sent has failed for good: compensation.

    ``def cannot_ship(self, command, error)``; the error is text, ``"Type: message"``.

    Raises:
        ProcessDefinitionError: When the class is made: no command class is named, one has a method already, or the
            method cannot be called like this.
    """

    def mark(definition: Definition, process_class: type, method: str, member: Any) -> None:
        name = process_class.__qualname__
        _check_method(process_class, method, member, arguments=(3,), shape="(self, command, error)")
        if not command_classes:
            raise ProcessDefinitionError(name, f"{method}: name the command classes, as @on_failure(ShipOrder)")
        for command_class in command_classes:
            _check_command_class(name, method, command_class)
            if definition.failures.setdefault(command_class, method) != method:
                raise ProcessDefinitionError(name, f"the failure of {command_class.__qualname__} has two methods")

    return _marking(mark)


def checked_name(class_name: str, name: object) -> str:
    """Return ``name`` if processes can be kept under it.

    Raises:
        ProcessDefinitionError: They cannot.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        problem = f"name= must be printable text of 1 to {_LONGEST_NAME} characters, not {name!r}"
        raise ProcessDefinitionError(class_name, problem)
    return name


def members_of(process_class: type) -> dict[str, tuple[Any, tuple[Mark, ...]]]:
    """Return the members of a class and its bases by name, those of base classes first, overridden ones in their place.

    Each comes with its marks. One that overrides another and has none of its own is what that was, in this class only:
    a mixin's method may be something else in the next one.
    """
    found: dict[str, tuple[Any, tuple[Mark, ...]]] = {}
    for name, member in _members(process_class):
        _, inherited = found.get(name, (None, ()))
        own: tuple[Mark, ...] = getattr(member, _MARK, ())
        found[name] = member, own or (inherited if callable(member) else ())
    return found


def arguments_of(reaction: Reaction, stored: StoredEvent[Any]) -> tuple[Any, ...]:
    """Return what the method of ``reaction`` is called with."""
    return (stored.event, stored) if reaction.takes_stored else (stored.event,)


def _members(process_class: type) -> Iterator[tuple[str, Any]]:
    for base in reversed(process_class.__mro__):
        yield from vars(base).items()


def _reacting(kind: Kind, event_classes: tuple[type, ...], by: By) -> Callable[[MethodT], MethodT]:
    if not event_classes:
        raise ProcessDefinitionError(f"@{kind}", f"name the event classes, as @{kind}(OrderPlaced)")
    for event_class in event_classes:
        _check_event_class(f"@{kind}", event_class, by)

    def mark(definition: Definition, process_class: type, method: str, member: Any) -> None:
        _check_method(process_class, method, member, arguments=(2, 3), shape="(self, event)")
        takes_stored = len(required_positional(member)) > 2  # noqa: PLR2004 - self and the event
        definition.reactions.append(Reaction(kind, event_classes, by, method, takes_stored))

    return _marking(mark)


def _check_event_class(where: str, event_class: object, by: By) -> None:
    if not isinstance(event_class, type):
        raise NotAnEventError(event_class, problem=f"{where} takes event classes")
    if issubclass(event_class, ANSWERED_BY_ONE):
        raise ProcessDefinitionError(where, f"{event_class.__qualname__} is answered by one handler and never stored")
    if by is not None and not isinstance(by, str) and not callable(by):
        raise ProcessDefinitionError(where, f"by= must be the name of a field, or a function of the event, not {by!r}")
    if event_class is Event:
        return
    schema = schema_of(event_class)
    fields = getattr(schema.message_class, "__struct_fields__", None)
    if isinstance(by, str) and fields is not None and by not in fields:
        raise ProcessDefinitionError(where, f"by={by!r} is no field of {schema.message_class.__qualname__}: {fields}")


def _check_deadline(process_class: type, name: object) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ProcessDefinitionError(process_class.__qualname__, f"a deadline needs a name, not {name!r}")


def _check_command_class(class_name: str, method: str, command_class: object) -> None:
    if not isinstance(command_class, type) or not issubclass(command_class, Command):
        raise ProcessDefinitionError(class_name, f"{method}: {command_class!r} is no command class")


def _check_method(process_class: type, method: str, member: Any, *, arguments: tuple[int, ...], shape: str) -> None:
    name = process_class.__qualname__
    if not inspect.isfunction(member) or any(is_so(member) for is_so in _NOT_PLAIN):
        raise ProcessDefinitionError(name, f"{method} {NOT_PLAIN}")
    try:
        given = len(required_positional(member))
    except TypeError as exc:
        raise ProcessDefinitionError(name, f"{method}: {exc}") from exc
    if given not in arguments:
        raise ProcessDefinitionError(name, f"{method} must take {shape}")


def _marking(mark: Mark) -> Callable[[MethodT], MethodT]:
    def decorate(method: MethodT) -> MethodT:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), mark))
        return method

    return decorate
