"""The fields of event classes as text: what a person reads in a file, and by which two shapes of a class differ."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

_SIMPLE: Final[Mapping[type, str]] = {
    inspect.AnyType: "Any",
    inspect.RawType: "Any",
    inspect.NoneType: "None",
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.BytesType: "bytes",
    inspect.ByteArrayType: "bytes",
    inspect.MemoryViewType: "bytes",
    inspect.DateTimeType: "datetime",
    inspect.TimeType: "time",
    inspect.DateType: "date",
    inspect.TimeDeltaType: "timedelta",
    inspect.UUIDType: "UUID",
    inspect.DecimalType: "Decimal",
}
_CONTAINERS: Final[Mapping[type, str]] = {
    inspect.ListType: "list[{}]",
    inspect.SetType: "set[{}]",
    inspect.FrozenSetType: "frozenset[{}]",
    inspect.VarTupleType: "tuple[{}, ...]",
}
_BOUNDS: Final = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")
_WITH_DEFAULT: Final = " = "
_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


def fields_of(event_class: type) -> dict[str, str]:
    """Return what ``event_class`` reads, by the names on the wire: each field's type, with its default if it has one.

    A type that has fields of its own is written with them, so that a change deep inside is a change here, too.
    """
    models: Mapping[str, Any] | None = getattr(event_class, "model_fields", None)
    if models is not None:  # pydantic's: msgspec does not look into them
        return {field.alias or name: _model_field(field) for name, field in models.items()}
    return {field.encode_name: _field(field, ()) for field in fields_in(inspect.type_info(event_class))}


def fields_in(node: inspect.Type) -> tuple[inspect.Field, ...]:
    """Return the fields of a class that msgspec looks into."""
    found: tuple[inspect.Field, ...] = getattr(node, "fields", ())
    return found


class Changes(msgspec.Struct, frozen=True):
    """What differs between the fields of a class that were recorded and those of today, by name and type.

    Attributes:
        removed: Those that are not there any more.
        added: Those that are new.
        retyped: Those of another type, or another default: what they were, and what they are.
    """

    removed: dict[str, str]
    added: dict[str, str]
    retyped: dict[str, tuple[str, str]]

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self.removed or self.added or self.retyped)

    @property
    def names(self) -> frozenset[str]:
        """The fields that are new or of another type today."""
        return frozenset({*self.added, *self.retyped})

    @property
    def demanded(self) -> list[str]:
        """The new fields that have no default."""
        return [name for name, text in self.added.items() if _WITH_DEFAULT not in text]

    @property
    def renamed(self) -> tuple[str, str] | None:
        """The old and the new name of the one field that seems to have got another name; None where none does."""
        if len(self.removed) != 1 or len(self.added) != 1:
            return None
        (old, old_type), (new, new_type) = [*self.removed.items(), *self.added.items()]
        return (old, new) if _without_default(old_type) == _without_default(new_type) else None

    def lines(self) -> list[str]:
        """Return a sentence for each."""
        return [
            *(f"field {name!r} ({text}) was removed" for name, text in self.removed.items()),
            *(f"field {name!r} ({text}) is new" for name, text in self.added.items()),
            *(f"field {name!r} was {was}, is {now}" for name, (was, now) in self.retyped.items()),
        ]


def changes_between(recorded: Mapping[str, str], today: Mapping[str, str]) -> Changes:
    """Return what differs."""
    return Changes(
        {name: text for name, text in recorded.items() if name not in today},
        {name: text for name, text in today.items() if name not in recorded},
        {name: (was, today[name]) for name, was in recorded.items() if today.get(name, was) != was},
    )


def _without_default(text: str) -> str:
    return text.partition(_WITH_DEFAULT)[0]


def _field(field: inspect.Field, around: tuple[type, ...]) -> str:
    text = _text(field.type, around)
    if field.default is not msgspec.NODEFAULT:
        return f"{text}{_WITH_DEFAULT}{_value(field.default)}"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"{text}{_WITH_DEFAULT}{getattr(field.default_factory, '__name__', 'made')}()"
    return text if field.required else f"{text}{_WITH_DEFAULT}..."


def _text(node: inspect.Type, around: tuple[type, ...]) -> str:
    if isinstance(node, inspect.Metadata):
        return _text(node.type, around)
    if isinstance(node, inspect.UnionType):
        return " | ".join(sorted((_text(member, around) for member in node.types), key=lambda text: text == "None"))
    if isinstance(node, inspect.EnumType):
        return f"{node.cls.__name__}({_listed(member.value for member in node.cls)})"
    if isinstance(node, inspect.LiteralType):
        return f"Literal[{_listed(node.values)}]"
    return f"{_plain(node, around)}{_bounds(node)}"


def _plain(node: Any, around: tuple[type, ...]) -> str:
    simple, container = _SIMPLE.get(node.__class__), _CONTAINERS.get(node.__class__)
    if simple is not None:
        return simple
    if container is not None:
        return container.format(_text(node.item_type, around))
    if isinstance(node, inspect.TupleType):
        return f"tuple[{', '.join(_text(item, around) for item in node.item_types)}]"
    if isinstance(node, inspect.DictType):
        return f"dict[{_text(node.key_type, around)}, {_text(node.value_type, around)}]"
    held: type = getattr(node, "cls", object)
    if not fields_in(node) or held in around:
        return held.__name__
    inside = ", ".join(f"{field.encode_name}: {_field(field, (*around, held))}" for field in fields_in(node))
    return f"{held.__name__}({inside})"


def _bounds(node: inspect.Type) -> str:
    bounds = [(name, getattr(node, name, None)) for name in _BOUNDS]
    text = ", ".join(f"{name}={value!r}" for name, value in bounds if value is not None)
    return f"({text})" if text else ""


def _value(value: object) -> str:
    if isinstance(value, set | frozenset):
        name = "set" if isinstance(value, set) else "frozenset"
        return f"{name}({', '.join(sorted(map(repr, cast('Iterable[object]', value))))})"
    return _ADDRESS.sub("", repr(value))


def _listed(values: Iterable[object]) -> str:
    return ", ".join(repr(value) for value in values)


def _model_field(field: Any) -> str:
    annotation = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    metadata = f"({_listed(field.metadata)})" if field.metadata else ""
    if field.is_required():
        return f"{text}{metadata}"
    default = (
        f"{getattr(field.default_factory, '__name__', 'made')}()" if field.default_factory else _value(field.default)
    )
    return f"{text}{metadata}{_WITH_DEFAULT}{default}"
