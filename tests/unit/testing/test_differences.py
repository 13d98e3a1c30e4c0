"""Values as text for a failing test."""

from dataclasses import dataclass

import attrs
import pydantic
import pytest

from avx_events import Event
from avx_events.testing.differences import difference, one_line


class Shown(Event):
    key: str
    tags: tuple[str, ...] = ()


@dataclass
class ShownToo:
    key: str


@attrs.define
class ShownAsWell:
    key: str


class ShownModel(pydantic.BaseModel):
    key: str


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (Shown("a"), "Shown(key='a', tags=())"),
        (ShownToo("a"), "ShownToo(key='a')"),
        (ShownAsWell("a"), "ShownAsWell(key='a')"),
        (ShownModel(key="a"), "ShownModel(key='a')"),
        (3, "3"),
        (Shown, f"<class '{__name__}.Shown'>"),
    ],
)
def test_a_value_is_named_on_one_line(value: object, line: str) -> None:
    assert one_line(value) == line


def test_a_long_value_is_shortened() -> None:
    assert len(one_line(Shown("x" * 10_000, ("y" * 10_000,) * 1000))) < 2000


def test_a_difference_shows_the_fields_that_differ() -> None:
    text = difference([Shown("a", ("x",)), Shown("b")], [Shown("a", ("x",)), Shown("c")])

    assert text.splitlines() == [
        "  Shown(",
        "      key='a',",
        "      tags=('x',),",
        "  )",
        "  Shown(",
        "-     key='b',",
        "+     key='c',",
        "      tags=(),",
        "  )",
    ]


def test_a_long_value_takes_several_lines_so_that_its_own_difference_shows() -> None:
    words = ["word" * 10] * 4

    text = difference([Shown("a", (*words, "x"))], [Shown("a", (*words, "y"))])

    assert [line for line in text.splitlines() if line[0] in "-+"] == [
        "-           'x'),",
        "+           'y'),",
    ]


def test_values_that_print_alike_are_said_to_be_unequal() -> None:
    assert "print alike" in difference([float("nan")], [float("nan")])
