"""Aggregates: state that comes from events alone, and snapshots that never show."""

# ruff: noqa: RUF012 - a mutable default of an aggregate is each instance's own

import asyncio
import copy
import functools
import logging
import pickle
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import msgspec
import pytest

from avx_events.core.errors import (
    AggregateDefinitionError,
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    NotAnEventError,
    StoreSchemaError,
    StoreUnavailableError,
    UnknownEventTypeError,
)
from avx_events.core.event import Command, Event, Query, Request, UnknownEvent, event
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import AppendResult, NewRecordTuple, SnapshotRecord


class Renamed(Event, event_type="test.aggregate.renamed"):
    name: str


@event("test.aggregate.tagged")
@dataclass
class Tagged:
    tag: str


class Address(msgspec.Struct):
    city: str = ""


class Color(StrEnum):
    RED = "red"


class Person(AggregateRoot):
    name: str = ""
    tags: list[str] = ["new"]
    address: Address = Address("Paris")

    planet: ClassVar[list[str]] = ["Earth"]

    def apply(self, event: Any) -> None:
        match event:
            case Renamed(name=name):
                self.name = name
            case Tagged(tag=tag):
                self.tags.append(tag)
            case _:
                pass


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(with_deadline())


def test_a_new_aggregate_has_its_id_and_the_state_before_any_event() -> None:
    person = Person("p-1")

    assert (person.id, person.version, person.uncommitted) == ("p-1", 0, ())
    assert (person.name, person.tags, person.address) == ("", ["new"], Address("Paris"))


def test_recording_applies_and_remembers() -> None:
    person = Person("p-1")

    person.record(Renamed("Ada"))
    person.record(Tagged("x"))

    assert (person.name, person.tags, person.version) == ("Ada", ["new", "x"], 2)
    assert person.uncommitted == (Renamed("Ada"), Tagged("x"))


def test_mutable_defaults_belong_to_each_instance() -> None:
    one, two = Person("p-1"), Person("p-2")

    one.tags.append("mine")
    one.address.city = "Rome"

    assert (two.tags, two.address.city) == (["new"], "Paris")
    assert (Person("p-3").tags, Person("p-3").address.city) == (["new"], "Paris")
    assert Person.planet is Person("p-1").planet


class Rename(Command[None]):
    name: str


class NameOf(Query[str]):
    person_id: str


class Ask(Request[str], event_type="test.aggregate.ask"):
    name: str


@pytest.mark.parametrize(
    "wrong",
    [Renamed, "text", None, 7, Rename("Ada"), NameOf("p-1"), Ask("Ada"), UnknownEvent("test.unknown", {})],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_event_is_refused_and_changes_nothing(wrong: object) -> None:
    person = Person("p-1")

    with pytest.raises(NotAnEventError):
        person.record(wrong)

    assert (person.version, person.uncommitted) == (0, ())


def test_an_event_that_apply_refuses_is_not_remembered() -> None:
    class Strict(AggregateRoot):
        def apply(self, event: Event) -> None:
            raise ValueError("no")

    strict = Strict("s-1")
    with pytest.raises(ValueError, match="no"):
        strict.record(Renamed("Ada"))

    assert (strict.version, strict.uncommitted) == (0, ())


@pytest.mark.parametrize("wrong", ["", "a\0b", "\ud800", None, 7, "x" * 1025])
def test_an_id_must_be_able_to_name_a_stream(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Person(wrong)


def test_an_attribute_that_is_no_field_cannot_be_set() -> None:
    person = Person("p-1")

    with pytest.raises(AttributeError):
        person.nmae = "Ada"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    for given in ("id", "version", "uncommitted"):
        with pytest.raises(AttributeError):
            setattr(person, given, "other")


def test_aggregates_are_equal_in_class_id_version_state_and_what_is_not_saved() -> None:
    class Other(Person):
        pass

    person, renamed = Person("p-1"), Person("p-1")
    renamed.record(Renamed("Ada"))

    assert person == Person("p-1")
    assert person not in {id(other): other for other in (Person("p-2"), renamed, Other("p-1"))}.values()
    assert person != "p-1"
    with pytest.raises(TypeError):
        hash(person)


def test_an_aggregate_describes_itself() -> None:
    person = Person("p-1")
    person.record(Renamed("Ada"))

    assert repr(person) == "Person('p-1', version=1, name='Ada', tags=['new'], address=Address(city='Paris'))"


def pickled(person: Person) -> Person:
    copied: Person = pickle.loads(pickle.dumps(person))  # noqa: S301 - our own
    return copied


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_has_everything_and_goes_its_own_way(duplicate: Callable[[Person], Person]) -> None:
    person = Person("p-1")
    person.record(Renamed("Ada"))

    copied = duplicate(person)

    assert copied == person
    copied.record(Tagged("x"))
    assert (person.version, person.tags, person.uncommitted) == (1, ["new"], (Renamed("Ada"),))


def test_a_shallow_copy_shares_the_state_and_has_its_own_history() -> None:
    person = Person("p-1")
    person.record(Renamed("Ada"))

    copied = copy.copy(person)

    assert copied == person
    assert copied.tags is person.tags
    copied.record(Renamed("Bea"))
    assert (person.name, person.version, person.uncommitted) == ("Ada", 1, (Renamed("Ada"),))


class Silent(MemoryEngine):
    """Appends, and does not say so until ``answers``."""

    answers = False

    async def append(
        self, stream: str, records: Sequence[NewRecordTuple], *, expected_version: int | None = None
    ) -> AppendResult:
        result = await super().append(stream, records, expected_version=expected_version)
        if not self.answers:
            raise StoreUnavailableError("memory", "no answer")
        return result


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_can_repeat_a_save_whose_outcome_is_unknown(duplicate: Callable[[Person], Person]) -> None:
    async def scenario() -> None:
        engine = Silent()
        store = EventStore(engine)
        person = Person("p-1")
        person.record(Renamed("Ada"))
        with pytest.raises(StoreUnavailableError):
            await store.save(person)

        copied = duplicate(person)
        engine.answers = True

        assert (await store.save(copied)).version == 1
        assert (await store.save(person)).version == 1
        assert await store.version_of("p-1") == 1

    run(scenario())


def test_a_derived_class_has_the_fields_of_its_base_and_more() -> None:
    class Employee(Person):
        salary: int = 0

        def apply(self, event: Any) -> None:
            super().apply(event)
            self.salary += 1

    employee = Employee("e-1")
    employee.record(Tagged("x"))

    assert (employee.tags, employee.salary) == (["new", "x"], 1)


def ignore(self: object, event: object) -> None: ...


async def apply_later(self: object, event: object) -> None: ...


def made(
    name: str, namespace: dict[str, Any], *, bases: tuple[type[Any], ...] = (AggregateRoot,), **keywords: Any
) -> type[Any]:
    make: Any = type(AggregateRoot)
    made_class: type[Any] = make(name, bases, {"__module__": __name__, **namespace}, **keywords)
    return made_class


def with_fields(**namespace: Any) -> Callable[[], object]:
    return lambda: made("Odd", {"apply": ignore, **namespace})


def with_keyword(**keywords: Any) -> Callable[[], object]:
    return lambda: made("Odd", {"apply": ignore}, **keywords)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (with_fields(__annotations__={"id": str}, id=""), "'id' is given by AggregateRoot"),
        (with_fields(__annotations__={"version": int}), "'version' is given by AggregateRoot"),
        (with_fields(uncommitted=7), "'uncommitted' is given by AggregateRoot"),
        (with_fields(record=ignore), "'record' is given by AggregateRoot"),
        (with_fields(__init__=ignore), "'__init__' is given by AggregateRoot"),
        (with_fields(__annotations__={"name": str, "age": int}, age=0), "Required field 'age'|default.*'name'"),
        (with_fields(__annotations__={"name": str}), "every field needs a default.*'name'"),
        (with_fields(__annotations__={"apply": str}), "apply"),
        (with_fields(apply=AggregateRoot.apply), "needs a method apply"),
        (with_fields(apply=apply_later), "plain function"),
        (with_fields(apply=7), "needs a method apply"),
        (with_keyword(revision=0), "revision must be a whole number"),
        (with_keyword(revision=True), "revision must be a whole number"),
        (with_keyword(frozen=True), "no class keyword but revision=, not frozen"),
    ],
)
def test_a_class_that_could_not_work_is_refused_when_it_is_made(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(AggregateDefinitionError, match=f"Odd.*({problem})"):
        make()


def test_the_store_refuses_what_is_no_aggregate() -> None:
    async def scenario() -> None:
        async with EventStore() as store:
            wrong: list[Any] = [dict, Person("p-1"), "Person", None, AggregateRoot]
            for aggregate in wrong:
                with pytest.raises(InvalidArgumentError, match="must be a class derived from AggregateRoot"):
                    await store.load(aggregate, "p-1")
            for aggregate in ("Person", None, Person, object()):
                with pytest.raises(InvalidArgumentError, match="must be an instance of a class derived"):
                    await store.save(aggregate)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    run(scenario())


# Snapshots


async def totals(store: EventStore, aggregate: type[Any], *, loads: int = 2) -> list[Any]:
    return [(await store.load(aggregate, "s")).total for _ in range(loads)]


def scaled(*, by_constant: int = 1) -> type[Any]:
    namespace: dict[str, Any] = {}
    source = f"def apply(self, event):\n    self.total += {by_constant}\n"
    exec(source, namespace)  # noqa: S102 - code that differs in a constant, as after a change by hand
    return made("Total", {"__annotations__": {"total": int}, "total": 0, "apply": namespace["apply"]})


def starting_at(start: int) -> type[Any]:
    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = start

        def apply(self, event: Event) -> None:
            self.total += 1

    return Total


def of_revision(revision: int) -> type[Any]:
    class Total(AggregateRoot, revision=revision):
        __qualname__ = "Total"
        total: int = 0

        def apply(self, event: Event) -> None:
            self.total += 1

    return Total


def one() -> int:
    return 1


def ten() -> int:
    return 10


def calling(step: Callable[[], int]) -> type[Any]:
    def apply(self: Any, event: object) -> None:
        self.total += self.step()

    namespace = {"__annotations__": {"total": int}, "total": 0, "apply": apply, "step": staticmethod(step)}
    base = made("Base", namespace)

    return made("Total", {}, bases=(base,))


def dispatching(step: int) -> type[Any]:
    def add(self: Any, event: Renamed) -> None:
        self.total += 1

    def add_more(self: Any, event: Renamed) -> None:
        self.total += 10

    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = 0

        def apply(self, event: Any) -> None:
            self._apply(event)

        @functools.singledispatchmethod
        def _apply(self, event: Any) -> None: ...

        _apply.register(Renamed, add if step == 1 else add_more)
        _apply.register(Tagged, ignore)

    return Total


def with_constant(value: Any) -> type[Any]:
    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = 0
        steps: ClassVar[dict[str, Any]] = {"test.aggregate.renamed": value}

        def apply(self, event: Any) -> None:
            step = self.steps[event.event_type]
            self.total += step if isinstance(step, int) else step()

    return Total


def with_default(step: int) -> type[Any]:
    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = 0

        def apply(self, event: Any) -> None:
            self.add()

        def add(self, step: int = step) -> None:
            self.total += step

    return Total


def with_keyword_default(step: int) -> type[Any]:
    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = 0

        def apply(self, event: Any, *, step: int = step) -> None:
            self.total += step

    return Total


def with_partial(step: int) -> type[Any]:
    class Total(AggregateRoot):
        __qualname__ = "Total"
        total: int = 0

        def apply(self, event: Any) -> None:
            self.add_step()

        def add(self, step: int) -> None:
            self.total += step

        add_step = functools.partialmethod(add, step)

    return Total


def closing_over(step: Any) -> type[Any]:
    def apply(self: Any, event: object) -> None:
        self.total += step if isinstance(step, int) else step()

    return made("Total", {"__annotations__": {"total": int}, "total": 0, "apply": apply})


def recursive(step: int) -> type[Any]:
    def count(steps: int = 3) -> int:
        return count(steps - 1) if steps else step

    return closing_over(count)


def caching(step: int) -> type[Any]:
    cache: list[int] = []

    def cached() -> int:
        cache.append(step)
        return cache[0]

    return closing_over(cached)


def typed(kind: type) -> type[Any]:
    def apply(self: Any, event: object) -> None:
        self.total = kind(2)

    return made("Total", {"__annotations__": {"total": kind}, "total": kind(), "apply": apply})


def nesting(**fields: tuple[type, Any]) -> type[Any]:
    inner = msgspec.defstruct("Inner", [(name, kind, default) for name, (kind, default) in fields.items()])
    return made("Total", {"__annotations__": {"total": inner}, "total": inner(), "apply": ignore})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (scaled(by_constant=1), scaled(by_constant=10), 20),
        (starting_at(0), starting_at(100), 102),
        (of_revision(1), of_revision(2), 2),
        (typed(int), typed(float), 2.0),
        (calling(one), calling(ten), 20),
        (dispatching(1), dispatching(10), 20),
        (with_constant(1), with_constant(10), 20),
        (with_constant(one), with_constant(ten), 20),
        (with_default(1), with_default(10), 20),
        (with_keyword_default(1), with_keyword_default(10), 20),
        (with_partial(1), with_partial(10), 20),
        (closing_over(1), closing_over(10), 20),
        (closing_over(one), closing_over(ten), 20),
    ],
)
def test_a_snapshot_of_a_class_that_changed_is_not_used(before: type[Any], after: type[Any], expected: float) -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", [Renamed("a"), Renamed("b")])
            assert await totals(store, before) == [2, 2]
            assert store.statistics()["snapshots_used"] == 1

            assert (await totals(store, after, loads=1), store.statistics()["snapshots_used"]) == ([expected], 1)
            assert (await totals(store, after, loads=1), store.statistics()["snapshots_used"]) == ([expected], 2)

    run(scenario())


def test_a_nested_type_that_changed_is_a_changed_class() -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", Renamed("a"))
            await totals(store, nesting(a=(int, 0)))
            [total] = await totals(store, nesting(a=(int, 0), b=(int, 7)), loads=1)

            assert total.b == 7
            assert store.statistics()["snapshots_used"] == 1

    run(scenario())


@pytest.mark.parametrize(
    "make",
    [
        of_revision,
        dispatching,
        with_constant,
        with_default,
        with_keyword_default,
        with_partial,
        closing_over,
        recursive,
        caching,
    ],
)
def test_the_same_class_made_again_uses_the_snapshots_of_the_first(make: Callable[[int], type[Any]]) -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", Renamed("a"))
            for _ in range(4):
                assert await totals(store, make(1), loads=1) == [1]

            assert (store.statistics()["snapshots_taken"], store.statistics()["snapshots_used"]) == (1, 3)

    run(scenario())


def shapes() -> list[tuple[type[Any], str]]:
    class Aliased(AggregateRoot):
        one: list[str] = []
        two: list[str] = []

        def apply(self, event: Any) -> None:
            self.one = self.two = [*self.two, "x"]

    class Loose(AggregateRoot):
        anything: Any = None

        def apply(self, event: Any) -> None:
            self.anything = (1, 2)

    class Enumerated(AggregateRoot):
        anything: Any = None

        def apply(self, event: Any) -> None:
            self.anything = {"color": Color.RED}

    class Mistyped(AggregateRoot):
        number: int = 0

        def apply(self, event: Any) -> None:
            self.number = "seven"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]

    class Surrogate(AggregateRoot):
        text: str = ""

        def apply(self, event: Any) -> None:
            self.text = "\ud800"

    class Indescribable(AggregateRoot):
        thing: complex = 1j

        def apply(self, event: Any) -> None:
            self.thing += 1

    class Unresolved(AggregateRoot):
        thing: "NeverDefined | None" = None  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

        def apply(self, event: Any) -> None: ...

    class Endless(AggregateRoot):
        loop: list[Any] = []

        def apply(self, event: Any) -> None:
            self.loop = []
            self.loop.append(self.loop)

    shapes = (Aliased, Loose, Enumerated, Mistyped, Surrogate, Indescribable, Unresolved, Endless)
    return [(kind, kind.__name__) for kind in shapes]


def shared() -> list[tuple[type[Any], str]]:
    class Within(AggregateRoot):
        one: tuple[list[str], ...] = ()
        two: tuple[list[str], ...] = ()

        def apply(self, event: Any) -> None:
            self.one = self.two = (["x"],)

    class Bytes(AggregateRoot):
        one: bytearray = bytearray()
        two: bytearray = bytearray()

        def apply(self, event: Any) -> None:
            self.one = self.two = bytearray(b"x")

    class Thawed(AggregateRoot):
        one: Address = Address()
        two: Address = Address()

        def apply(self, event: Any) -> None:
            self.one = self.two = Address("Bonn")

    return [(kind, kind.__name__) for kind in (Within, Bytes, Thawed)]


class Bottomless:
    @property
    def func(self) -> "Bottomless":
        return Bottomless()


def constants() -> list[tuple[type[Any], str]]:
    class Deep(AggregateRoot):
        depth: ClassVar[Bottomless] = Bottomless()

        def apply(self, event: Any) -> None: ...

    return [(Deep, Deep.__name__)]


def instants() -> list[tuple[type[Any], str]]:
    class Zoned(AggregateRoot):
        due: datetime | None = None

        def apply(self, event: Any) -> None:
            self.due = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))

    class Ambiguous(AggregateRoot):
        due: datetime | None = None

        def apply(self, event: Any) -> None:
            self.due = datetime(2026, 10, 25, 2, 30, fold=1)  # noqa: DTZ001 - the second of the two

    return [(kind, kind.__name__) for kind in (Zoned, Ambiguous)]


@pytest.mark.parametrize(
    ("aggregate", "name"),
    shapes() + shared() + constants() + instants(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_state_that_would_not_come_back_as_it_is_gets_no_snapshot(
    aggregate: type[AggregateRoot], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", Renamed("a"))
            for _ in range(3):
                assert (await store.load(aggregate, "s")).version == 1

            assert (store.statistics()["snapshots_taken"], store.statistics()["snapshots_used"]) == (0, 0)

    with caplog.at_level(logging.WARNING, "avx_events"):
        run(scenario())

    assert [record.getMessage().partition(" ")[0].rpartition(".")[2] for record in caplog.records] == [name]


class Bill(AggregateRoot):
    due: datetime = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))

    def apply(self, event: Any) -> None:
        self.due += timedelta(days=180)


def test_a_time_zone_in_the_state_does_not_change_what_a_load_gives() -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", Renamed("a"))
            await store.load(Bill, "s")
            await store.append("s", Renamed("b"))

            assert (await store.load(Bill, "s")).due.isoformat() == "2026-12-27T00:00:00+01:00"

    run(scenario())


class Rich(AggregateRoot):
    numbers: set[int] = set()
    by_name: dict[str, Address] = {}
    pair: tuple[int, str] = (0, "")
    color: Color = Color.RED
    rate: float = float("nan")
    raw: bytes = b""
    maybe: Address | None = None
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    plain: "Plain" = msgspec.field(default_factory=lambda: Plain([]))

    def apply(self, event: Any) -> None:
        self.numbers |= {1, 2, 300}
        self.by_name["work"] = Address("Bonn")  # a dict keeps the order in which it was filled
        self.by_name["home"] = Address("Rome")
        self.pair = (self.pair[0] + 1, "x")
        self.raw += b"\xff"
        self.maybe = Address("Bonn")
        self.plain.words.append("w")


@dataclass
class Plain:
    words: list[str] = field(default_factory=list[str])


def test_rich_state_comes_back_from_a_snapshot_as_it_is() -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=2) as snapshots, EventStore() as none:
            for store in (snapshots, none):
                await store.append("s", [Renamed("a")] * 2)
                await store.load(Rich, "s")
                await store.append("s", Renamed("c"))

            one, other = await snapshots.load(Rich, "s"), await none.load(Rich, "s")

            assert snapshots.statistics()["snapshots_used"] == 1
            assert repr(one) == repr(other)
            assert one.plain == Plain(["w"] * 3)

    run(scenario())


class Point(msgspec.Struct, frozen=True):
    x: int = 0


@dataclass(frozen=True)
class Line:
    start: Point
    end: Point


class Drawing(AggregateRoot):
    colors: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    one: frozenset[int] = frozenset()
    two: frozenset[int] = frozenset()
    first: Line = Line(Point(), Point())
    last: Line = Line(Point(), Point(1))

    def apply(self, event: Any) -> None:
        self.first = self.last
        self.two = self.one


def test_a_state_that_shares_what_cannot_change_comes_back_from_a_snapshot() -> None:
    async def scenario() -> None:
        async with EventStore(snapshot_every=1) as store:
            await store.append("s", Renamed("a"))
            one, other = await store.load(Drawing, "s"), await store.load(Drawing, "s")

            assert one == other
            assert store.statistics()["snapshots_used"] == 1

    run(scenario())


def unknown_event(event_type: str) -> EventEnvelope[UnknownEvent]:
    metadata = EventMetadata("id-1", event_type, "", 1, "id-1")
    return EventEnvelope(UnknownEvent(event_type, {"name": "Ada"}), metadata, event_type)


def test_an_event_type_that_was_unknown_is_applied_once_it_is_known() -> None:
    class Counter(AggregateRoot):
        renames: int = 0

        def apply(self, event: Any) -> None:
            if type(event).__name__ == "Later":
                self.renames += 1

    async def scenario() -> None:
        async with EventStore(snapshot_every=1, unknown="keep") as store:
            await store.append("s", unknown_event("test.aggregate.later"))
            assert [(await store.load(Counter, "s")).renames for _ in range(2)] == [0, 0]

            class Later(Event, event_type="test.aggregate.later"):
                name: str

            assert Later.event_type == "test.aggregate.later"
            assert [(await store.load(Counter, "s")).renames for _ in range(2)] == [1, 1]
            assert store.statistics()["snapshots_used"] == 1

    run(scenario())


def test_a_load_that_keeps_unknown_types_leaves_nothing_to_one_that_refuses_them() -> None:
    async def scenario() -> None:
        engine = MemoryEngine()
        keeping = EventStore(engine, unknown="keep", snapshot_every=1)
        await keeping.append("s", unknown_event("test.aggregate.never"))
        await keeping.load(Person, "s")

        with pytest.raises(UnknownEventTypeError, match=r"test\.aggregate\.never"):
            await EventStore(engine, snapshot_every=1).load(Person, "s")

    run(scenario())


class WithoutSnapshots(MemoryEngine):
    """Keeps events, and fails of snapshots."""

    def __init__(self, *, on_get: AvxEventsError | None = None, on_put: AvxEventsError | None = None) -> None:
        super().__init__()
        self._on_get, self._on_put = on_get, on_put

    async def get_snapshot(self, stream: str, kind: str) -> SnapshotRecord | None:
        if self._on_get is not None:
            raise self._on_get
        return await super().get_snapshot(stream, kind)

    async def put_snapshot(self, snapshot: SnapshotRecord) -> None:
        if self._on_put is not None:
            raise self._on_put
        await super().put_snapshot(snapshot)


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("memory", "no room"),
        StoreSchemaError("memory", "no such table"),
        ClosedError("the event store", "put a snapshot"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_load_does_not_fail_of_its_snapshot(error: AvxEventsError, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        for engine in (WithoutSnapshots(on_get=error), WithoutSnapshots(on_put=error)):
            store = EventStore(engine, snapshot_every=1)
            await store.append("s", Renamed("Ada"))
            assert (await store.load(Person, "s")).name == "Ada"

    with caplog.at_level(logging.WARNING, "avx_events"):
        run(scenario())

    assert [record.getMessage() for record in caplog.records] == [
        f"the snapshot of 's' cannot be read: {error}",
        f"no snapshot of 's' kept: {error}",
    ]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "1"])
def test_snapshots_are_taken_each_so_many_events_or_not_at_all(every: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="snapshot_every"):
        EventStore(snapshot_every=every)
