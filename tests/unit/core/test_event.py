"""How message classes are made, named, registered and refused."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from avx_events.core.codec import decode_data, encode_data
from avx_events.core.errors import (
    DuplicateEventTypeError,
    EventDefinitionError,
    InvalidArgumentError,
    NotAnEventError,
    UsageError,
)
from avx_events.core.event import (
    Command,
    Event,
    EventMeta,
    Message,
    Query,
    Request,
    UnknownEvent,
    class_for,
    current_type,
    event,
    event_type_from,
    recorded_types,
    schema_of,
    types_alike,
    upcast,
)
from avx_events.core.topic import MAX_TOPIC_CHARACTERS, check_topic


class UserCreated(Event, event_type="event.user.created", aggregate_id="user_id"):
    """An event with a key."""

    user_id: str
    email: str = ""


class Kind(Enum):
    """A key that is an enum."""

    A = "a"


class Shade(str, Enum):  # noqa: UP042 - StrEnum prints differently
    """A key that is an enum and text."""

    DARK = "dark"


def made(name: str, /, *bases: type, **namespace: Any) -> Callable[..., Any]:
    """Return a function that makes the class of ``namespace`` with its keywords, as a class statement does."""

    def make(**keywords: Any) -> Any:
        return EventMeta(name, bases or (Event,), {"__module__": __name__, **namespace}, **keywords)

    return make


# Names


@pytest.mark.parametrize(
    ("class_name", "event_type"),
    [
        ("UserCreated", "user.created"),
        ("OrderItemAdded", "order.item.added"),
        ("HTTPError", "http.error"),
        ("ParsedHTTPError", "parsed.http.error"),
        ("Created", "created"),
        ("A", "a"),
        ("AB", "ab"),
        ("V2Released", "v2.released"),
        ("_Private", "private"),
        ("Snake_case", "snake.case"),
        ("Two__Words", "two.words"),
        ("S3ObjectPut", "s3.object.put"),
    ],
)
def test_a_class_name_is_cut_at_its_capitals(class_name: str, event_type: str) -> None:
    assert event_type_from(class_name) == event_type


def test_the_event_type_is_a_class_attribute_and_belongs_to_its_own_class() -> None:
    class NamedByClass(Event):
        pass

    class NamedByParent(NamedByClass):
        pass

    assert NamedByClass.event_type == NamedByClass().event_type == "named.by.class"
    assert NamedByParent.event_type == "named.by.parent"
    assert class_for("named.by.class") is NamedByClass


def test_the_event_type_may_be_written_by_hand() -> None:
    class ByHand(Event):
        event_type = "by.hand"
        number: int

    class Annotated(Event):
        event_type: ClassVar[str] = "by.annotated.hand"
        number: int

    assert ByHand(1).event_type == schema_of(ByHand).event_type == "by.hand"
    assert Annotated(number=1).event_type == schema_of(Annotated).event_type == "by.annotated.hand"


@pytest.mark.parametrize(
    "event_type",
    ["", ".", "a..b", ".a", "a.", "a b", "a.*", "a\n", "a\x00", "a\x9b", "a\ud800", "x" * 1025, 7, b"a", ["a"]],
)
def test_an_event_type_that_is_no_topic_is_refused(event_type: Any) -> None:
    with pytest.raises(EventDefinitionError, match="Odd: event_type"):
        made("Odd")(event_type=event_type)
    with pytest.raises(EventDefinitionError, match="Odd: event_type"):
        made("Odd", event_type=event_type)()
    with pytest.raises(EventDefinitionError, match="Odd: event_type"):
        event(event_type)(dataclass(type("Odd", (), {})))


def test_every_event_type_is_a_topic() -> None:
    for event_type in ("user.created", "ünï.✓", "x" * MAX_TOPIC_CHARACTERS):
        assert check_topic(made("Odd")(event_type=event_type).event_type) == event_type


def test_a_name_without_letters_needs_an_event_type() -> None:
    with pytest.raises(EventDefinitionError, match="event_type"):
        made("_")()


# Duplicates


def test_two_classes_with_one_event_type_are_refused_by_name() -> None:
    class First(Event, event_type="event.claimed"):
        pass

    with pytest.raises(DuplicateEventTypeError) as caught:

        class Second(Event, event_type="event.claimed"):  # pyright: ignore[reportUnusedClass]
            pass

    assert "'event.claimed'" in str(caught.value)
    assert "First" in caught.value.existing
    assert "Second" in caught.value.new
    assert isinstance(caught.value, UsageError)
    assert class_for("event.claimed") is First


def test_a_decorated_class_cannot_take_a_type_either() -> None:
    with pytest.raises(DuplicateEventTypeError, match="Rival"):
        event("event.user.created")(dataclass(type("Rival", (), {})))

    assert class_for("event.user.created") is UserCreated


def test_the_same_class_made_again_by_a_reload_takes_its_place() -> None:
    before = made("Reloaded")(event_type="event.reloaded")
    after = made("Reloaded")(event_type="event.reloaded")

    assert before is not after
    assert class_for("event.reloaded") is after


def test_a_class_that_is_garbage_is_no_duplicate() -> None:
    gc.disable()  # so that the cycle is still there when the next class comes
    try:
        made("Garbage")(event_type="event.garbage")
        successor = made("Successor")(event_type="event.garbage")
    finally:
        gc.enable()

    assert class_for("event.garbage") is successor


def test_a_refused_class_leaves_no_trace() -> None:
    with pytest.raises(EventDefinitionError):
        made("Traceless")(event_type="event.traceless", aggregate_id="missing")

    assert class_for("event.traceless") is None


# Former names


def test_a_class_is_found_by_its_former_names_and_its_type_is_the_current_one() -> None:
    class Placed(Event, event_type="event.order.placed", formerly=("event.order.made", "event.order.created")):
        pass

    assert class_for("event.order.created") is class_for("event.order.made") is Placed
    assert current_type("event.order.created") == current_type("event.order.placed") == Placed.event_type
    assert current_type("event.order.never") == "event.order.never"
    assert types_alike("event.order.made") == ("event.order.placed", "event.order.made", "event.order.created")
    assert types_alike("event.order.never") == ("event.order.never",)


def test_a_decorated_class_has_former_names_too() -> None:
    @event("event.decorated.now", formerly=("event.decorated.then",))
    @dataclass
    class Decorated:
        pass

    assert class_for("event.decorated.then") is Decorated
    assert recorded_types(Decorated) == ("event.decorated.now", "event.decorated.then")


def test_former_names_are_not_inherited() -> None:
    class Family(Event, event_type="event.family", formerly=("event.clan",)):
        pass

    class Child(Family, event_type="event.family.child"):
        pass

    assert recorded_types(Child) == ("event.family.child",)
    assert class_for("event.clan") is Family


def test_a_family_is_recorded_under_the_names_of_all_its_classes() -> None:
    class Base(Event, event_type="event.base", formerly=("event.root",)):
        pass

    class Middle(Base, event_type="event.middle"):
        pass

    leaf = made("Leaf", Middle)(event_type="event.leaf", formerly=("event.twig",))
    before = made("Again", Base)(event_type="event.again.before")
    again = made("Again", Base)(event_type="event.again.before")

    assert recorded_types(Base) == (
        "event.base",
        "event.root",
        "event.middle",
        "event.leaf",
        "event.twig",
        "event.again.before",
    )
    assert {*recorded_types(Base)} < {*recorded_types(Event)}
    assert "event.user.created" in recorded_types(Event)
    assert "event.get" not in recorded_types(Event)
    assert before is not again
    assert recorded_types(Middle) == ("event.middle", *recorded_types(leaf))
    with pytest.raises(NotAnEventError):
        recorded_types(int)


class Get(Request[int], event_type="event.get"):
    """A message that is no event."""


def test_a_former_name_that_another_class_has_or_had_is_refused_with_both() -> None:
    class Holder(Event, event_type="event.held", formerly=("event.was.held",)):
        pass

    for taken in ("event.held", "event.was.held"):
        with pytest.raises(DuplicateEventTypeError, match=f"'{taken}'.*Holder.*Thief.*formerly="):
            made("Thief")(event_type="event.thief", formerly=("event.thief.before", taken))
        with pytest.raises(DuplicateEventTypeError, match="Decorated"):
            event("event.decorated", formerly=(taken,))(dataclass(type("Decorated", (), {})))
    with pytest.raises(DuplicateEventTypeError, match=r"'event\.was\.held'.*Holder.*Heir"):
        made("Heir")(event_type="event.was.held")

    assert class_for("event.thief") is class_for("event.thief.before") is None  # nothing of it was registered
    assert class_for("event.was.held") is Holder


def test_a_renamed_class_that_is_made_again_takes_its_own_former_names() -> None:
    before = made("Renamed")(event_type="event.renamed.before")
    after = made("Renamed")(event_type="event.renamed.after", formerly=("event.renamed.before",))

    assert class_for("event.renamed.before") is class_for("event.renamed.after") is after
    assert schema_of(before).names == ("event.renamed.before",)


@pytest.mark.parametrize(
    ("formerly", "problem"),
    [
        ("odd.before", "must be a tuple of event types"),
        (None, "must be a tuple of event types"),
        ({"odd.before"}, "must be a tuple of event types"),
        (("odd.now",), "its event type today"),
        (("odd.before", "odd.before"), "'odd.before' twice"),
        (("a b",), "event_type must be text in segments"),
        ((7,), "event_type must be text in segments"),
    ],
)
def test_former_names_that_cannot_be_are_refused(formerly: Any, problem: str) -> None:
    with pytest.raises(EventDefinitionError, match=f"Odd: .*{problem}"):
        made("Odd")(event_type="odd.now", formerly=formerly)
    with pytest.raises(EventDefinitionError, match=f"Odd: .*{problem}"):
        event("odd.now", formerly=formerly)(dataclass(type("Odd", (), {})))


# Fields and keywords


@pytest.mark.parametrize("reserved", ["event_type", "aggregate_id"])
def test_reserved_field_names_are_refused_for_every_kind_of_class(reserved: str) -> None:
    with pytest.raises(EventDefinitionError, match=f"Odd: a field cannot be called '{reserved}'"):
        made("Odd", __annotations__={reserved: str})()
    with pytest.raises(EventDefinitionError, match=f"a field cannot be called '{reserved}'"):
        event("odd")(dataclass(type("Odd", (), {"__annotations__": {reserved: str}})))
    with pytest.raises(EventDefinitionError, match=f"a field cannot be called '{reserved}'"):
        event("odd")(pydantic.create_model("Odd", **{reserved: (str, ...)}))  # type: ignore[call-overload]


@pytest.mark.parametrize("revision", [0, -1, 1.5, "2", None, True])
def test_a_revision_is_a_whole_number_from_one(revision: Any) -> None:
    with pytest.raises(EventDefinitionError, match="Odd: revision"):
        made("Odd")(revision=revision)


def test_a_key_that_is_no_field_is_refused_with_the_fields() -> None:
    with pytest.raises(EventDefinitionError, match=r"'user' is none of its fields \('user_id',\)"):
        made("Odd", __annotations__={"user_id": str})(aggregate_id="user")


def test_a_keyword_and_the_same_by_hand_contradict_each_other() -> None:
    with pytest.raises(EventDefinitionError, match="Odd: has aggregate_id="):
        made("Odd", __annotations__={"key": str}, aggregate_id=str)(aggregate_id="key")
    with pytest.raises(EventDefinitionError, match="Odd: has event_type="):
        made("Odd", event_type="odd.one")(event_type="odd.two")


# Aggregate ids


def test_the_aggregate_id_comes_from_its_field_and_is_inherited() -> None:
    class UserInvited(UserCreated, event_type="event.user.invited"):
        by: str = ""

    assert UserCreated("1").aggregate_id() == "1"
    assert UserInvited("2", by="1").aggregate_id() == "2"
    assert schema_of(UserInvited).aggregate_id(UserInvited("3")) == "3"
    assert schema_of(UserInvited).aggregate_field == "user_id"


def test_without_a_key_the_aggregate_id_is_empty() -> None:
    class Keyless(Event, event_type="event.keyless"):
        pass

    assert Keyless().aggregate_id() == ""
    assert schema_of(Keyless).key_of is None


def test_the_aggregate_id_may_be_written_by_hand_and_is_inherited_too() -> None:
    class Moved(Event, event_type="event.moved"):
        x: int
        y: int

        def aggregate_id(self) -> str:
            return f"{self.x}/{self.y}"

    class MovedFar(Moved, event_type="event.moved.far"):
        pass

    class MovedBack(MovedFar, event_type="event.moved.back", aggregate_id="x"):
        pass

    assert schema_of(Moved).aggregate_id(Moved(1, 2)) == Moved(1, 2).aggregate_id() == "1/2"
    assert schema_of(MovedFar).aggregate_id(MovedFar(1, 2)) == "1/2"
    assert schema_of(MovedBack).aggregate_id(MovedBack(1, 2)) == MovedBack(1, 2).aggregate_id() == "1"


def test_a_method_by_hand_replaces_an_inherited_key() -> None:
    class Shouted(UserCreated, event_type="event.shouted"):
        def aggregate_id(self) -> str:
            return self.user_id.upper()

    assert schema_of(Shouted).aggregate_id(Shouted("a")) == "A"
    assert schema_of(Shouted).aggregate_field is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", "a"),
        ("", ""),
        (None, ""),
        (7, "7"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Kind.A, "a"),
        (Shade.DARK, "dark"),
    ],
)
def test_keys_of_any_type_become_text_as_they_are_written_on_the_wire(key: object, expected: str) -> None:
    class Keyed(Event, event_type="event.keyed", aggregate_id="key"):
        key: Any

    found = Keyed(key).aggregate_id()

    assert found == expected
    assert type(found) is str
    assert schema_of(Keyed).aggregate_id(Keyed(key)) == expected


# Values


def test_events_are_immutable_values() -> None:
    created = UserCreated("1", email="a@b.c")

    assert created == UserCreated("1", "a@b.c")
    assert created != UserCreated("2", "a@b.c")
    assert hash(created) == hash(UserCreated("1", "a@b.c"))
    assert repr(created) == "UserCreated(user_id='1', email='a@b.c')"
    with pytest.raises(AttributeError):
        created.email = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_events_match_by_position_and_by_name() -> None:
    match UserCreated("1", "a@b.c"):
        case UserCreated("1", email=email):
            assert email == "a@b.c"
        case _:
            pytest.fail("it is a UserCreated")


def test_struct_options_still_work() -> None:
    class Options(Event, event_type="event.options", kw_only=True, rename="camel", tag=False):
        first_name: str

    assert encode_data(Options(first_name="Ada")) == b'{"firstName":"Ada"}'
    with pytest.raises(TypeError):
        Options("Ada")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# Requests, commands, queries


def test_requests_commands_and_queries_are_messages_of_their_own() -> None:
    class GetUser(Request[UserCreated], event_type="event.get.user", aggregate_id="user_id"):
        user_id: str

    class CreateUser(Command[str], event_type="event.create.user"):
        email: str

    class CountUsers(Query[int], event_type="event.count.users"):
        pass

    for message in (GetUser("1"), CreateUser("a@b.c"), CountUsers()):
        assert decode_data(message.event_type, encode_data(message)) == message
        assert not isinstance(message, Event)
    assert GetUser("1").aggregate_id() == "1"


@pytest.mark.parametrize("root", [Event, Request, Command, Query, Message])
def test_the_roots_are_no_messages_themselves(root: type) -> None:
    with pytest.raises(NotAnEventError):
        schema_of(root)


# By decorator


@event("event.by.dataclass", aggregate_id="order_id", revision=2)
@dataclass(frozen=True, slots=True)
class ByDataclass:
    """A dataclass."""

    order_id: str


@event("event.by.attrs", aggregate_id="order_id", revision=2)
@attrs.frozen
class ByAttrs:
    """An attrs class."""

    order_id: str


@event("event.by.pydantic", aggregate_id="order_id", revision=2)
class ByPydantic(pydantic.BaseModel):
    """A pydantic model."""

    order_id: str


@event("event.by.struct", aggregate_id="order_id", revision=2)
class ByStruct(msgspec.Struct):
    """A plain struct."""

    order_id: str


@pytest.mark.parametrize("decorated", [ByDataclass, ByAttrs, ByPydantic, ByStruct])
def test_a_class_of_another_library_becomes_an_event_by_decorator(decorated: Any) -> None:
    message = decorated(order_id="o-1")
    event_type: str = decorated.event_type

    @upcast(decorated, from_revision=1)
    def rename(data: dict[str, Any]) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"order_id": data["id"]}

    assert message.event_type == event_type
    assert message.aggregate_id() == schema_of(message).aggregate_id(message) == "o-1"
    assert class_for(event_type) is decorated
    assert decode_data(event_type, encode_data(message), revision=2) == message
    assert decode_data(event_type, b'{"id": "o-1"}', revision=1) == message


def test_an_undecorated_child_of_a_decorated_class_is_no_event() -> None:
    class Child(ByPydantic):
        pass

    with pytest.raises(NotAnEventError, match="Child"):
        schema_of(Child(order_id="1"))


def test_a_decorated_child_inherits_the_key() -> None:
    @event("event.by.pydantic.child")
    class Child(ByPydantic):
        pass

    assert schema_of(Child).aggregate_id(Child(order_id="1")) == "1"


def test_a_class_of_no_known_kind_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match="put above theirs"):

        @event("event.plain")
        class Plain:  # pyright: ignore[reportUnusedClass]
            pass


@pytest.mark.parametrize("value", [object(), object, 3, None, UnknownEvent("a", {}), int])
def test_what_is_no_event_is_refused_by_name(value: object) -> None:
    with pytest.raises(NotAnEventError, match="is no event") as caught:
        schema_of(value)

    assert isinstance(caught.value, TypeError)


# Upcasters


@pytest.mark.parametrize("from_revision", [0, 2, 3, -1, "1", None, 1.0, True])
def test_an_upcaster_is_for_an_older_revision(from_revision: Any) -> None:
    class Twice(Event, event_type="event.twice", revision=2):
        pass

    with pytest.raises(InvalidArgumentError, match="from_revision"):
        Twice.upcast(from_revision=from_revision)(dict)


def test_a_revision_has_one_upcaster() -> None:
    class Once(Event, event_type="event.once", revision=2):
        pass

    @Once.upcast(from_revision=1)
    def first(data: dict[str, Any]) -> dict[str, Any]:
        return data

    with pytest.raises(InvalidArgumentError, match="without an upcaster"):
        Once.upcast(from_revision=1)(first)


def test_a_field_may_be_called_upcast() -> None:
    class Tricky(Event, event_type="event.tricky"):
        upcast: str

    assert Tricky("x").upcast == "x"


@pytest.mark.parametrize(
    ("options", "namespace", "problem"),
    [
        ({"frozen": False}, {}, "frozen=False"),
        ({"aggregateid": "id"}, {}, "aggregateid"),
        ({}, {"__annotations__": {"names": list[str]}, "names": ["a"]}, "default"),
    ],
)
def test_what_msgspec_or_we_cannot_make_a_class_of_is_refused_by_name(
    options: dict[str, Any], namespace: dict[str, Any], problem: str
) -> None:
    with pytest.raises(EventDefinitionError, match=f"Odd.*{problem}"):
        EventMeta("Odd", (Event,), {"__module__": __name__, **namespace}, event_type="event.odd", **options)


def test_a_decorator_without_its_call_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match=r"Placed.*@event\('its\.type'\)"):

        @event  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUntypedClassDecorator]  # the mistake
        @dataclass
        class Placed:
            order_id: int


def test_the_keys_of_several_events_are_those_of_each() -> None:
    class Placed(Event, event_type="keys.placed", aggregate_id="order_id"):
        order_id: str

    class Numbered(Event, event_type="keys.numbered"):
        number: int

        def aggregate_id(self) -> str:
            return f"number-{self.number}"

    placed, numbered = schema_of(Placed("a")), schema_of(Numbered(1))

    assert placed.keys_of is not None
    assert placed.keys_of([Placed("a"), Placed("b")]) == ["a", "b"]
    assert numbered.keys_of is not None
    assert numbered.keys_of([Numbered(1), Numbered(2)]) == ["number-1", "number-2"]
