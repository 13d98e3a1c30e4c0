"""The state of an aggregate as bytes: whether it comes back as it is, and which changes of its class make it another.

What ``fingerprint_of`` sees: the fields with their types, nested ones too, the state of a new instance, the constants
of the class and its bases, and all their methods: code, defaults, and what they wrap, close over or dispatch to. What
it cannot see is what these use elsewhere; for that, the author raises ``revision=`` on the class.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import CodeType, FunctionType
from typing import Any, Final, cast

import msgspec

# Raised when how snapshots are made changes.
_FORMAT: Final = 2

_METHODS: Final = (FunctionType, property, classmethod, staticmethod)
# Where properties, class methods, partial functions, dispatchers and decorators keep what is theirs.
_WRAPPED: Final = ("fget", "fset", "fdel", "__func__", "func", "args", "keywords", "dispatcher", "__wrapped__")
_FIXED: Final = (str, bytes, int, float, complex, tuple, frozenset, type, FunctionType)
_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")

# A dict comes back in the order in which it was filled.
encode_state: Final = msgspec.msgpack.Encoder().encode
_encode_in_one_order: Final = msgspec.msgpack.Encoder(order="deterministic").encode


def fingerprint_of(aggregate_class: type, *, initial: object, revision: int) -> str:
    """Return text that differs where ``aggregate_class`` differs in what makes its state.

    Args:
        aggregate_class: A class of msgspec structs whose annotations resolve by now.
        initial: A new instance of it.
        revision: What its author says.

    Raises:
        TypeError: A field has a type that msgspec cannot describe or encode.
        ValueError: A value of the new instance cannot be encoded, or a method closes over what is not there.
        NameError: An annotation does not resolve.
        RecursionError: A constant of the class has no end.
    """
    shape = (
        _FORMAT,
        revision,
        msgspec.json.schema(aggregate_class),
        [(field.name, repr(field.type)) for field in msgspec.structs.fields(aggregate_class)],
        _encode_in_one_order(initial),
        _members_of(aggregate_class),
    )
    return hashlib.sha256(repr(shape).encode("utf-8", "backslashreplace")).hexdigest()


def _members_of(aggregate_class: type) -> list[object]:
    return [
        (name, _described(value, ()))
        for base in aggregate_class.__mro__
        if base.__module__ != "avx_events.patterns.aggregate"
        for name, value in base.__dict__.items()
        if not name.startswith("__") or isinstance(value, _METHODS)
    ]


def _described(value: Any, around: tuple[int, ...]) -> object:
    """Return what stands for ``value`` in each process alike; ``around`` are the ids of what it is inside of."""
    if id(value) in around:
        return "itself"
    inside = (*around, id(value))
    if isinstance(value, CodeType):
        return _code(value, inside)
    if isinstance(value, FunctionType):
        return _function(value, inside)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    parts = _parts(value)
    if parts is not None:
        return type(value).__qualname__, [_described(part, inside) for part in parts]
    wrapped = [getattr(value, name, None) for name in _WRAPPED]
    return _ADDRESS.sub("", repr(value)), [_described(part, inside) for part in wrapped if part is not None]


def _function(function: Any, inside: tuple[int, ...]) -> object:
    registry = getattr(function, "registry", None)  # of a singledispatch: all that is its author's
    if registry is not None:
        return _described(registry, inside)
    # What else is around a function, as a cache, may change while it runs.
    around: list[Any] = [cell.cell_contents for cell in function.__closure__ or ()]
    fixed: list[Any] = [value for value in around if isinstance(value, _FIXED)]
    wrapped = getattr(function, "__wrapped__", None)
    parts: tuple[Any, ...] = (function.__code__, function.__defaults__, function.__kwdefaults__, fixed, wrapped)
    return [_described(part, inside) for part in parts]


def _code(code: CodeType, inside: tuple[int, ...]) -> tuple[object, ...]:
    # Neither file names nor line numbers: code that was only moved is the same.
    constants = [_described(constant, inside) for constant in code.co_consts]
    return (code.co_name, code.co_code, code.co_names, code.co_varnames, constants)


def is_same(one: object, other: object) -> bool:
    """Return whether two states are equal in values and in types all the way down, and share nothing inside of ``one``.

    A list that two fields of ``one`` share would be two lists when it comes back; of what cannot change, one is as good
    as two. Values that are equal but look
    different are two: an instant in another time zone is another one once days are added to it.
    """
    return _is_same(one, other, seen=set())


def _is_same(one: Any, other: Any, *, seen: set[int]) -> bool:
    if type(one) is not type(other):
        return False
    parts = _parts(one)
    if parts is None:
        return repr(one) == repr(other) and _is_equal(one, other)
    if not _is_frozen(one):
        if id(one) in seen:
            return False
        seen.add(id(one))
    others = _parts(other)
    return (
        others is not None
        and len(parts) == len(others)
        and all(_is_same(part, counterpart, seen=seen) for part, counterpart in zip(parts, others, strict=True))
    )


def _is_frozen(container: Any) -> bool:
    settings = getattr(container, "__struct_config__", None) or getattr(container, "__dataclass_params__", None)
    return isinstance(container, tuple | frozenset) or (settings is not None and settings.frozen)


def _is_equal(one: Any, other: Any) -> bool:
    return bool(one == other) or bool(one != one and other != other)  # noqa: PLR0124 - NaN comes back as NaN


def _parts(value: Any) -> Sequence[Any] | None:
    """Return what is inside of a container, in an order of its own, or None for what is no container."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.astuple(value)
    if isinstance(value, Mapping):
        return [part for pair in cast("Mapping[object, object]", value).items() for part in pair]
    if isinstance(value, AbstractSet):
        return sorted(cast("AbstractSet[object]", value), key=repr)
    if isinstance(value, list | tuple | bytearray):
        return cast("Sequence[object]", value)
    fields = getattr(value, "__dataclass_fields__", None) or getattr(value, "__attrs_attrs__", None)
    if fields is None:
        return None
    names = [field if isinstance(field, str) else field.name for field in fields]
    return [getattr(value, name) for name in names]
