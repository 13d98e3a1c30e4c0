"""Events and values as text for a failing test: one line to name them, several to compare them."""

import difflib
import pprint
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)
Text = tuple[str, ...]
"""The lines of one value."""

_WIDTH: Final = 100
_INDENT: Final = "    "
_ALIKE: Final = "  they print alike, and are not equal:"
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
    return "\n".join(_compared(expected, actual))


def differing_fields(expected: Sequence[object], actual: Sequence[object]) -> str:
    """Return the same without what is equal, but for the names of the classes that the fields are of."""
    lines = list(_what_differs(_compared(expected, actual)))
    return "\n".join(lines or [_ALIKE, *(f"  {one_line(value)}" for value in actual)])


def _what_differs(lines: Iterable[str]) -> Iterator[str]:
    """Give the lines that differ, each after the names of the classes that it is in."""
    names: list[str] = []
    for line in lines:
        if line[0] in "-+":
            yield from [*names, line]
            names.clear()
        elif line.endswith("("):
            names.append(line)
        elif names and line.strip() in {")", "),"}:
            names.pop()


def _compared(expected: Sequence[object], actual: Sequence[object]) -> list[str]:
    left, right = [_text_of(value) for value in expected], [_text_of(value) for value in actual]
    if left == right:
        return [_ALIKE, *_marked("  ", right)]
    return list(_compared_texts(left, right))


# Whole values first, then values of one class, then their lines: a line is never compared with that of a value which
# has nothing to do with it, and a thousand events take no longer than they should.


def _compared_texts(expected: Sequence[Text], actual: Sequence[Text]) -> Iterator[str]:
    for left, right in _aligned(expected, actual):
        if left == right:
            yield from _marked("  ", right)
        else:
            yield from _compared_alike(left, right)


def _compared_alike(expected: Sequence[Text], actual: Sequence[Text]) -> Iterator[str]:
    heads = [text[0] for text in expected], [text[0] for text in actual]
    rest = [iter(expected), iter(actual)]
    for left, right in _aligned(*heads):
        olds, news = [next(rest[0]) for _ in left], [next(rest[1]) for _ in right]
        if left == right:
            for old, new in zip(olds, news, strict=True):
                yield from _compared_lines(old, new)
        else:
            yield from _marked("- ", olds)
            yield from _marked("+ ", news)


def _compared_lines(expected: Text, actual: Text) -> Iterator[str]:
    for left, right in _aligned(expected, actual):
        if left == right:
            yield from _marked("  ", [tuple(right)])
        elif len(left) == len(right):
            for old, new in zip(left, right, strict=True):
                yield from (f"- {old}", f"+ {new}")
        else:
            yield from _marked("- ", [tuple(left)])
            yield from _marked("+ ", [tuple(right)])


def _aligned(left: Sequence[ItemT], right: Sequence[ItemT]) -> Iterator[tuple[Sequence[ItemT], Sequence[ItemT]]]:
    """Give the runs of both that are equal, and those between them that are not."""
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for _, left_from, left_to, right_from, right_to in matcher.get_opcodes():
        yield left[left_from:left_to], right[right_from:right_to]


def _marked(mark: str, texts: Iterable[Text]) -> list[str]:
    return [f"{mark}{line}" for text in texts for line in text]


def _text_of(value: object) -> Text:
    fields = _fields_of(value)
    return _block(value, fields) if fields else tuple(pprint.pformat(value, width=_WIDTH).splitlines())


def _block(value: object, fields: list[tuple[str, object]]) -> Text:
    lines = [f"{type(value).__name__}("]
    for name, held in fields:
        first, *more = _field_text(name, held)
        lines += [f"{_INDENT}{line}" for line in (f"{name}={first}", *more)]
        lines[-1] += ","
    return (*lines, ")")


def _field_text(name: str, held: object) -> Text:
    fields = _fields_of(held)
    if fields:
        return _block(held, fields)
    first, *more = pprint.pformat(held, width=_WIDTH).splitlines()
    return (first, *[f"{' ' * (len(name) + 1)}{line}" for line in more])


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
