"""How process managers are written, and what is said to who writes one that cannot be."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import pytest

from avx_events import Command, Event, EventStore, Query, Request, event
from avx_events.core.errors import InvalidArgumentError, NotAnEventError, ProcessDefinitionError
from avx_events.patterns.cqrs import CommandBus
from avx_events.patterns.process import ProcessManager, ProcessRunner, on_deadline, on_failure, reacts, starts
from avx_events.patterns.process.process_manager import SetDeadline, call_reaction, definition_of, take_wishes
from avx_events.store.stored_event import microseconds_of
from tests.unit.patterns.process.orders import Cancel, Declined, Fulfilment, Paid, Pay, Placed, Ship

WRONG_METHODS: dict[str, Callable[[], object]] = {}


def wrong(problem: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Have ``make`` tried, which makes a class that cannot be; its error says ``problem``."""

    def keep(make: Callable[[], object]) -> Callable[[], object]:
        WRONG_METHODS[problem] = make
        return make

    return keep


class Starting(ProcessManager, name="starting"):
    @starts(Placed)
    def placed(self, event: Placed) -> None: ...


@wrong("every field needs a default")
def field_without_default() -> object:
    class Wrong(Starting, name="wrong"):
        count: int

    return Wrong


@wrong("'send' is given by ProcessManager")
def reserved_method() -> object:
    class Wrong(Starting, name="wrong"):
        def send(self) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]

    return Wrong


@wrong("'id' is given by ProcessManager")
def reserved_field() -> object:
    class Wrong(Starting, name="wrong"):
        id: str = ""  # pyright: ignore[reportIncompatibleMethodOverride]

    return Wrong


@wrong("paid must be a plain method")
def async_method() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        async def paid(self, event: Paid) -> None: ...

    return Wrong


@wrong("reminded must be a plain method")
def generator_method() -> object:
    class Wrong(Starting, name="wrong"):
        @on_deadline("reminder")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        def reminded(self) -> Generator[None, None, None]:
            yield

    return Wrong


@wrong("streamed must be a plain method")
def async_generator_method() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        async def streamed(self, event: Paid) -> AsyncGenerator[None, None]:
            yield

    return Wrong


@wrong("frozen must be a plain method")
def static_method() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)
        @staticmethod
        def frozen(event: Paid) -> None: ...

    return Wrong


@wrong("nothing_taken must take (self, event)")
def too_few_arguments() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)
        def nothing_taken(self) -> None: ...

    return Wrong


@wrong("much_taken must take (self, event)")
def too_many_arguments() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)
        def much_taken(self, event: Paid, stored: Any, more: int) -> None: ...

    return Wrong


@wrong("parameter 'more' is by keyword only")
def keyword_argument() -> object:
    class Wrong(Starting, name="wrong"):
        @reacts(Paid)
        def paid(self, event: Paid, *, more: int) -> None: ...

    return Wrong


@wrong("late must take (self)")
def deadline_with_argument() -> object:
    class Wrong(Starting, name="wrong"):
        @on_deadline("late")
        def late(self, event: Paid) -> None: ...

    return Wrong


@wrong("failed must take (self, command, error)")
def failure_without_error() -> object:
    class Wrong(Starting, name="wrong"):
        @on_failure(Pay)
        def failed(self, command: Pay) -> None: ...

    return Wrong


@wrong("failed: name the command classes")
def failure_of_nothing() -> object:
    class Wrong(Starting, name="wrong"):
        @on_failure()
        def failed(self, command: Pay, error: str) -> None: ...

    return Wrong


@wrong("is no command class")
def failure_of_an_event() -> object:
    class Wrong(Starting, name="wrong"):
        @on_failure(Paid)
        def failed(self, command: Pay, error: str) -> None: ...

    return Wrong


@wrong("the failure of Pay has two methods")
def two_failures() -> object:
    class Wrong(Starting, name="wrong"):
        @on_failure(Pay)
        def one(self, command: Pay, error: str) -> None: ...

        @on_failure(Ship, Pay)
        def two(self, command: Pay, error: str) -> None: ...

    return Wrong


@wrong("deadline 'late' has two methods")
def two_deadlines() -> object:
    class Wrong(Starting, name="wrong"):
        @on_deadline("late")
        def one(self) -> None: ...

        @on_deadline("late")
        def two(self) -> None: ...

    return Wrong


@wrong("a deadline needs a name, not 'a\\x00b'")
def unprintable_deadline() -> object:
    class Wrong(Starting, name="wrong"):
        @on_deadline("a\0b")
        def one(self) -> None: ...

    return Wrong


@wrong("a deadline needs a name, not ' '")
def nameless_deadline() -> object:
    class Wrong(Starting, name="wrong"):
        @on_deadline(" ")
        def one(self) -> None: ...

    return Wrong


@wrong("needs a method that @starts")
def no_start() -> object:
    class Wrong(ProcessManager, name="wrong"):
        @reacts(Placed)
        def placed(self, event: Placed) -> None: ...

    return Wrong


@wrong("name= must be printable text")
def no_name() -> object:
    class Wrong(ProcessManager):
        @starts(Placed)
        def placed(self, event: Placed) -> None: ...

    return Wrong


@wrong("takes no class keyword but name=, not frozen")
def other_keyword() -> object:
    class Wrong(ProcessManager, name="wrong", frozen=True):  # type: ignore[call-arg]  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        @starts(Placed)
        def placed(self, event: Placed) -> None: ...

    return Wrong


@wrong("by='customer' is no field of Placed")
def by_no_field() -> object:
    return starts(Placed, by="customer")


@wrong("by= must be the name of a field, or a function")
def by_number() -> object:
    return starts(Placed, by=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@wrong("name the event classes, as @starts(OrderPlaced)")
def no_event() -> object:
    return starts()


@wrong("Pay is answered by one handler and never stored")
def command_as_event() -> object:
    return reacts(Pay)


@pytest.mark.parametrize("problem", WRONG_METHODS)
def test_a_class_that_cannot_be_is_refused_with_what_is_wrong(problem: str) -> None:
    with pytest.raises(ProcessDefinitionError) as refusal:
        WRONG_METHODS[problem]()

    assert problem in str(refusal.value)


def test_what_is_no_event_class_is_none_for_a_process() -> None:
    class Plain: ...

    for not_an_event in (Plain, int, "Placed", Placed("o-1", 1)):
        with pytest.raises(NotAnEventError):
            starts(not_an_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("message_class", [Query, Request])
def test_no_message_that_one_handler_answers_is_for_a_process(message_class: type) -> None:
    with pytest.raises(ProcessDefinitionError, match="never stored"):
        reacts(message_class)


async def test_fields_that_cannot_be_read_back_are_refused_where_it_is_run() -> None:
    class One(msgspec.Struct):
        a: int = 0

    class Two(msgspec.Struct):
        a: int = 0

    class Ambiguous(Starting, name="ambiguous"):
        which: One | Two | None = None

    async with EventStore() as store:
        with pytest.raises(ProcessDefinitionError, match="its state cannot be kept"):
            ProcessRunner(store, Ambiguous, commands=CommandBus())


# What a process may wish for


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "unknown", "after_s": 1}, "the name of an @on_deadline method: 'payment'"),
        ({}, "either after_s= in seconds or at="),
        ({"after_s": 1, "at": datetime.now(UTC)}, "either after_s="),
        ({"after_s": 0}, "more than 0"),
        ({"after_s": float("nan")}, "more than 0"),
        ({"after_s": 1e300}, "100 years"),
        ({"at": datetime(2026, 1, 1)}, "with a time zone"),  # noqa: DTZ001
        ({"at": "tomorrow"}, "with a time zone"),
    ],
)
def test_a_deadline_that_cannot_come_is_refused_where_it_is_set(arguments: dict[str, Any], problem: str) -> None:
    process = Fulfilment("o-1")
    given: dict[str, Any] = {"name": "payment", **arguments}

    with pytest.raises(InvalidArgumentError, match=problem):
        process.deadline(**given)
    assert take_wishes(process) == []


def test_a_deadline_that_no_method_has_cannot_be_cancelled() -> None:
    with pytest.raises(InvalidArgumentError, match="the name of an @on_deadline method"):
        Fulfilment("o-1").cancel("unknown")


def test_only_commands_are_sent() -> None:
    process = Fulfilment("o-1")

    for message in (Placed("o-1", 1), Pay, "pay", None):
        with pytest.raises(NotAnEventError):
            process.send(message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_process_has_an_id_and_a_state_of_its_own() -> None:
    one, two = Fulfilment("o-1"), Fulfilment("o-2")

    one.seen.append("x")
    one.end()

    assert (two.seen, two.is_ended) == ([], False)
    assert repr(one) == "Fulfilment('o-1', ended, status='new', seen=['x'])"
    for not_an_id in ("", " ", None, 7):
        with pytest.raises(InvalidArgumentError, match="process_id"):
            Fulfilment(not_an_id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Inheritance


class Noting(ProcessManager, name="noting"):
    notes: list[str] = []  # noqa: RUF012 - each process has its own

    @starts(Placed, by="order_id")
    def begin(self, event: Placed) -> None:
        self.notes.append("begin")

    @reacts(Paid, by="order_id")
    def go_on(self, event: Paid) -> None:
        self.notes.append("base")

    @on_deadline("late")
    def late(self) -> None: ...

    @on_failure(Pay)
    def unpaid(self, command: Pay, error: str) -> None: ...


def reactions_of(process_class: type[ProcessManager]) -> dict[str, tuple[str, tuple[type, ...]]]:
    return {each.method: (each.kind, each.event_classes) for each in definition_of(process_class).reactions}


def test_an_overriding_method_without_a_mark_stays_what_it_overrides() -> None:
    class Louder(Noting, name="louder"):
        def go_on(self, event: Paid) -> None:
            self.notes.append("louder")

        def late(self) -> None: ...

    assert reactions_of(Louder) == reactions_of(Noting)
    assert definition_of(Louder).deadlines == {"late": "late"}
    assert definition_of(Louder).failures == {Pay: "unpaid"}


def test_an_overriding_method_with_marks_has_those_only() -> None:
    class Other(Noting, name="other"):
        @reacts(Declined)
        def go_on(self, event: Declined) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]

    assert reactions_of(Other)["go_on"] == ("reacts", (Declined,))
    assert reactions_of(Noting)["go_on"] == ("reacts", (Paid,))


def test_a_reaction_that_is_overridden_by_no_method_is_none() -> None:
    class Silent(Noting, name="silent"):
        go_on: ClassVar[None] = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]

    assert reactions_of(Silent) == {"begin": ("starts", (Placed,))}


def test_a_mixin_that_overrides_a_reaction_of_one_class_is_no_reaction_of_another() -> None:
    class Quiet:
        def go_on(self, event: object) -> None: ...

    class One(Quiet, Noting, name="one"): ...

    class Two(Quiet, Starting, name="two"): ...

    assert reactions_of(One)["go_on"] == ("reacts", (Paid,))
    assert reactions_of(Two) == {"placed": ("starts", (Placed,))}


def test_reactions_can_come_from_a_mixin() -> None:
    class Cancelling:
        @reacts(Declined)
        def declined(self, event: Declined) -> None: ...

    class One(Cancelling, Starting, name="one"): ...

    class Two(Cancelling, Noting, name="two"): ...

    assert reactions_of(One)["declined"] == ("reacts", (Declined,))
    assert reactions_of(Two) == {**reactions_of(Noting), "declined": ("reacts", (Declined,))}


def test_a_method_may_have_several_marks() -> None:
    class Both(ProcessManager, name="both"):
        @starts(Placed)
        @reacts(Placed, Declined)
        def seen(self, event: Placed | Declined) -> None: ...

    found = [(each.kind, each.event_classes) for each in definition_of(Both).reactions]

    assert sorted(found, key=str) == [("reacts", (Placed, Declined)), ("starts", (Placed,))]


# Which events, and whose


class Money(Event, event_type="process.money"):
    order: int = 0


class Refunded(Money, event_type="process.money.refunded"): ...


@event("process.weighed", aggregate_id="parcel")
@dataclass(frozen=True)
class Weighed:
    parcel: str
    grams: int


class Watching(ProcessManager, name="watching"):
    @starts(Money, by=lambda money: money.order)
    def money(self, event: Money) -> None: ...

    @reacts(Weighed)
    def weighed(self, event: Weighed) -> None: ...


def test_a_base_class_counts_for_its_family() -> None:
    definition = definition_of(Watching)

    [reaction] = definition.of_class(Refunded)

    assert (reaction.method, reaction.id_of(Refunded(7))) == ("money", "7")
    assert definition.of_class(Placed) == ()


def test_an_event_of_a_decorated_class_has_its_aggregate_id() -> None:
    [reaction] = definition_of(Watching).of_class(Weighed)

    assert reaction.id_of(Weighed("p-1", 5)) == "p-1"


@pytest.mark.parametrize("order", ["o" * 1_025, "a\0b", "\ud800"])
def test_an_id_that_no_process_can_have_is_refused(order: str) -> None:
    [reaction] = definition_of(Fulfilment).of_class(Placed)

    with pytest.raises(InvalidArgumentError, match="process id must be text of 1 to 1,024 characters"):
        reaction.id_of(Placed(order, 1))


def test_an_event_without_an_id_belongs_to_no_process() -> None:
    [reaction] = definition_of(Fulfilment).of_class(Placed)

    assert reaction.id_of(Placed("", 1)) == ""


def test_the_failure_of_a_derived_command_is_that_of_its_base() -> None:
    class PayTwice(Pay, event_type="process.pay.twice"): ...

    definition = definition_of(Noting)

    assert definition.failure_method(PayTwice) == "unpaid"
    assert definition.failure_method(Cancel) is None
    assert definition.failure_method(Command) is None


def test_a_deadline_ahead_of_all_calendars_can_be_told_as_an_instant() -> None:
    at = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    process = Fulfilment("o-1")

    process.deadline("payment", at=at)

    assert take_wishes(process) == [SetDeadline("payment", None, microseconds_of(at))]


async def test_a_method_whose_wrapper_hides_that_it_is_asynchronous_is_found_when_it_is_called() -> None:
    def hidden(method: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        def wrapper(process: ProcessManager, placed: Placed) -> Any:
            return method(process, placed)

        return wrapper

    class Hidden(ProcessManager, name="hidden"):
        @starts(Placed)
        @hidden
        async def placed(self, event: Placed) -> None: ...

    with pytest.raises(ProcessDefinitionError, match="placed must be a plain method"):
        call_reaction(Hidden("o-1"), "placed", Placed("o-1", 1))
