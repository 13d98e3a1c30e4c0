"""Messages as typed values: events, requests, commands and queries, and the names they have on the wire."""

import gc
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache, partial
from keyword import iskeyword
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar, cast, dataclass_transform

import msgspec

from avx_events.core.arguments import is_whole
from avx_events.core.errors import (
    DuplicateEventTypeError,
    EventDefinitionError,
    InvalidArgumentError,
    InvalidTopicError,
    NotAnEventError,
)
from avx_events.core.topic import check_topic

ResultT_co = TypeVar("ResultT_co", covariant=True)
ClassT = TypeVar("ClassT", bound=type)
T = TypeVar("T")
Upcaster = Callable[[dict[str, Any]], Mapping[str, Any]]
UpcasterT = TypeVar("UpcasterT", bound=Upcaster)

PERSONAL: Final = "avx_personal"
"""What ``msgspec.Meta(extra={"avx_personal": True})`` marks: personal data, which the console does not show."""

Personal: TypeAlias = Annotated[T, msgspec.Meta(extra={PERSONAL: True})]
"""The type of a field of personal data, as ``email: Personal[str]``: to everything but the console a ``str``."""

_RESERVED_FIELDS = {
    "event_type": "every event has its type by that name; call the field something else",
    "aggregate_id": "every event has a method of that name; name the field that holds it with aggregate_id='its_name'",
}
_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Payload:
    """Writes and reads the data of one message class as JSON; both raise what the underlying library raises.

    Attributes:
        encode: Returns the data of a message.
        decode: Returns the message of data.
    """

    __slots__ = ("decode", "encode")

    def __init__(self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        """Keep both functions, so that a call costs no wrapper."""
        self.encode = encode
        self.decode = decode


class EventSchema:
    """What the buses and stores need to know of one message class.

    Attributes:
        event_type: The name on the wire and in the store.
        names: All names that it has or had there, the current one first.
        message_class: The class.
        aggregate_field: The field that holds the aggregate id, or None.
        key_of: Returns the raw aggregate id of a message, or None where the class has none at all.
        keys_of: Does so for several messages.
        revision: The revision of the data that the class describes, counted from 1.
        upcasters: From a revision to the function that turns its data into the next one's.
        payload: How the data is written and read; the codec fills it in on first use, when annotations resolve.
    """

    __slots__ = (
        "aggregate_field",
        "event_type",
        "key_of",
        "keys_of",
        "message_class",
        "names",
        "payload",
        "revision",
        "upcasters",
    )

    def __init__(
        self,
        message_class: type,
        event_type: str,
        *,
        formerly: tuple[str, ...],
        aggregate_field: str | None,
        key_of: Callable[[Any], object] | None,
        revision: int,
    ) -> None:
        """Describe ``message_class``; ``schema_for`` checks the values first."""
        self.message_class = message_class
        self.event_type = event_type
        self.names = (event_type, *formerly)
        self.aggregate_field = aggregate_field
        self.key_of = key_of
        self.keys_of: Callable[[Sequence[Any]], list[Any]] | None = None
        if key_of is not None:
            self.keys_of = partial(_each, key_of) if aggregate_field is None else _field_of_each(aggregate_field)
        self.revision = revision
        self.upcasters: dict[int, Upcaster] = {}
        self.payload: Payload | None = None

    def aggregate_id(self, message: object) -> str:
        """Return the aggregate id of ``message`` as text, empty where there is none."""
        return "" if self.key_of is None else text_of(self.key_of(message))

    def add_upcaster(self, from_revision: int, upcaster: Upcaster) -> None:
        """Use ``upcaster`` for data of ``from_revision``.

        Raises:
            InvalidArgumentError: There is no such older revision, or it has an upcaster already.
        """
        if not is_whole(from_revision) or not 1 <= from_revision < self.revision:
            expected = f"a revision before {self.event_type!r}'s own, {self.revision} (set revision= on the class)"
            raise InvalidArgumentError("from_revision", from_revision, expected=expected)
        if from_revision in self.upcasters:
            raise InvalidArgumentError("from_revision", from_revision, expected="a revision without an upcaster")
        self.upcasters[from_revision] = upcaster


def text_of(key: object) -> str:
    """Return an aggregate id as text, an enum's as its value, as on the wire; None is no id."""
    if key.__class__ is str:
        return cast("str", key)  # type: ignore[redundant-cast]  # pyright does not narrow by class
    if isinstance(key, Enum):
        return text_of(key.value)
    return "" if key is None else str(key)


# Classes by event type, and by those that they had. Weak, so that a class made inside a test or a reload goes with its
# last user.
_classes: "weakref.WeakValueDictionary[str, type]" = weakref.WeakValueDictionary()

# All names that a class had formerly: of any other it is known at once that it is the current one.
_former_names: set[str] = set()


def schema_of(message: object) -> EventSchema:
    """Return the schema of a message class, or of a message's class.

    Raises:
        NotAnEventError: The class is no message class.
    """
    message_class = message if isinstance(message, type) else type(message)
    schema = message_class.__dict__.get("__avx_schema__")
    if schema is None:
        raise NotAnEventError(message)
    return cast("EventSchema", schema)


def class_for(event_type: str) -> type | None:
    """Return the message class that has ``event_type``, or had it formerly; None where this process has none."""
    return _classes.get(event_type)


def current_type(event_type: str) -> str:
    """Return the event type that the class of ``event_type`` has today; ``event_type`` itself where there is no class.

    What was recorded under a former name is in every respect an event of the current one: whoever asks for a type, by
    class, by filter or by topic, need not know what it was called when.
    """
    if event_type not in _former_names:
        return event_type
    message_class = _classes.get(event_type)
    return event_type if message_class is None else schema_of(message_class).event_type


def recorded_types(event_class: type) -> tuple[str, ...]:
    """Return all event types under which events of ``event_class`` may be recorded, so that a store can look for them.

    Its own come first, the current one before the former ones in the order in which the class names them; then those of
    the classes derived from it. For ``Event`` they are those of all event classes, decorated ones too. Types that no
    class has are not among them, nor those of classes whose modules are not imported yet.

    Raises:
        NotAnEventError: It is no event class.
    """
    found = _every_event() if event_class is Event else _family(event_class)
    return tuple(dict.fromkeys(name for schema in found for name in schema.names))


def types_alike(event_type: str) -> tuple[str, ...]:
    """Return all event types of the class that has ``event_type``, or had it: the current one first.

    Only ``event_type`` itself where there is no class.
    """
    message_class = _classes.get(event_type)
    return (event_type,) if message_class is None else schema_of(message_class).names


def event_type_from(class_name: str) -> str:
    """Cut a class name at its capitals: ``OrderItemAdded`` is ``order.item.added``, ``HTTPError`` ``http.error``."""
    words = _CAPITALS.sub(".", class_name).replace("_", ".").lower()
    return ".".join(word for word in words.split(".") if word)


def _family(event_class: type) -> Iterator[EventSchema]:
    yield schema_of(event_class)
    derived: type
    for derived in event_class.__subclasses__():
        schema = derived.__dict__.get("__avx_schema__")
        # One that was made again, as by a reload, is still there for a while.
        if schema is not None and _classes.get(schema.event_type) is derived:
            yield from _family(derived)


def _every_event() -> Iterator[EventSchema]:
    for message_class in [*_classes.values()]:
        if not issubclass(message_class, ANSWERED_BY_ONE):
            yield schema_of(message_class)


def _register(schema: EventSchema) -> None:
    new = schema.message_class
    for name in schema.names:
        _refuse_another(name, new)
    _classes.update(dict.fromkeys(schema.names, new))
    _former_names.update(schema.names[1:])


def _refuse_another(event_type: str, new: type) -> None:
    existing = _classes.get(event_type)
    if existing is not None and _place(existing) != _place(new):
        del existing
        gc.collect()  # a class is a cycle: it may be garbage that was not collected yet
        existing = _classes.get(event_type)
        if existing is not None and _place(existing) != _place(new):
            raise DuplicateEventTypeError(event_type, _place(existing), _place(new))


def _place(message_class: type) -> str:
    return f"{message_class.__module__}.{message_class.__qualname__}"


def _chosen_type(class_name: str, keyword: object, by_hand: object) -> object:
    if keyword is None:
        return event_type_from(class_name) if by_hand is None else by_hand
    if by_hand is not None and by_hand != keyword:
        raise EventDefinitionError(class_name, f"has event_type={keyword!r} and event_type = {by_hand!r}; keep one")
    return keyword


def _check_event_type(class_name: str, event_type: object) -> str:
    try:
        return check_topic(event_type)  # a message is published to its type where no other topic is given
    except InvalidTopicError as exc:
        problem = f"event_type must be text in segments split by dots, as 'order.placed': {exc}"
        raise EventDefinitionError(class_name, problem) from exc


def _check_formerly(class_name: str, event_type: str, formerly: object) -> tuple[str, ...]:
    if not isinstance(formerly, tuple | list):
        problem = f"formerly must be a tuple of event types, as ('order.created',), not {formerly!r}"
        raise EventDefinitionError(class_name, problem)
    names = tuple(_check_event_type(class_name, name) for name in cast("Sequence[object]", formerly))
    for name in names:
        if name == event_type:
            raise EventDefinitionError(class_name, f"formerly has {name!r}, which is its event type today")
        if names.count(name) > 1:
            raise EventDefinitionError(class_name, f"formerly has {name!r} twice")
    return names


def _check_revision(class_name: str, revision: int) -> int:
    if not is_whole(revision) or revision < 1:
        raise EventDefinitionError(class_name, f"revision must be a whole number, 1 or more, not {revision!r}")
    return revision


def _reader(field: str) -> Callable[[Any], str]:
    def aggregate_id(self: object) -> str:
        return text_of(getattr(self, field))

    return aggregate_id


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class EventMeta(msgspec.StructMeta):
    """Makes message classes: msgspec structs that take their event type and aggregate id as class keywords."""

    def __new__(  # noqa: PYI034 - Self has no meaning in a metaclass
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        event_type: str | None = None,
        formerly: tuple[str, ...] = (),
        aggregate_id: str | None = None,
        revision: int = 1,
        **struct_options: Any,
    ) -> "EventMeta":
        """Make the class and register its event type.

        Raises:
            EventDefinitionError: A keyword or a field is not acceptable.
            DuplicateEventTypeError: Another class has the event type, or a former one, or had it.
        """
        event_type = _check_event_type(name, _chosen_type(name, event_type, namespace.get("event_type")))
        formerly = _check_formerly(name, event_type, formerly)
        namespace["event_type"] = event_type
        if aggregate_id is not None:
            if "aggregate_id" in namespace:
                raise EventDefinitionError(name, "has aggregate_id= and a method aggregate_id(); keep one")
            namespace["aggregate_id"] = _reader(aggregate_id)
        if struct_options.get("frozen") is False:
            raise EventDefinitionError(name, "cannot be made with frozen=False; a message is shared by all who get it")
        try:
            made = super().__new__(mcs, name, bases, namespace, **struct_options)
        except (TypeError, ValueError) as exc:  # a keyword or a default that msgspec refuses
            raise EventDefinitionError(name, f"cannot be made: {exc}") from exc
        _check_fields(name, made.__struct_fields__, aggregate_id)
        if namespace.get("__module__") != __name__:  # the roots of this module are not messages themselves
            revision = _check_revision(name, revision)
            aggregate_field = aggregate_id or _inherited_field(made, overridden="aggregate_id" in namespace)
            made.__avx_schema__ = EventSchema(
                made,
                event_type,
                formerly=formerly,
                aggregate_field=aggregate_field,
                key_of=_key_of(made, aggregate_field),
                revision=revision,
            )
            _register(made.__avx_schema__)
        return made

    # On the metaclass, so that it is found on the class and takes no name from its fields.
    def upcast(cls, *, from_revision: int) -> Callable[[UpcasterT], UpcasterT]:  # noqa: N805 - self is a class here
        """Decorate a function from data of ``from_revision`` (a dict) to data of the next revision.

        Raises:
            InvalidArgumentError: There is no such older revision, or it has an upcaster already.
        """
        return upcast(cls, from_revision=from_revision)

    __avx_schema__: EventSchema


def _check_fields(name: str, fields: Sequence[str], aggregate_id: str | None) -> None:
    for reserved, remedy in _RESERVED_FIELDS.items():
        if reserved in fields:
            raise EventDefinitionError(name, f"a field cannot be called {reserved!r}; {remedy}")
    if aggregate_id is not None and aggregate_id not in fields:
        raise EventDefinitionError(name, f"aggregate_id={aggregate_id!r} is none of its fields {tuple(fields)}")


def _inherited_field(message_class: type, *, overridden: bool) -> str | None:
    if overridden:
        return None
    for base in message_class.__mro__[1:]:
        schema = base.__dict__.get("__avx_schema__")
        if schema is not None:
            return cast("str | None", schema.aggregate_field)
        if "aggregate_id" in base.__dict__:
            return None
    return None


def _each(key_of: Callable[[Any], object], messages: Sequence[Any]) -> list[Any]:
    return list(map(key_of, messages))


@lru_cache(maxsize=1024)
def _field_of_each(field: str) -> Callable[[Sequence[Any]], list[Any]]:
    if not field.isidentifier() or iskeyword(field):
        return partial(_each, attrgetter(field))
    # Written out as dataclasses write their methods: half of what attrgetter costs for each.
    written = eval(f"lambda messages: [message.{field} for message in messages]", {})  # noqa: S307 - a mere name
    return cast("Callable[[Sequence[Any]], list[Any]]", written)


def _key_of(message_class: type, aggregate_field: str | None) -> Callable[[Any], object] | None:
    if aggregate_field is not None:
        return cast("Callable[[Any], object]", attrgetter(aggregate_field))
    method = cast("Callable[[Any], object]", message_class.aggregate_id)  # type: ignore[attr-defined]
    return None if method is Message.aggregate_id else method


# Said again here: msgspec says it of Struct, without frozen_default, and mypy listens to a base class first.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, gc=False):
    """What events, requests, commands and queries share. Not used directly.

    Messages are immutable values. They are not tracked by the garbage collector, which makes deep queues five times
    cheaper; a message must therefore not hold a mutable container that leads back to the message itself.
    """

    event_type: ClassVar[str]

    def aggregate_id(self) -> str:
        """Return the id of the aggregate that this is about, empty where there is none."""
        return ""


class Event(Message, frozen=True, gc=False, metaclass=EventMeta):
    """A fact that happened: an immutable, typed struct. Derive your events from it.

    Class keywords:
        event_type: The name on the wire; made from the class name if not given: ``UserCreated`` is ``user.created``.
        formerly: The names that it had there before, as a tuple, the newest first. What was recorded or sent under one
            of them is read as an event of this class, in every respect as one of today: its metadata and its topic
            have the current type. Only this class has them: classes derived from it say their own.
        aggregate_id: The field whose value keys the event: what order is kept by. Inherited.
        revision: The revision of the data, from 1; raise it when fields change and add an ``upcast`` function. A new
            name is no new revision: those recorded under a former name count on.

    Raises:
        EventDefinitionError: When the class is made: a keyword or a field is not acceptable.
        DuplicateEventTypeError: When the class is made: another class has one of the names, or had it.
    """


class UnknownEvent(msgspec.Struct, frozen=True):
    """An event whose type no class of this process has; what ``unknown="keep"`` gives.

    Attributes:
        event_type: The type's name as it was stored or sent.
        data: The event's fields by name.
        revision: The revision of the data.
    """

    event_type: str
    data: Mapping[str, Any]
    revision: int = 1


class Request(Message, Generic[ResultT_co], frozen=True, gc=False, metaclass=EventMeta):
    """A question that one responder answers with a ``ResultT_co``; for ``RequestReplyBus.request``."""


class Command(Message, Generic[ResultT_co], frozen=True, gc=False, metaclass=EventMeta):
    """An order that exactly one handler carries out, returning a ``ResultT_co``; for ``CommandBus.dispatch``."""


class Query(Message, Generic[ResultT_co], frozen=True, gc=False, metaclass=EventMeta):
    """A question to a read model, answered by exactly one handler with a ``ResultT_co``; for ``QueryBus.ask``."""


ANSWERED_BY_ONE: Final[tuple[type, ...]] = (Request, Command, Query)
"""The messages that one handler answers. They are no events: they are not published, recorded or stored."""


def event(
    event_type: str, *, formerly: tuple[str, ...] = (), aggregate_id: str | None = None, revision: int = 1
) -> Callable[[ClassT], ClassT]:
    """Make a dataclass, an attrs class or a pydantic model an event.

    Args:
        event_type: The name on the wire, as ``"order.placed"``.
        formerly: The names that it had there before, the newest first; see ``Event``.
        aggregate_id: The field whose value keys the event, if it has a key.
        revision: The revision of the data, from 1.

    Raises:
        EventDefinitionError: It is not called before it decorates; or, when it does: the class has no such field, or is
            none of these kinds.
        DuplicateEventTypeError: When it decorates: another class has one of the names, or had it.
    """
    given: object = event_type
    if isinstance(given, type):
        raise EventDefinitionError(given.__qualname__, "needs its event type: write @event('its.type')")

    def decorate(message_class: ClassT) -> ClassT:
        name = message_class.__qualname__
        _check_fields(name, _fields_of(message_class), aggregate_id)
        _adorn(message_class, aggregate_id)
        method = cast("Callable[[Any], object]", message_class.aggregate_id)  # type: ignore[attr-defined]
        checked_type = _check_event_type(name, event_type)
        schema = EventSchema(
            message_class,
            checked_type,
            formerly=_check_formerly(name, checked_type, formerly),
            aggregate_field=aggregate_id,
            key_of=attrgetter(aggregate_id) if aggregate_id else None if method is Message.aggregate_id else method,
            revision=_check_revision(name, revision),
        )
        _register(schema)
        setattr(message_class, "event_type", event_type)  # noqa: B010 - the type checker does not know the attribute
        setattr(message_class, "__avx_schema__", schema)  # noqa: B010
        return message_class

    return decorate


def _adorn(message_class: type, aggregate_id: str | None) -> None:
    if aggregate_id is not None:
        setattr(message_class, "aggregate_id", _reader(aggregate_id))  # noqa: B010
    elif not callable(getattr(message_class, "aggregate_id", None)):
        setattr(message_class, "aggregate_id", Message.aggregate_id)  # noqa: B010


def _fields_of(message_class: type) -> tuple[str, ...]:
    for attribute in ("model_fields", "__dataclass_fields__", "__struct_fields__"):
        fields = getattr(message_class, attribute, None)
        if fields is not None:
            return tuple(fields)
    attrs_fields = getattr(message_class, "__attrs_attrs__", None)
    if attrs_fields is not None:
        return tuple(attribute.name for attribute in attrs_fields)
    problem = "@event decorates a dataclass, an attrs class, a pydantic model or a msgspec Struct, put above theirs"
    raise EventDefinitionError(message_class.__qualname__, problem)


def upcast(message_class: type, *, from_revision: int) -> Callable[[UpcasterT], UpcasterT]:
    """Decorate a function that turns data of ``from_revision`` (a dict) into data of the next revision.

    Raises:
        NotAnEventError: The class is no event.
        InvalidArgumentError: There is no such older revision, or it has an upcaster already.
    """
    schema = schema_of(message_class)

    def decorate(upcaster: UpcasterT) -> UpcasterT:
        schema.add_upcaster(from_revision, upcaster)
        return upcaster

    return decorate
