"""The class that users derive their process managers from, and what a reaction can wish for."""

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, cast

import msgspec

from avx_events.core import arguments
from avx_events.core.errors import InvalidArgumentError, NotAnEventError, ProcessDefinitionError
from avx_events.core.event import Command, schema_of
from avx_events.patterns.own_defaults import with_own_defaults
from avx_events.patterns.process.definition import NOT_PLAIN, Definition, checked_name, members_of
from avx_events.store.stored_event import microseconds_of

LONGEST_WAIT_S: Final = 100 * 365 * 24 * 3600
"""How far ahead something may be due, in seconds: past that, instants are no numbers of a database any more."""

_RESERVED: Final = ("id", "is_ended", "send", "deadline", "cancel", "end", "__init__")


class Send(msgspec.Struct, frozen=True):
    """A command that is to be dispatched."""

    command: Any
    headers: Mapping[str, str]


class SetDeadline(msgspec.Struct, frozen=True):
    """A deadline that is to come: so many seconds from now, or at an instant in Unix microseconds."""

    name: str
    after_s: float | None
    at_us: int | None


class CancelDeadline(msgspec.Struct, frozen=True):
    """A deadline that is not to come any more."""

    name: str


Wish: TypeAlias = Send | SetDeadline | CancelDeadline
"""What a reaction wants to happen, in the order in which it was said."""


class _Course(msgspec.Struct):
    """What a process is beside its state."""

    process_id: str
    is_ended: bool
    wishes: list[Wish]


class _ProcessMeta(msgspec.StructMeta):
    """Makes process manager classes: msgspec structs whose fields are the state, made from their id alone."""

    def __new__(  # noqa: PYI034 - Self has no meaning in a metaclass
        mcs,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: object = None,
        **options: Any,
    ) -> "_ProcessMeta":
        if namespace.get("__module__") == __name__:
            return super().__new__(mcs, class_name, bases, namespace, **options)
        _check_body(class_name, namespace, options)
        try:
            made: Any = super().__new__(mcs, class_name, bases, with_own_defaults(namespace))
        except (TypeError, ValueError) as exc:
            raise ProcessDefinitionError(class_name, f"{exc}") from exc
        if len(made.__struct_defaults__) < len(made.__struct_fields__):
            raise ProcessDefinitionError(class_name, "every field needs a default, its value before the first event")
        made.__avx_process__ = Definition(made, checked_name(class_name, name), members_of(made))
        return made  # type: ignore[no-any-return]

    def __call__(cls, process_id: str, /) -> Any:  # noqa: N805 - self is a class here
        """Return a process that has not begun."""
        process = super().__call__()
        process.__avx_course__ = _Course(arguments.text("process_id", process_id), is_ended=False, wishes=[])
        return process


def _check_body(name: str, namespace: dict[str, Any], options: dict[str, Any]) -> None:
    if options:
        raise ProcessDefinitionError(name, f"takes no class keyword but name=, not {', '.join(options)}")
    for reserved in _RESERVED:
        if reserved in namespace or reserved in namespace.get("__annotations__", ()):
            raise ProcessDefinitionError(name, f"{reserved!r} is given by ProcessManager; choose another name")


class _Identity:
    # Beside the fields, so that it is no part of the state.
    __slots__ = ("__avx_course__",)


if TYPE_CHECKING:

    class _Process:
        __avx_course__: _Course
        __avx_process__: ClassVar[Definition]

        def __init__(self, process_id: str, /) -> None: ...
        def __init_subclass__(cls, *, name: str = "") -> None: ...

else:

    class _Process(_Identity, msgspec.Struct, metaclass=_ProcessMeta):
        pass


class ProcessManager(_Process):
    """A business process that goes on over many events: state from events, commands out, deadlines in between.

    Derive yours, with a default for each field, and write methods that are marked with ``@starts``, ``@reacts``,
    ``@on_deadline`` and ``@on_failure``. Fields are the state. Methods change them and say what is to happen next, with
    ``send``, ``deadline``, ``cancel`` and ``end``; they wait for nobody and look at no clock. All of it is written in
    one transaction with the place in the log, so that whatever crashes when, each event is reacted to exactly once.

    Class keywords:
        name: What its processes are kept under: text, stable over deployments, unlike any other's in the store.

    Raises:
        ProcessDefinitionError: When the class is made: a keyword, field or method is not acceptable, or none
            ``@starts``.
    """

    @property
    def id(self) -> str:
        """Which process it is: what ``by=`` gives for its events."""
        return self.__avx_course__.process_id

    @property
    def is_ended(self) -> bool:
        """Whether it has ended; it reacts to nothing any more."""
        return self.__avx_course__.is_ended

    def send(self, command: Command[Any], *, headers: Mapping[str, str] | None = None) -> None:
        """Have ``command`` dispatched once this is written: in order for this process, at least once.

        Its id is its ``idempotency-key``, so that with the middleware of that name it has its effect once.

        Args:
            command: An instance of a command class.
            headers: Text by name for the command's metadata.

        Raises:
            NotAnEventError: It is no command.
        """
        _check_command(command)
        self.__avx_course__.wishes.append(Send(command, dict(headers or {})))

    def deadline(self, name: str, *, after_s: float | None = None, at: datetime | None = None) -> None:
        """Have the method marked ``@on_deadline(name)`` called then, unless it is cancelled or the process ends before.

        A deadline of that name that is still to come is moved.

        Args:
            name: Of the deadline.
            after_s: In how many seconds from the moment in which this is written, more than 0, up to 100 years.
            at: When, with a time zone; one of both is given.

        Raises:
            InvalidArgumentError: No method is marked with that name, or the time is none.
        """
        if name not in self.__avx_process__.deadlines:
            expected = f"the name of an @on_deadline method: {', '.join(map(repr, self.__avx_process__.deadlines))}"
            raise InvalidArgumentError("deadline", name, expected=expected)
        if (after_s is None) == (at is None):
            raise InvalidArgumentError("after_s", after_s, expected="either after_s= in seconds or at= an instant")
        if after_s is not None and arguments.seconds("after_s", after_s) > LONGEST_WAIT_S:
            raise InvalidArgumentError("after_s", after_s, expected=f"{LONGEST_WAIT_S} seconds at most, 100 years")
        if at is not None and not _is_instant(at):
            raise InvalidArgumentError("at", at, expected="a datetime with a time zone, as datetime.now(UTC)")
        wish = SetDeadline(name, after_s, None if at is None else microseconds_of(at))
        self.__avx_course__.wishes.append(wish)

    def cancel(self, name: str) -> None:
        """Let the deadline ``name`` not come any more; harmless where none was to come.

        Raises:
            InvalidArgumentError: No method is marked with that name.
        """
        if name not in self.__avx_process__.deadlines:
            raise InvalidArgumentError("deadline", name, expected="the name of an @on_deadline method")
        self.__avx_course__.wishes.append(CancelDeadline(name))

    def end(self) -> None:
        """End the process: its deadlines go, what it sent is still dispatched, and it reacts to nothing any more."""
        self.__avx_course__.is_ended = True

    def __repr__(self) -> str:
        fields = "".join(f", {field}={getattr(self, field)!r}" for field in fields_of(self))
        return f"{type(self).__name__}({self.id!r}{', ended' if self.is_ended else ''}{fields})"


def _check_command(command: object) -> None:
    if not isinstance(command, Command):
        raise NotAnEventError(command, problem="a process sends commands: derive the class from Command")
    schema_of(cast("object", command))


def _is_instant(at: object) -> bool:
    return isinstance(at, datetime) and at.utcoffset() is not None


def fields_of(process: Any) -> tuple[str, ...]:
    """Return the names of the fields of a process, or of its class."""
    fields: tuple[str, ...] = process.__struct_fields__
    return fields


def definition_of(process_class: object) -> Definition:
    """Return what was made of a process manager class.

    Raises:
        InvalidArgumentError: It is none.
    """
    found: Definition | None = getattr(process_class, "__avx_process__", None)
    if found is None or not inspect.isclass(process_class):
        expected = "a class derived from ProcessManager, with name= and a method that @starts"
        raise InvalidArgumentError("process", process_class, expected=expected)
    return found


def call_reaction(process: ProcessManager, method: str, *arguments: object) -> None:
    """Call a reaction.

    Raises:
        ProcessDefinitionError: It gave something that is to be awaited or iterated: it has done nothing yet.
        BaseException: What it raises.
    """
    given: object = getattr(process, method)(*arguments)
    if inspect.isawaitable(given) or inspect.isgenerator(given) or inspect.isasyncgen(given):
        if inspect.iscoroutine(given):
            given.close()
        raise ProcessDefinitionError(type(process).__qualname__, f"{method} {NOT_PLAIN}")


def take_wishes(process: ProcessManager) -> list[Wish]:
    """Return what was said since the last call, and forget it."""
    course = process.__avx_course__
    wishes, course.wishes = course.wishes, []
    return wishes
