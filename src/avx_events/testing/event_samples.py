"""Sample events of a class, made from the types of its fields: the same ones each time, on every machine.

The first one has a usual value in each field. Each of the others has another value in one of them, so that each value
that a type allows, and that a narrower one may not, is in one of them: None, the empty text, a negative number, every
member of an enum.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile, zip_longest
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

from avx_events.core.codec import decode_data, encode_data
from avx_events.core.errors import DecodeError, EncodeError
from avx_events.core.event import schema_of
from avx_events.testing.event_shapes import fields_in

_TEXTS: Final = (
    "text",
    "",
    "a",
    "A",
    "abc",
    "ABC",
    "abc-123",
    "1",
    "123",
    "a@example.com",
    "https://example.com/a",
    "+15550100",
    "2026-01-02",
    "2026-01-02T03:04:05Z",
    "00000000-0000-4000-8000-000000000001",
)
_INTEGERS: Final = (1, 0, -1, 2**40)
_NUMBERS: Final = (1.5, 0.0, -1.5, 1e12)
_BYTES: Final = (b"\x01\x02", b"")
_INSTANTS: Final[Mapping[bool, str]] = {True: "2026-01-02T03:04:05.000006Z", False: "2026-01-02T03:04:05.000006"}
_TIMES: Final[Mapping[bool, str]] = {True: "03:04:05.000006Z", False: "03:04:05.000006"}
_MOST_IN_CONTAINER: Final = 64

Values = list[Any]
"""What a field may hold, in what JSON has; a usual value first."""


class NoSampleError(Exception):
    """No value can be made up; the text says of what. Does not leave this package."""


class Sample(msgspec.Struct, frozen=True):
    """An event's data.

    Attributes:
        data: As the event's class writes it, in what JSON has.
        field: The field whose value is another one than in the first sample; None for that, and for examples.
    """

    data: Any
    field: str | None = None


def samples_of(event_class: type, examples: Sequence[object] = ()) -> list[Sample]:
    """Return samples of ``event_class``: the examples, and what is made from its types beside the first of them.

    Values that the class refuses are left out.

    Args:
        event_class: The class.
        examples: Events of this very class. Without any, a usual value is made up for each field.

    Raises:
        NoSampleError: There is no example, and none can be made up.
        EncodeError: An example cannot be stored.
    """
    given = [Sample(data_of(example)) for example in examples]
    values = _values_by_field(event_class, is_needed=not given)
    if not given:
        given = [Sample(_accepted(event_class, {name: held[0] for name, held in values.items()}))]
    base = given[0].data
    if not isinstance(base, dict):
        return given
    varied = _varied(event_class, cast("dict[str, Any]", base), values)
    return [*_without_repeats([*given, *varied])]


def data_of(event: object) -> Any:
    """Return the data of an event as its class writes it, in what JSON has; sets in an order that is always the same.

    Raises:
        EncodeError: It cannot be stored.
    """
    data = encode_data(event)
    return msgspec.json.decode(data) if hasattr(event, "model_dump_json") else in_json(event)


def in_json(value: object) -> Any:
    """Return ``value`` in what JSON has, sets and dicts in an order that is always the same."""
    ordered = msgspec.to_builtins(value, str_keys=True, order="deterministic", enc_hook=_written_already)
    return msgspec.json.decode(msgspec.json.encode(ordered))  # tuples are lists there


def _written_already(value: object) -> Any:
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise TypeError(type(value).__name__)


def _varied(event_class: type, base: dict[str, Any], values: Mapping[str, Values]) -> Iterator[Sample]:
    for name, held in values.items():
        for value in held:
            try:
                yield Sample(_accepted(event_class, {**base, name: value}), name)
            except NoSampleError:  # a check of the class's own
                continue


def _without_repeats(samples: Iterable[Sample]) -> Iterator[Sample]:
    seen: set[bytes] = set()
    for sample in samples:
        text = msgspec.json.encode(sample.data)
        if text not in seen:
            seen.add(text)
            yield sample


def _accepted(event_class: type, data: dict[str, Any]) -> Any:
    """Return ``data`` as the class writes it."""
    schema = schema_of(event_class)
    settings: Any = getattr(event_class, "__struct_config__", None)
    written: Any = [*data.values()] if settings is not None and settings.array_like else data
    if settings is not None and settings.tag is not None and not settings.array_like:
        written = {settings.tag_field: settings.tag, **data}
    try:
        return data_of(decode_data(schema.event_type, msgspec.json.encode(written), revision=schema.revision))
    except (DecodeError, EncodeError) as exc:
        raise NoSampleError(exc.problem) from exc


def _values_by_field(event_class: type, *, is_needed: bool) -> dict[str, Values]:
    if hasattr(event_class, "model_fields"):
        if is_needed:
            problem = "msgspec does not look into pydantic's models"
            raise NoSampleError(problem)
        return {}
    values: dict[str, Values] = {}
    for field in fields_in(inspect.type_info(event_class)):
        try:
            values[field.encode_name] = _values(field.type, (event_class,))
        except NoSampleError as exc:
            if is_needed and field.required:
                problem = f"field {field.encode_name!r}: {exc}"
                raise NoSampleError(problem) from exc
    return values


def _values(node: inspect.Type, around: tuple[type, ...]) -> Values:
    """Return values of a type; ``around`` are the classes that it is a field in."""
    simple = _SIMPLE.get(type(node))
    if simple is not None:
        return simple(node)
    compound = _COMPOUND.get(type(node))
    if compound is not None:
        return compound(node, around)
    raise _none_for(getattr(node, "cls", type(node)).__name__)


def _none_for(what: str) -> NoSampleError:
    return NoSampleError(f"no value can be made up for {what}")


def _some(values: Iterable[Any], what: str) -> Values:
    listed = [*values]
    if not listed:
        raise _none_for(what)
    return listed


# Values without others inside


def _numbers(usual: Sequence[float], node: Any) -> Values:
    step = node.multiple_of or (1 if isinstance(node, inspect.IntType) else 0.5)
    edges = [
        value
        for bound, to_inside in ((node.ge, 0), (node.gt, step), (node.le, 0), (node.lt, -step))
        if bound is not None
        for value in (bound + to_inside, bound + to_inside + (bound + to_inside) % step)
    ]
    return _some((value for value in [*usual, *edges] if _is_within(value, node)), "a number between its bounds")


def _is_within(value: float, node: Any) -> bool:
    return (
        (node.ge is None or value >= node.ge)
        and (node.gt is None or value > node.gt)
        and (node.le is None or value <= node.le)
        and (node.lt is None or value < node.lt)
        and (node.multiple_of is None or value % node.multiple_of == 0)
    )


def _texts(node: Any) -> Values:
    least, most = node.min_length or 0, node.max_length
    usual = [*_TEXTS, "x" * least]
    fitting = [text for text in usual if len(text) >= least and (most is None or len(text) <= most)]
    if node.pattern is not None:
        fitting = [text for text in fitting if re.search(node.pattern, text)]
        return _some(fitting[:2], f"text that matches {node.pattern!r}")
    return [fitting[0], ""] if least == 0 else fitting[:1]


def _bytes(node: Any) -> Values:
    least, most = node.min_length or 0, node.max_length
    usual = [*_BYTES, b"\x01" * least]
    return [base64.b64encode(held).decode() for held in usual if least <= len(held) <= (most or len(held))]


def _moments(texts: Mapping[bool, str], node: Any) -> Values:
    return [texts[True], texts[False]] if node.tz is None else [texts[node.tz]]


_SIMPLE: Final[Mapping[type, Callable[[Any], Values]]] = {
    inspect.AnyType: lambda _: ["text", 7, None, {"key": [True]}],
    inspect.RawType: lambda _: ["text", 7, None, {"key": [True]}],
    inspect.NoneType: lambda _: [None],
    inspect.BoolType: lambda _: [True, False],
    inspect.IntType: lambda node: _numbers(_INTEGERS, node),
    inspect.FloatType: lambda node: _numbers(_NUMBERS, node),
    inspect.StrType: _texts,
    inspect.BytesType: _bytes,
    inspect.ByteArrayType: _bytes,
    inspect.MemoryViewType: _bytes,
    inspect.DateTimeType: lambda node: _moments(_INSTANTS, node),
    inspect.TimeType: lambda node: _moments(_TIMES, node),
    inspect.DateType: lambda _: ["2026-01-02"],
    inspect.TimeDeltaType: lambda _: ["P1DT2H", "-PT0.000001S"],
    inspect.UUIDType: lambda _: ["00000000-0000-4000-8000-000000000001"],
    inspect.DecimalType: lambda _: ["1.10", "0", "-1"],
    inspect.EnumType: lambda node: [msgspec.to_builtins(member) for member in node.cls],
    inspect.LiteralType: lambda node: [*node.values],
}


# Values with others inside


_NOTHING: Final = object()


def _one_of(node: Any, around: tuple[type, ...]) -> Values:
    members = sorted(node.types, key=lambda member: isinstance(member, inspect.NoneType))
    found = [values for member in members if (values := _values_or_none(member, around))]
    # One of each member before the second of any.
    rows = zip_longest(*found, fillvalue=_NOTHING)
    return _some((value for row in rows for value in row if value is not _NOTHING), "any type of a union")


def _values_or_none(node: inspect.Type, around: tuple[type, ...]) -> Values:
    try:
        return _values(node, around)
    except NoSampleError:
        return []


def _several(node: Any, around: tuple[type, ...]) -> Values:
    least = node.min_length or 0
    inside = _values_or_none(node.item_type, around)
    is_set = isinstance(node, inspect.SetType | inspect.FrozenSetType)
    filling = inside[:least] if is_set else [*inside[:1] * least]
    if len(filling) < least or least > _MOST_IN_CONTAINER:
        raise _none_for(f"{least} items")
    if least:
        return [filling]
    return _with_empty([[value] for value in inside], [])


def _in_order(node: Any, around: tuple[type, ...]) -> Values:
    return _each_varied([_values(item, around) for item in node.item_types])


def _by_key(node: Any, around: tuple[type, ...]) -> Values:
    least = node.min_length or 0
    keys, values = _values_or_none(node.key_type, around), _values_or_none(node.value_type, around)
    if least > min(len(keys), _MOST_IN_CONTAINER) or (least and not values):
        raise _none_for(f"{least} items")
    if least:
        return [{_key(key): values[0] for key in keys[:least]}]
    return _with_empty([{_key(key): value} for key in keys[:1] for value in values], {})


def _with_empty(filled: Values, empty: Any) -> Values:
    return [*filled[:1], empty, *filled[1:]]


def _key(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _object(node: Any, around: tuple[type, ...]) -> Values:
    if node.cls in around:
        raise _none_for(f"a {node.cls.__name__} inside of another")
    inside = (*around, node.cls)
    found = [(field, _values_or_none(field.type, inside)) for field in fields_in(node)]
    missing = next((field for field, values in found if field.required and not values), None)
    if missing is not None:
        raise _none_for(f"{missing.encode_name!r} of {node.cls.__name__}")
    tag: object = getattr(node, "tag", None)
    if isinstance(node, inspect.NamedTupleType) or getattr(node, "array_like", False):
        first = [] if tag is None else [tag]
        return [[*first, *row] for row in _each_varied([*takewhile(bool, (values for _, values in found))])]
    names = [field.encode_name for field, values in found if values]
    tagged = {} if tag is None else {node.tag_field: tag}
    rows = _each_varied([values for _, values in found if values])
    return [{**tagged, **dict(zip(names, row, strict=True))} for row in rows]


def _each_varied(held: Sequence[Values]) -> Values:
    """Return rows: the first value of each, then one row for each other value, beside the first of the rest."""
    usual = [values[0] for values in held]
    others = [[*usual[:at], value, *usual[at + 1 :]] for at, values in enumerate(held) for value in values[1:]]
    return [usual, *others]


_COMPOUND: Final[Mapping[type, Callable[[Any, tuple[type, ...]], Values]]] = {
    inspect.Metadata: lambda node, around: _values(node.type, around),
    inspect.UnionType: _one_of,
    inspect.ListType: _several,
    inspect.SetType: _several,
    inspect.FrozenSetType: _several,
    inspect.VarTupleType: _several,
    inspect.TupleType: _in_order,
    inspect.DictType: _by_key,
    inspect.StructType: _object,
    inspect.DataclassType: _object,
    inspect.TypedDictType: _object,
    inspect.NamedTupleType: _object,
}
