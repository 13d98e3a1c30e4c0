"""Events and values as text for a failing test: one line to name them, several to compare them."""

import difflib
import pprint
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

_WIDTH: Final = 100
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 120
_brief.maxdict = _brief.maxlist = _brief.maxtuple = 10


def one_line(value: object) -> str:
    """Return ``value`` on one line, long parts shortened."""
    fields = _fields_of(value)
    if fields is None:
        return _brief.repr(value)
    inside = ", ".join(f"{name}={_brief.repr(held)}" for name, held in fields)
    return f"{type(value).__name__}({inside})"


def difference(expected: Sequence[object], actual: Sequence[object]) -> str:
    """Return both, one field to a line: ``-`` before what was expected only, ``+`` before what is there instead."""
    left, right = list(_lines(expected)), list(_lines(actual))
    if left == right:
        return "\n".join(["  they print alike, and are not equal:", *(f"  {line}" for line in right)])
    return "\n".join(line for line in difflib.ndiff(left, right) if not line.startswith("?"))


def _lines(values: Iterable[object]) -> Iterable[str]:
    for value in values:
        fields = _fields_of(value)
        if not fields:
            yield from pprint.pformat(value, width=_WIDTH).splitlines()
            continue
        yield f"{type(value).__name__}("
        for name, held in fields:
            first, *rest = pprint.pformat(held, width=_WIDTH).splitlines()
            yield f"    {name}={first}" + ("" if rest else ",")
            indent = " " * (len(name) + 5)
            yield from [f"{indent}{line}" + ("," if line is rest[-1] else "") for line in rest]
        yield ")"


def _fields_of(value: object) -> list[tuple[str, object]] | None:
    """Return the fields of a struct, dataclass, attrs class or pydantic model; None for anything else."""
    if isinstance(value, type):
        return None
    for attribute in ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__", "model_fields"):
        fields: Iterable[Any] | None = getattr(type(value), attribute, None)
        if fields is not None:
            names = [field if isinstance(field, str) else field.name for field in fields]
            return [(name, getattr(value, name)) for name in names]
    return None
