"""How a projection is written, and what is refused when its class is made."""

from dataclasses import dataclass
from typing import Any

import pytest

from avx_events.core.errors import InvalidArgumentError, NotAnEventError, ProjectionDefinitionError
from avx_events.core.event import Command, Event, Query, Request, event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent


class Opened(Event, event_type="definition.opened"):
    pass


class OpenedByHand(Opened, event_type="definition.opened.by.hand"):
    pass


class Closed(Event, event_type="definition.closed"):
    pass


class Doors(Projection, name="doors", version=3):
    @handles(Opened)
    async def open(self, event: Opened, connection: Connection) -> None: ...

    @handles(Opened, Closed)
    async def count(self, event: Event, connection: Connection, stored: StoredEvent[Any]) -> None: ...


def test_a_projection_has_the_name_and_version_of_its_keywords() -> None:
    assert (Doors.name, Doors.version) == ("doors", 3)


def test_a_version_that_is_not_given_is_one() -> None:
    class Windows(Projection, name="windows"):
        pass

    assert Windows.version == 1


def test_a_derived_projection_has_the_name_of_its_base_unless_it_has_one() -> None:
    class SameDoors(Doors, version=4):
        pass

    class OtherDoors(Doors, name="other-doors"):
        pass

    assert (SameDoors.name, SameDoors.version) == ("doors", 4)
    assert (OtherDoors.name, OtherDoors.version) == ("other-doors", 3)


@pytest.mark.parametrize(
    ("event_class", "count"), [(Opened, 2), (OpenedByHand, 2), (Closed, 1), (Event, 0), (int, 0)], ids=str
)
def test_a_method_handles_its_classes_and_what_is_derived_from_them(event_class: type, count: int) -> None:
    assert len(Doors().effects_of(event_class)) == count


def test_a_method_for_event_handles_every_event() -> None:
    class Journal(Projection, name="journal"):
        @handles(Event)
        async def write(self, event: Event, connection: Connection) -> None: ...

    assert [len(Journal().effects_of(event_class)) for event_class in (Opened, Closed)] == [1, 1]


def test_an_overridden_method_stays_a_handler() -> None:
    class LoudDoors(Doors):
        async def open(self, event: Opened, connection: Connection) -> None: ...

    assert len(LoudDoors().effects_of(Opened)) == 2


def test_decorators_add_up() -> None:
    class Both(Projection, name="both"):
        @handles(Opened)
        @handles(Closed)
        async def note(self, event: Event, connection: Connection) -> None: ...

    assert [len(Both().effects_of(event_class)) for event_class in (Opened, Closed)] == [1, 1]


@pytest.mark.parametrize("wrong", [int, "Opened", None])
def test_what_is_no_event_class_cannot_be_handled(wrong: Any) -> None:
    with pytest.raises(NotAnEventError):
        handles(wrong)


class Open(Command[int], event_type="definition.open"):
    pass


class IsOpen(Query[bool], event_type="definition.is.open"):
    pass


class AskForKey(Request[int], event_type="definition.ask.for.key"):
    pass


@pytest.mark.parametrize("wrong", [Open, IsOpen, AskForKey, Command, Query, Request])
def test_what_one_handler_answers_is_no_event_to_a_projection(wrong: Any) -> None:
    with pytest.raises(NotAnEventError, match="a projection handles events"):
        handles(Opened, wrong)


def test_handling_no_class_at_all_is_refused() -> None:
    with pytest.raises(ProjectionDefinitionError, match="name the event classes"):
        handles()


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a" * 201, 3])
def test_a_name_that_is_no_short_printable_text_is_refused(name: Any) -> None:
    with pytest.raises(ProjectionDefinitionError, match="name= must be printable text"):
        type("Odd", (Projection,), {}, name=name)


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1"])
def test_a_version_that_is_no_whole_number_from_one_is_refused(version: Any) -> None:
    with pytest.raises(ProjectionDefinitionError, match="version= must be a whole number"):
        type("Odd", (Projection,), {}, name="odd", version=version)


def plain(self: Any, event: Any, connection: Any) -> None: ...


async def takes_too_little(self: Any, event: Any) -> None: ...


async def takes_too_much(self: Any, event: Any, connection: Any, stored: Any, more: Any) -> None: ...


async def takes_keywords(self: Any, event: Any, connection: Any, *, stored: Any) -> None: ...


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (plain, "add must be an 'async def' method"),
        (takes_too_little, "add must take"),
        (takes_too_much, "add must take"),
        (takes_keywords, "add: parameter 'stored' is by keyword only"),
    ],
)
def test_a_method_that_cannot_be_called_is_refused(method: Any, problem: str) -> None:
    with pytest.raises(ProjectionDefinitionError, match=f"Odd: {problem}"):
        type("Odd", (Projection,), {"add": handles(Opened)(method)}, name="odd")


def nameless() -> Projection:
    class Nameless(Projection):
        @handles(Opened)
        async def add(self, event: Opened, connection: Connection) -> None: ...

    return Nameless()


def without_handlers() -> Projection:
    class Idle(Projection, name="idle"):
        pass

    return Idle()


@pytest.mark.parametrize("wrong", [Doors, 3, nameless(), without_handlers()])
def test_a_projector_refuses_what_it_cannot_run(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="projections must be objects of a Projection class"):
        Projector(EventStore(), wrong)


def test_a_projector_refuses_to_run_nothing_or_two_of_one_name() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one projection"):
        Projector(EventStore())
    with pytest.raises(InvalidArgumentError, match="two are called 'doors'"):
        Projector(EventStore(), Doors(), Doors())


@pytest.mark.parametrize("numbers", [{"batch_events": 0}, {"timeout_s": 0}, {"timeout_s": float("inf")}])
def test_a_projector_refuses_numbers_outside_of_their_range(numbers: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(numbers))):
        Projector(EventStore(), Doors(), **numbers)


def test_a_method_for_event_handles_decorated_classes_too() -> None:
    @event("projection.by.hand")
    @dataclass(frozen=True)
    class ByHand:
        number: int

    class Journal(Projection, name="journal"):
        @handles(Event)
        async def write(self, event: Any, connection: Connection) -> None: ...

    assert len(Journal().effects_of(ByHand)) == 1
