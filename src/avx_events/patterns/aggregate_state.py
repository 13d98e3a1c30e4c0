"""The state of an aggregate as bytes: whether it comes back as it is, and which changes of its class make it another.

What ``fingerprint_of`` sees: the fields with their types, nested ones too, the state of a new instance, and the code of
all methods of the class and its bases. What it cannot see is code that these call elsewhere; for that, the author
raises ``revision=`` on the class.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import CodeType, FunctionType
from typing import Any, Final, cast

import msgspec

# Raised when how snapshots are made changes.
_FORMAT: Final = 1

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
        ValueError: A value of the new instance cannot be encoded.
        NameError: An annotation does not resolve.
    """
    shape = (
        _FORMAT,
        revision,
        msgspec.json.schema(aggregate_class),
        [(field.name, repr(field.type)) for field in msgspec.structs.fields(aggregate_class)],
        _encode_in_one_order(initial),
        [_code(code) for code in _codes_of(aggregate_class)],
    )
    return hashlib.sha256(repr(shape).encode("utf-8", "backslashreplace")).hexdigest()


def _codes_of(aggregate_class: type) -> list[CodeType]:
    codes: list[CodeType] = []
    for base in aggregate_class.__mro__:
        if base.__module__ != "avx_events.patterns.aggregate":
            for value in base.__dict__.values():
                codes += [function.__code__ for function in _functions_in(value)]
    return codes


def _functions_in(value: object) -> list[FunctionType]:
    parts = (value, *(getattr(value, name, None) for name in ("fget", "fset", "__func__", "func", "__wrapped__")))
    return [part for part in parts if isinstance(part, FunctionType)]


def _code(code: CodeType) -> tuple[object, ...]:
    # Neither file names nor line numbers: code that was only moved is the same.
    return (code.co_name, code.co_code, code.co_names, code.co_varnames, [_constant(const) for const in code.co_consts])


def _constant(constant: object) -> object:
    if isinstance(constant, CodeType):
        return _code(constant)
    if isinstance(constant, frozenset):  # its order is another one in each process
        return sorted(repr(member) for member in cast("frozenset[object]", constant))
    return constant


def is_same(one: object, other: object) -> bool:
    """Return whether two states are equal in values and in types all the way down, and share nothing inside of ``one``.

    A list that two fields of ``one`` share would be two lists when it comes back. Values that are equal but look
    different are two: an instant in another time zone is another one once days are added to it.
    """
    return _is_same(one, other, seen=set())


def _is_same(one: Any, other: Any, *, seen: set[int]) -> bool:
    if type(one) is not type(other):
        return False
    parts = _parts(one)
    if parts is None:
        return repr(one) == repr(other) and _is_equal(one, other)
    if id(one) in seen:
        return False
    seen.add(id(one))
    others = _parts(other)
    return (
        others is not None
        and len(parts) == len(others)
        and all(_is_same(part, counterpart, seen=seen) for part, counterpart in zip(parts, others, strict=True))
    )


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
    if isinstance(value, list | tuple):
        return cast("Sequence[object]", value)
    fields = getattr(value, "__dataclass_fields__", None) or getattr(value, "__attrs_attrs__", None)
    if fields is None:
        return None
    names = [field if isinstance(field, str) else field.name for field in fields]
    return [getattr(value, name) for name in names]
