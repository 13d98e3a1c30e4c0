"""What the data codec carries, and what it refuses and why; the round trip law is in tests/property/test_codec.py."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from avx_events.core.codec import decode_data, encode_data
from avx_events.core.errors import DecodeError, EncodeError, NotAnEventError, PermanentError, UnknownEventTypeError
from avx_events.core.event import Event, UnknownEvent, event

ItemT = TypeVar("ItemT")


class Level(IntEnum):
    """An integer with a name."""

    LOW = 1


class Page(msgspec.Struct, Generic[ItemT], frozen=True):
    """A generic struct inside an event."""

    items: list[ItemT]


class Holding(Event, event_type="codec.holding"):
    """Holds anything."""

    value: Any


class Measured(Event, event_type="codec.measured"):
    """Holds numbers of the usual types."""

    share: float = 0.0
    maybe: float | None = None
    number: int = 0
    text: str = ""


class Paged(Event, event_type="codec.paged"):
    """Holds a parametrised generic."""

    page: Page[int]


@event("codec.dataclass")
@dataclass
class ADataclass:
    """A dataclass as an event."""

    at: datetime
    tags: list[str] = field(default_factory=list[str])


@event("codec.attrs")
@attrs.define
class AnAttrsClass:
    """An attrs class as an event."""

    price: Decimal
    level: Level = Level.LOW


@event("codec.model")
class AModel(pydantic.BaseModel):
    """A pydantic model as an event."""

    id: UUID
    price: Decimal = Decimal("1.10")
    share: float = 0.0
    anything: Any = None


@event("codec.model.nan")
class AModelThatWritesNaN(pydantic.BaseModel):
    """A pydantic model told to write NaN as it is, which is no JSON."""

    model_config = pydantic.ConfigDict(ser_json_inf_nan="constants")
    share: float


class Worded(Event, event_type="codec.worded"):
    """Fields that no number reads back into."""

    text: str = ""
    is_so: bool = False


class Weighed(Event, event_type="codec.weighed"):
    """Text and numbers, and nothing that may be null."""

    what: str = ""
    count: int = 0
    weight: float = 0.0


class Numbered(Event, event_type="codec.numbered"):
    """One number alone."""

    number: int


CARRIED: list[Any] = [
    Weighed("null 99999999999999999999999", 2**64 - 1, 1e300),
    Weighed(count=-(2**63), weight=-(2**63)),
    Numbered(2**64 - 1),
    Worded("null 99999999999999999999999", is_so=True),
    ADataclass(datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=UTC), ["a"]),
    AnAttrsClass(Decimal("0.10")),
    AModel(id=UUID(int=7), anything={"a": [None, 1]}),
    Paged(Page([1, 2])),
    Holding({"a": [1, 2.5, None, True, {"b": "c"}]}),
    Holding("9" * 400),
    Holding(2**64 - 1),
    Holding(-(2**63)),
    Measured(number=2**63, text="\x00\x1f\x7f\u2028\U0001f600 null NaN"),
    Measured(maybe=None),
]


def without_addresses(value: object) -> str:
    """Name a value the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("message", CARRIED, ids=repr)
def test_messages_of_every_kind_read_back_as_they_were(message: Any) -> None:
    data = encode_data(message)

    assert decode_data(message.event_type, data) == message
    assert json.loads(data) is not None


def model_of(**fields: Any) -> AModel:
    return AModel(id=UUID(int=7)).model_copy(update=fields)


INF, NAN = float("inf"), float("nan")
NO_WORDS: list[Any] = [NAN, INF, None, 1, 2**64]
REFUSED: list[tuple[Any, str]] = [
    (Measured(share=NAN), "share is nan"),
    (Measured(maybe=NAN), "maybe is nan"),
    (Measured(maybe=-INF), "maybe is -inf"),
    (Holding(NAN), "value is nan"),
    (Holding({"a": [{"b": (1, INF)}]}), r"value\.a\[\]\.b\[\] is inf"),
    (Holding({NAN}), r"value\[\] is nan"),  # alone: the order of a set with nan is chance, and names the test
    (Holding(Page([NAN])), r"value\.items\[\] is nan"),
    (Holding([msgspec.Raw(b"null"), NAN]), r"value\[\] is nan"),
    (Holding([msgspec.Raw(b"NaN")]), "malformed"),
    (Holding([msgspec.Raw(b'{"a"')]), "malformed|truncated"),
    *[(Worded(text=number), "Expected `str`") for number in NO_WORDS],
    *[(Worded(is_so=number), "Expected `bool`") for number in NO_WORDS],
    (Weighed(weight=NAN), "weight is nan"),
    (Weighed(weight=INF), "weight is inf"),
    (Weighed(weight=10**30), "weight is an integer past 64 bits"),
    (Weighed(count=2**64), "count is an integer past 64 bits"),
    (Weighed(count=-(2**63) - 1), "count is an integer past 64 bits"),
    (Weighed(count=1.5), "Expected `int`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (Weighed(count="1"), "Expected `int`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (Weighed(what=2**64), "what is an integer past 64 bits"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (Numbered(2**64), "number is an integer past 64 bits"),
    (Numbered(NAN), "number is nan"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (model_of(share=NAN), "share"),
    (model_of(anything=[NAN]), r"anything\[\] is nan"),
    (AModelThatWritesNaN(share=NAN), "malformed"),
    (AModelThatWritesNaN(share=-INF), "malformed"),
    (Measured(number=2**64), "number is an integer past 64 bits"),
    (Measured(number=-(2**63) - 1), "past 64 bits"),
    (Holding([{"a": 10**30}]), r"value\[\]\.a is an integer past 64 bits"),
    (model_of(anything=2**70), "anything is an integer past 64 bits"),
    (Measured(text="\ud800"), "lone surrogate"),
    (Holding({"\udc00": 1}), "lone surrogate"),
    (Measured(text=1), "Expected `str`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (model_of(id="none"), "UUID"),
    (AnAttrsClass("no number"), "decimal"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (Holding(object()), "object"),
    (Holding({(1, 2): 3}), "keys"),
]


@pytest.mark.parametrize(("message", "problem"), REFUSED, ids=without_addresses)
def test_what_would_not_read_back_is_refused_with_the_place(message: Any, problem: str) -> None:
    with pytest.raises(EncodeError, match=f"(?i){problem}") as caught:
        encode_data(message)

    assert isinstance(caught.value, PermanentError)
    assert caught.value.event_type == message.event_type
    assert "\n" not in str(caught.value)


def test_a_raw_field_is_carried_as_it_is() -> None:
    message = Holding([msgspec.Raw(b'{"a": null}')])

    assert json.loads(encode_data(message)) == {"value": [{"a": None}]}


def test_data_nested_past_any_stack_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(EncodeError, match="nested too deeply"):
        encode_data(Holding(nested))
    with pytest.raises(DecodeError, match="nested too deeply"):
        decode_data("codec.holding", b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize("message", [object(), 3, "text", None, Page([1])])
def test_what_is_no_message_is_refused_as_such(message: object) -> None:
    with pytest.raises(NotAnEventError):
        encode_data(message)


def test_a_class_in_place_of_a_message_is_refused() -> None:
    with pytest.raises(NotAnEventError, match=r"Measured\(\.\.\.\)"):
        encode_data(Measured)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"share": "no"}',
        b'{"share": NaN}',
        b'{"share": 1e999}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"number": 1.5}',
        b"{} {}",
        b"1" * 5_000,
    ],
)
def test_data_that_does_not_fit_is_refused_by_its_type(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"codec\.measured"):
        decode_data("codec.measured", data)


def test_an_unknown_type_is_an_error_that_names_it_or_is_kept() -> None:
    with pytest.raises(UnknownEventTypeError, match="never heard of"):
        decode_data("never heard of", b"{}")

    kept = decode_data("never.heard.of", b'{"a": [1]}', revision=3, keep_unknown=True)

    assert kept == UnknownEvent("never.heard.of", {"a": [1]}, 3)
    assert json.loads(encode_data(kept)) == {"a": [1]}


@pytest.mark.parametrize("data", [b"[]", b"null", b"3", b"{", b'{"a": 1e999}'])
def test_the_data_of_an_unknown_type_is_an_object_or_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="never"):
        decode_data("never.heard.of", data, keep_unknown=True)


@pytest.mark.parametrize("value", [NAN, 2**64, "\ud800", object()])
def test_an_unknown_event_is_checked_as_others_are(value: object) -> None:
    with pytest.raises(EncodeError, match="never"):
        encode_data(UnknownEvent("never.heard.of", {"a": value}))


class Evolved(Event, event_type="codec.evolved", revision=3):
    """Has two older revisions."""

    name: str
    kind: Literal["person", "firm"]


@Evolved.upcast(from_revision=1)
def _join_names(data: dict[str, Any]) -> Mapping[str, Any]:
    return {"name": f"{data.pop('first')} {data.pop('last').strip()}"}


@Evolved.upcast(from_revision=2)
def _add_kind(data: dict[str, Any]) -> Mapping[str, Any]:
    if data["name"] == "stop":
        raise RuntimeError
    return {**data, "kind": "person"}


def test_data_of_each_older_revision_is_brought_up_step_by_step() -> None:
    expected = Evolved("Ada L.", "person")

    assert decode_data("codec.evolved", b'{"first": "Ada", "last": "L. "}', revision=1) == expected
    assert decode_data("codec.evolved", b'{"name": "Ada L."}', revision=2) == expected
    assert decode_data("codec.evolved", encode_data(expected), revision=3) == expected


@pytest.mark.parametrize(
    ("data", "revision", "problem"),
    [
        (b'{"first": "Ada"}', 1, "KeyError: 'last'"),
        (b'{"first": "Ada", "last": 7}', 1, "AttributeError"),
        (b'{"first": "Ada", "last": ""}', 4, "revision 4 is newer than 3"),
        (b'{"first": "Ada", "last": ""}', 0, "no upcaster from revision 0"),
        (b'{"name": "stop"}', 2, "RuntimeError"),
        (b"[]", 2, "object"),
    ],
)
def test_whatever_an_upcaster_raises_is_a_decode_error(data: bytes, revision: int, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        decode_data("codec.evolved", data, revision=revision)


class Renamed(Event, event_type="codec.renamed", formerly=("codec.named",), revision=2):
    """An event that had another name."""

    name: str


@Renamed.upcast(from_revision=1)
def _name(data: dict[str, Any]) -> Mapping[str, Any]:
    return {"name": data["title"]}


def test_the_revisions_under_a_former_name_are_those_of_the_class() -> None:
    assert decode_data("codec.named", b'{"title": "n"}', revision=1) == Renamed("n")
    assert decode_data("codec.named", b'{"name": "n"}', revision=2) == Renamed("n")


@pytest.mark.parametrize(
    ("data", "revision", "problem"),
    [
        (b'{"name": 7}', 2, "Expected `str`"),
        (b'{"name": 7}', 1, "KeyError: 'title'"),
        (b"{}", 3, "revision 3 is newer"),
    ],
)
def test_what_is_wrong_under_a_former_name_is_said_with_both(data: bytes, revision: int, problem: str) -> None:
    with pytest.raises(DecodeError, match=f"'codec.renamed' .*: recorded as 'codec.named': {problem}") as caught:
        decode_data("codec.named", data, revision=revision)

    assert caught.value.event_type == "codec.renamed"


def test_a_missing_upcaster_is_named() -> None:
    class Unfinished(Event, event_type="codec.unfinished", revision=2):
        pass

    with pytest.raises(DecodeError, match=r"from revision 1; write one with @Unfinished\.upcast"):
        decode_data(Unfinished.event_type, b"{}", revision=1)


@pytest.mark.parametrize("exc", [ValueError("bad"), KeyError("bad"), RuntimeError("bad"), AssertionError("bad")])
def test_whatever_a_check_inside_the_class_raises_is_a_decode_error(exc: Exception) -> None:
    class Checked(Event, event_type="codec.checked"):
        def __post_init__(self) -> None:
            raise exc

    with pytest.raises(DecodeError, match="bad"):
        decode_data(Checked.event_type, b"{}")


def test_a_reason_is_cut_before_it_repeats_a_megabyte() -> None:
    class Strict(Event, event_type="codec.strict", forbid_unknown_fields=True):
        pass

    with pytest.raises(DecodeError) as caught:
        decode_data(Strict.event_type, b'{"' + b"x" * 1_000_000 + b'": 1}')

    assert len(str(caught.value)) < 1_000


def test_the_shape_on_the_wire_is_the_fields_as_a_json_object() -> None:
    assert encode_data(Paged(Page([1]))) == b'{"page":{"items":[1]}}'
    assert encode_data(ADataclass(datetime(2026, 1, 1, tzinfo=UTC))) == b'{"at":"2026-01-01T00:00:00Z","tags":[]}'


def test_an_enum_travels_as_its_value() -> None:
    class Kind(Enum):
        A = "a"

    class Kinds(Event, event_type="codec.kinds"):
        kind: Kind

    assert decode_data("codec.kinds", encode_data(Kinds(Kind.A))) == Kinds(Kind.A)
