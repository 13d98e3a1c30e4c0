"""Recorded events: what of a change of their classes is found, what is said of it, and what is written."""

import gc
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avx_events.core.errors import EncodeError, InvalidArgumentError, NotAnEventError
from avx_events.core.event import Command
from avx_events.testing import EventsReport, check_events, evolution_test, record_events

pytest_plugins = ["pytester"]

IMPORTS = """
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID
import attrs
import msgspec
import pydantic
from avx_events import Event, event
"""

PLACED = """
class OrderPlaced(Event, event_type="shop.placed"):
    order_id: str
    total: float
    coupon: str | None = None
"""


class Shop:
    """A module whose code changes, and the folder of what is recorded of it."""

    def __init__(self, module: ModuleType, folder: Path) -> None:
        self._module = module
        self.folder = folder

    def becomes(self, source: str) -> None:
        """Have this code, and nothing left of what was there before."""
        self._module.__dict__.clear()
        self._module.__dict__["__name__"] = "evolved_shop"
        gc.collect()
        exec(IMPORTS + textwrap.dedent(source), self._module.__dict__)  # noqa: S102 - our own code

    def __getattr__(self, name: str) -> Any:
        return self._module.__dict__[name]

    def record(self, *examples: object) -> EventsReport:
        return record_events(self.folder, "evolved_shop", examples=examples)

    def check(self, *examples: object) -> EventsReport:
        return check_events(self.folder, "evolved_shop", examples=examples)

    def recorded(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name).read_text("utf-8"))
        return content

    def readings(self, name: str) -> list[Any]:
        return [sample.get("reads_as", sample["data"]) for sample in self.recorded(name)["samples"]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    module = ModuleType("evolved_shop")
    monkeypatch.setitem(sys.modules, "evolved_shop", module)
    yield Shop(module, tmp_path / "recorded")
    module.__dict__.clear()
    gc.collect()


# Recording


def test_a_class_that_nothing_is_recorded_of_is_reported_with_the_command_that_records_it(shop: Shop) -> None:
    shop.becomes(PLACED)

    report = shop.check()

    assert (report.breaks, len(report.unrecorded), report.samples) == ((), 1, 0)
    assert "shop.placed, revision 1 (evolved_shop.OrderPlaced)\n  it is new" in str(report)
    assert "pytest --avx-record-events" in str(report)
    assert not shop.folder.exists()


def test_what_is_recorded_is_one_file_for_a_type_and_revision_that_people_can_read(shop: Shop) -> None:
    shop.becomes(PLACED)

    report = shop.record()

    assert (report.findings, report.written) == ((), ("shop.placed.1.json",))
    assert (shop.folder / "shop.placed.1.json").read_text("utf-8") == textwrap.dedent("""\
        {
          "event_type": "shop.placed",
          "revision": 1,
          "fields": {
            "order_id": "str",
            "total": "float",
            "coupon": "str | None = None"
          },
          "read_at_revision": 1,
          "samples": [
            {"data": {"order_id": "text", "total": 1.5, "coupon": "text"}},
            {"data": {"order_id": "", "total": 1.5, "coupon": "text"}},
            {"data": {"order_id": "text", "total": 0.0, "coupon": "text"}},
            {"data": {"order_id": "text", "total": -1.5, "coupon": "text"}},
            {"data": {"order_id": "text", "total": 1000000000000.0, "coupon": "text"}},
            {"data": {"order_id": "text", "total": 1.5, "coupon": null}},
            {"data": {"order_id": "text", "total": 1.5, "coupon": ""}}
          ]
        }
        """)
    assert str(shop.check()) == f"7 recorded events in {shop.folder}, all read as recorded"
    assert shop.record().written == ()  # there is nothing new


ALL_TYPES = """
class Level(Enum):
    LOW = 1
    HIGH = 2

class Address(msgspec.Struct):
    street: str
    since: datetime

class Cash(msgspec.Struct, tag=True):
    amount: Decimal

class Card(msgspec.Struct, tag="card", tag_field="kind"):
    number: Annotated[str, msgspec.Meta(pattern="^[0-9]+$", max_length=4)]

class Point(msgspec.Struct, array_like=True):
    x: int
    y: float = 0.5

class Size(NamedTuple):
    width: int

class Options(TypedDict, total=False):
    gift: bool

class Node(msgspec.Struct):
    children: list["Node"]
    parent: "Node | None" = None

@dataclass
class Note:
    text: str

@attrs.define
class Mark:
    on: date

class Everything(Event, event_type="shop.everything", rename="camel"):
    a_number: Annotated[int, msgspec.Meta(ge=3, lt=9, multiple_of=2)]
    a_share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    at: datetime
    naive: Annotated[datetime, msgspec.Meta(tz=False)]
    day: date
    hour: time
    lasts: timedelta
    id: UUID
    price: Decimal
    blob: bytes
    level: Level
    word: Literal["yes", "no", 3]
    address: Address
    paid: Cash | None
    card: Card
    point: Point
    size: Size
    options: Options
    node: Node
    note: Note
    mark: Mark
    by_number: dict[int, str]
    pair: tuple[int, str]
    many: tuple[int, ...]
    some: Annotated[list[str], msgspec.Meta(min_length=2)]
    tags: set[str]
    whatever: Any
    raw: msgspec.Raw
    code: Annotated[str, msgspec.Meta(min_length=3, max_length=5)]
    left_out: int | msgspec.UnsetType = msgspec.UNSET
    made: list[int] = []
"""


def test_samples_are_made_for_fields_of_every_type_that_msgspec_reads(shop: Shop) -> None:
    shop.becomes(ALL_TYPES)

    assert shop.record().findings == ()
    readings, recorded = shop.readings("shop.everything.1.json"), shop.recorded("shop.everything.1.json")

    assert {reading["aNumber"] for reading in readings} == {4, 8}
    assert {reading["level"] for reading in readings} == {1, 2}
    assert {reading["word"] for reading in readings} == {"yes", "no", 3}
    assert readings[0]["paid"] == {"type": "Cash", "amount": "1.10"}
    assert None in [reading["paid"] for reading in readings]
    assert all(len(reading["some"]) == 2 for reading in readings)
    assert recorded["fields"]["address"] == "Address(street: str, since: datetime)"
    assert recorded["fields"]["node"] == "Node(children: list[Node], parent: Node | None = None)"
    assert recorded["fields"]["aNumber"] == "int(ge=3, lt=9, multiple_of=2)"
    assert recorded["fields"]["level"] == "Level(1, 2)"
    assert shop.check().findings == ()


def test_dataclasses_attrs_classes_and_models_are_recorded_too(shop: Shop) -> None:
    shop.becomes("""
    @event("shop.dataclass")
    @dataclass
    class ADataclass:
        at: datetime
        tags: list[str]

    @event("shop.attrs")
    @attrs.define
    class AnAttrsClass:
        price: Decimal

    @event("shop.model")
    class AModel(pydantic.BaseModel):
        id: UUID
        note: str | None = None
    """)

    (finding,) = shop.record().findings
    assert "shop.model" in finding.title
    assert "pydantic" in finding.problems[0]
    assert finding.remedy == "give an example: examples=[AModel(...)]"

    report = shop.record(shop.AModel(id="00000000-0000-0000-0000-000000000001"))
    assert (report.findings, report.written) == ((), ("shop.model.1.json",))
    assert shop.recorded("shop.model.1.json")["fields"] == {"id": "UUID", "note": "str | None = None"}


def test_where_no_value_can_be_made_up_an_example_is_asked_for_and_varied(shop: Shop) -> None:
    shop.becomes("""
    class Shipped(Event, event_type="shop.shipped"):
        code: Annotated[str, msgspec.Meta(pattern="^zz[0-9]{7}$")]
        weight: float

    class Checked(Event, event_type="shop.checked"):
        least: int
        most: int

        def __post_init__(self) -> None:
            if self.least + 5 > self.most:
                raise ValueError("too near")
    """)

    problems = str(shop.record())
    assert "field 'code': no value can be made up for text that matches '^zz[0-9]{7}$'" in problems
    assert "cannot be recorded: too near" in problems

    examples = [shop.Shipped("zz1234567", 2.5), shop.Checked(1, 10), shop.Checked(2, 20)]
    assert shop.record(*examples).findings == ()
    assert shop.readings("shop.shipped.1.json")[:2] == [
        {"code": "zz1234567", "weight": 2.5},
        {"code": "zz1234567", "weight": 1.5},
    ]
    assert shop.readings("shop.checked.1.json")[:2] == [{"least": 1, "most": 10}, {"least": 2, "most": 20}]
    assert shop.check(*examples).findings == ()
    assert "examples that are new" in str(shop.check(shop.Checked(3, 30)))


def test_what_has_no_order_is_recorded_in_one(shop: Shop) -> None:
    shop.becomes("""
    class Tagged(Event, event_type="shop.tagged"):
        tags: Annotated[set[str], msgspec.Meta(min_length=3)]
        more: frozenset[str] = frozenset({"b", "a", "c"})
    """)
    examples = [shop.Tagged({*order}, frozenset(order)) for order in ("xyz", "zyx")]

    assert shop.record(*examples).findings == ()
    assert shop.readings("shop.tagged.1.json")[0] == {"tags": ["x", "y", "z"], "more": ["x", "y", "z"]}
    assert shop.recorded("shop.tagged.1.json")["fields"]["more"] == "frozenset[str] = frozenset('a', 'b', 'c')"
    assert shop.check(*examples).findings == ()


# What breaks


BREAKS = {
    "a field that was removed": (
        PLACED.replace("    coupon: str | None = None\n", ""),
        [
            "field 'coupon' (str | None = None) was removed",
            '5 of 7 samples: coupon was "text", and is lost',
            "bring 'coupon' back; or raise it to revision=2, and say in @OrderPlaced.upcast(from_revision=1) what",
        ],
    ),
    "a field that was renamed": (
        PLACED.replace("total", "amount"),
        [
            "7 of 7 samples: Object missing required field `amount`",
            "raise OrderPlaced to revision=2 and, if 'total' is called 'amount' now, write:",
            "@OrderPlaced.upcast(from_revision=1)",
            "data['amount'] = data.pop('total')",
        ],
    ),
    "a new field without a default": (
        f"{PLACED.replace('    coupon', f'    place: str{chr(10)}    coupon')}",
        ["field 'place' (str) is new", "give 'place' a default; or raise it to revision=2"],
    ),
    "a type that does not have None any more": (
        PLACED.replace("str | None = None", 'str = ""'),
        ["field 'coupon' was str | None = None, is str = ''", "1 of 7 samples: Expected `str`, got `null`"],
    ),
    "a type that is narrower": (
        PLACED.replace("total: float", "total: int"),
        ["field 'total' was float, is int", "let 'total' be what it was, too"],
    ),
    "a bound": (
        PLACED.replace("total: float", "total: Annotated[float, msgspec.Meta(ge=0)]"),
        ["field 'total' was float, is float(ge=0)", "1 of 7 samples: Expected `float` >= 0.0"],
    ),
    "a check in the class": (
        PLACED + "    def __post_init__(self):\n        if not self.order_id:\n            raise ValueError('no id')\n",
        ["1 of 7 samples: no id", "let OrderPlaced read what it wrote; or raise it"],
    ),
    "several at once": (
        PLACED.replace("coupon: str | None = None", "place: str").replace("total: float", "total: int"),
        ["bring 'coupon' back and give 'place' a default and let 'total' be what it was, too; or raise"],
    ),
    "a revision without an upcaster": (
        PLACED.replace('"shop.placed"', '"shop.placed", revision=3'),
        [
            "OrderPlaced is at revision 3, and has no upcaster from revision 1, 2",
            "write @OrderPlaced.upcast(from_revision=1)",
        ],
    ),
    "a type that is gone": (
        "",
        ["no class has this type any more", "formerly=('shop.placed',)", "delete shop.placed.1.json"],
    ),
    "a new name for the type": (
        PLACED.replace("shop.placed", "shop.ordered"),
        ["no class has this type any more", "(shop.ordered is new, and has the same fields)"],
    ),
}


@pytest.mark.parametrize("change", BREAKS)
def test_a_change_that_breaks_is_found_and_said(shop: Shop, change: str) -> None:
    shop.becomes(PLACED)
    shop.record()
    before = (shop.folder / "shop.placed.1.json").read_bytes()
    after, expected = BREAKS[change]
    shop.becomes(after)

    report = shop.check()

    (finding,) = report.breaks
    assert finding.title.startswith("shop.placed, revision 1")
    for text in expected:
        assert text in str(report)

    # To record is no way around it.
    assert [broken.title for broken in shop.record().breaks] == [finding.title]
    assert (shop.folder / "shop.placed.1.json").read_bytes() == before


def test_a_revision_that_was_lowered_is_found(shop: Shop) -> None:
    upcast = "\nOrderPlaced.upcast(from_revision=1)(lambda data: data)\n"
    shop.becomes(PLACED.replace('"shop.placed"', '"shop.placed", revision=2') + upcast)
    shop.record()
    shop.becomes(PLACED)

    assert "OrderPlaced is at revision 1, and was at 2" in str(shop.check())


def test_what_is_deep_inside_of_a_field_is_compared_too(shop: Shop) -> None:
    source = """
    class Line(msgspec.Struct):
        product: str
        prices: dict[str, list[int]] = {}

    class Listed(Event, event_type="shop.listed"):
        lines: list[Line]
    """
    shop.becomes(source)
    shop.record()
    shop.becomes(source.replace("        prices: dict[str, list[int]] = {}\n", ""))

    report = str(shop.check())
    assert "field 'lines' was list[Line(product: str, prices: dict[str, list[int]] = dict())]" in report
    assert 'lines[].prices was {"text":[1]}, and is lost' in report


def test_values_that_turn_into_others_are_found(shop: Shop) -> None:
    source = """
    @event("shop.attrs")
    @attrs.define
    class Weighed:
        weight: float
        def __attrs_post_init__(self) -> None:
            self.weight = {}
    """
    shop.becomes(source.format("self.weight"))
    shop.record()
    shop.becomes(source.format("abs(self.weight)"))

    assert "weight was -1.5, and is 1.5" in str(shop.check())


def test_many_problems_are_counted_and_the_most_frequent_named(shop: Shop) -> None:
    shop.becomes("class Sized(Event, event_type='shop.sized'):\n    size: Literal['s', 'm', 'l', 'xl', 'xxl']\n")
    shop.record()
    shop.becomes("class Sized(Event, event_type='shop.sized'):\n    size: int\n")

    (finding,) = shop.check().breaks
    assert finding.problems[1] == "5 of 5 samples: Expected `int`, got `str` - at `$.size`"

    shop.becomes("class Sized(Event, event_type='shop.sized'):\n    size: Literal['xs']\n")
    (finding,) = shop.check().breaks
    assert finding.problems[-1] == "and 2 problems more"


# What does not break


def test_a_field_with_a_default_breaks_nothing_and_is_to_be_recorded(shop: Shop) -> None:
    shop.becomes(PLACED)
    shop.record()
    before = shop.recorded("shop.placed.1.json")["samples"]
    shop.becomes(PLACED + '    place: str = "home"\n')

    report = shop.check()
    assert (report.breaks, len(report.unrecorded)) == ((), 1)
    assert "field 'place' (str = 'home') is new" in str(report)

    assert shop.record().findings == ()
    after = shop.recorded("shop.placed.1.json")["samples"]
    assert [sample["data"] for sample in after[:7]] == [sample["data"] for sample in before]
    assert [sample["reads_as"]["place"] for sample in after[:7]] == ["home"] * 7
    assert [sample["data"]["place"] for sample in after[7:]] == ["text", ""]

    # From now on it is missed.
    shop.becomes(PLACED)
    assert 'place was "home", and is lost' in str(shop.check())
    shop.becomes(PLACED + '    place: str = "work"\n')
    assert 'place was "home", and is "work"' in str(shop.check())


def test_a_wider_type_breaks_nothing(shop: Shop) -> None:
    shop.becomes(PLACED.replace("total: float", "total: int"))
    shop.record()
    shop.becomes(PLACED)

    assert shop.check().breaks == ()
    assert shop.record().findings == ()


def test_an_order_of_fields_breaks_nothing(shop: Shop) -> None:
    shop.becomes(PLACED)
    shop.record()
    shop.becomes(PLACED.replace("    order_id: str\n    total: float\n", "    total: float\n    order_id: str\n"))

    assert shop.check().findings == ()


NEWER = """
class OrderPlaced(Event, event_type="shop.ordered", formerly=("shop.placed",), revision=2):
    order_id: str
    cents: int
    coupon: str = ""

@OrderPlaced.upcast(from_revision=1)
def in_cents(data):
    return {"order_id": data["order_id"], "cents": round(data["total"] * 100), "coupon": data["coupon"] or ""}
"""


def test_what_a_new_name_and_revision_read_from_the_old_is_recorded_beside_it(shop: Shop) -> None:
    shop.becomes(PLACED)
    shop.record()
    shop.becomes(NEWER)

    report = shop.check()
    assert report.breaks == ()
    assert [finding.title for finding in report.unrecorded] == [
        "shop.ordered, revision 2 (evolved_shop.OrderPlaced)",
        "shop.placed, revision 1, now shop.ordered (evolved_shop.OrderPlaced)",
    ]
    assert "what revision 2 of the class reads from it is not recorded" in str(report)

    assert shop.record().findings == ()
    old = shop.recorded("shop.placed.1.json")
    assert old["samples"][0] == {
        "data": {"order_id": "text", "total": 1.5, "coupon": "text"},
        "reads_as": {"order_id": "text", "cents": 150, "coupon": "text"},
    }
    assert (old["fields"]["total"], old["read_at_revision"]) == ("float", 2)
    assert sorted(path.name for path in shop.folder.iterdir()) == ["shop.ordered.2.json", "shop.placed.1.json"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("* 100", "* 10"), "cents was 150, and is 15"),
        (('data["total"]', 'data["totals"]'), "KeyError: 'totals'"),
        (('"cents"', '"cent"'), "Object missing required field `cents`"),
    ],
)
def test_an_upcaster_that_reads_otherwise_than_it_did_is_found(
    shop: Shop, change: tuple[str, str], expected: str
) -> None:
    shop.becomes(PLACED)
    shop.record()
    shop.becomes(NEWER)
    shop.record()
    shop.becomes(NEWER.replace(*change))

    report = shop.check()
    assert expected in str(report)
    assert "mend the upcasters of OrderPlaced from revision 1 on" in str(report)


# Files and folders


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (b"\xff", "invalid"),
        (b"[]", "Expected `object`"),
        (b'{"event_type": 1}', "Expected `str`"),
        (b'{"event_type":"a","revision":2,"fields":{},"read_at_revision":1,"samples":[{"data":1}]}', "a.2.json"),
        (b'{"event_type":"a","revision":1,"fields":{},"read_at_revision":1,"samples":[]}', "no samples"),
    ],
)
def test_a_file_that_holds_no_recorded_events_is_found(shop: Shop, content: bytes, problem: str) -> None:
    shop.becomes(PLACED)
    shop.record()
    (shop.folder / "a.1.json").write_bytes(content)

    (finding,) = shop.record().breaks
    assert finding.title == "a.1.json"
    assert problem in finding.problems[0]


def test_types_with_odd_characters_have_files_too(shop: Shop) -> None:
    names = ["a/b", "ünï.✓", "per%cent", "c:d", "CON"]
    shop.becomes("\n".join(f"class C{at}(Event, event_type={name!r}): pass" for at, name in enumerate(names)))

    assert len(shop.record().written) == len(names)
    assert shop.check().findings == ()


def test_packages_are_imported_with_all_that_is_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "below_shop"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "__main__.py": "raise SystemExit",
        "orders.py": "from avx_events import Event\nclass A(Event, event_type='below.a'): pass\n",
        "deep/__init__.py": "",
        "deep/down.py": "from avx_events import Event\nclass B(Event, event_type='below.b'): pass\n"
        "def make():\n    class C(Event, event_type='below.c'): pass\n    return C\nkept = make()\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    assert record_events(tmp_path / "all", "below_shop").written == ("below.a.1.json", "below.b.1.json")
    assert record_events(tmp_path / "one", "below_shop.orders").written == ("below.a.1.json",)

    (package / "broken.py").write_text("import there_is_no_such_module")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        check_events(tmp_path / "all", "below_shop")


def test_a_class_that_its_module_has_no_more_does_not_count(shop: Shop) -> None:
    shop.becomes(PLACED + "\nclass Other(Event, event_type='shop.other'): pass\nkept, Other = Other, None\n")

    assert shop.record().written == ("shop.placed.1.json",)


def test_examples_alone_are_enough(shop: Shop) -> None:
    shop.becomes(PLACED + "\nclass Other(Event, event_type='shop.other'): pass\n")

    report = record_events(str(shop.folder), examples=[shop.OrderPlaced("1", 2.5)])

    assert report.written == ("shop.placed.1.json",)
    assert shop.readings("shop.placed.1.json")[0] == {"order_id": "1", "total": 2.5, "coupon": None}


class Order(Command[None], event_type="evolution.order"):
    """A message that is no event."""


def test_what_cannot_be_checked_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.becomes(PLACED)
    (tmp_path / "file").touch()

    with pytest.raises(InvalidArgumentError, match="packages must be at least one"):
        check_events(tmp_path)
    for package in ("there_is_no_such_package", "avx_events.no_such_module", "", 7):
        with pytest.raises(InvalidArgumentError, match="packages"):
            check_events(tmp_path, package)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for folder in ("", None, tmp_path / "file"):
        with pytest.raises(InvalidArgumentError, match="folder"):
            check_events(folder, "evolved_shop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for example in (7, shop.OrderPlaced, Order()):
        with pytest.raises(NotAnEventError):
            check_events(tmp_path, examples=[example])
    with pytest.raises(EncodeError):
        record_events(tmp_path / "new", examples=[shop.OrderPlaced("1", float("nan"))])
    assert not (tmp_path / "new").exists()


# With pytest


def test_one_line_is_a_test_and_an_option_records(
    pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        evolving="from avx_events import Event\nclass Evolving(Event, event_type='pytest.evolving'):\n    n: int\n",
        test_events="from avx_events.testing import evolution_test\ntest_all = evolution_test('events', 'evolving')\n",
    )
    pytester.syspathinsert()
    plugins = [pytestconfig.pluginmanager.get_plugin("avx_events")]

    first = pytester.runpytest_inprocess(plugins=plugins)
    recording = pytester.runpytest_inprocess("--avx-record-events", plugins=plugins)
    second = pytester.runpytest_inprocess(plugins=plugins)

    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*pytest.evolving, revision 1 (evolving.Evolving)", "*pytest --avx-record-events*"])
    recording.assert_outcomes(passed=1)
    second.assert_outcomes(passed=1)
    assert (pytester.path / "events" / "pytest.evolving.1.json").exists()


def test_the_test_says_what_breaks_and_no_more(shop: Shop, request: pytest.FixtureRequest) -> None:
    shop.becomes(PLACED)
    shop.record()
    shop.becomes("")

    with pytest.raises(pytest.fail.Exception, match="no class has this type any more") as failure:
        evolution_test(shop.folder, "evolved_shop")(request)

    assert failure.value.pytrace is False
