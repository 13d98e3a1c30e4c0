"""Values as text for a failing test."""

from dataclasses import dataclass

import attrs
import pydantic
import pytest

from avx_events import Event
from avx_events.core.metadata import stamp
from avx_events.testing import ManualClock
from avx_events.testing.differences import difference, differing_fields, one_line


class Shown(Event):
    key: str
    tags: tuple[str, ...] = ()


class Rated(Event):
    key: str
    stars: int


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
    assert differing_fields([float("nan")], [float("nan")]).splitlines() == [
        "  they print alike, and are not equal:",
        "  nan",
    ]


def test_an_event_is_compared_with_the_one_of_its_class_also_where_others_are_missing() -> None:
    text = difference([Shown("a"), Rated("a", 3)], [Rated("a", 4)])

    assert text.splitlines() == [
        "- Shown(",
        "-     key='a',",
        "-     tags=(),",
        "- )",
        "  Rated(",
        "      key='a',",
        "-     stars=3,",
        "+     stars=4,",
        "  )",
    ]


def test_an_event_too_many_does_not_make_the_others_differ() -> None:
    text = differing_fields([Shown("a"), Shown("b")], [Rated("a", 1), Shown("a"), Shown("b")])

    assert text.splitlines() == ["+ Rated(", "+     key='a',", "+     stars=1,", "+ )"]


def test_the_event_and_the_metadata_of_an_envelope_are_compared_by_their_fields() -> None:
    envelope = stamp(Rated("a", 3), clock=ManualClock())
    other = stamp(Rated("a", 4), clock=ManualClock(), headers={"trace": "x"})

    lines = differing_fields([envelope], [other]).splitlines()

    assert lines == [
        "  EventEnvelope(",
        "      event=Rated(",
        "-         stars=3,",
        "+         stars=4,",
        "      metadata=EventMetadata(",
        f"-         event_id={envelope.metadata.event_id!r},",
        f"+         event_id={other.metadata.event_id!r},",
        f"-         correlation_id={envelope.metadata.correlation_id!r},",
        f"+         correlation_id={other.metadata.correlation_id!r},",
        "-         headers={},",
        "+         headers={'trace': 'x'},",
    ]


def test_where_a_field_takes_more_lines_than_before_they_are_shown_one_after_the_other() -> None:
    text = differing_fields([Shown("a", ("x",))], [Shown("a", ("word" * 10,) * 3)])

    assert [line[0] for line in text.splitlines()] == [" ", "-", "+", "+", "+"]


@pytest.mark.timeout(10)
def test_a_thousand_events_that_all_differ_are_compared_in_no_time() -> None:
    expected = [Rated(f"key-{number}", number) for number in range(1000)]

    lines = differing_fields(expected, [Rated(event.key, event.stars + 1) for event in expected]).splitlines()

    assert len(lines) == 3000
