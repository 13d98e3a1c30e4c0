"""Given, when, then for process managers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from avx_events import Event, ValidationError
from avx_events.core.errors import EventTooLargeError, InvalidArgumentError, NotAnEventError
from avx_events.core.metadata import context, stamp
from avx_events.patterns.process import ProcessManager, on_deadline, reacts, starts
from avx_events.store.stored_event import StoredEvent
from avx_events.testing import ManualClock, process_scenario
from tests.unit.patterns.process.orders import Cancel, Declined, Fulfilment, Noticed, Paid, Pay, Placed, Ship

PLACED = process_scenario(Fulfilment).given(Placed("o-1", 7))
PAID = PLACED.given(Paid("p-1", "o-1"))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_an_event_gives_commands_deadlines_and_state() -> None:
    outcome = process_scenario(Fulfilment).when(Placed("o-1", 7))

    outcome.then(Pay("o-1", 7)).then_deadlines(payment=60).then_state(status="paying", id="o-1").then_goes_on()


def test_what_was_given_is_no_part_of_what_comes() -> None:
    PLACED.when(Paid("p-1", "o-1")).then(Ship("o-1")).then_deadlines().then_state(status="shipping", seen=["o-1"])
    PLACED.then_state(status="paying")


def test_a_deadline_comes() -> None:
    PLACED.when_deadline("payment").then(Cancel("o-1", "no answer")).then_deadlines().then_ended()


def test_a_command_fails() -> None:
    outcome = PAID.when_failed(Ship("o-1"), ValidationError("no lorry"))

    outcome.then(Cancel("o-1", "ValidationError: no lorry")).then_ended()
    PAID.when_failed(Ship("o-1"), "Lost: it").then(Cancel("o-1", "Lost: it"))


def test_a_reaction_may_raise_and_changes_nothing_then() -> None:
    outcome = PLACED.when(Declined("o-1", "bug"))

    outcome.then_raises(ValueError, match="cannot cope").then_nothing().then_state(status="paying").then_deadlines(
        payment=60
    )
    with pytest.raises(AssertionError, match="raised ValueError: cannot cope"):
        PLACED.when(Declined("o-1", "bug")).then_nothing()
    with pytest.raises(ValueError, match="cannot cope"):
        PLACED.given(Declined("o-1", "bug")).when(Noticed("x"))


@pytest.mark.parametrize(
    ("given", "event"),
    [
        ((), Paid("p-1", "o-1")),  # it has not begun
        ((Placed("o-1", 7),), Placed("o-1", 8)),  # it has
        ((Placed("o-1", 7),), Paid("p-1", "o-2")),  # another one's
        ((Placed("o-1", 7),), Noticed("x")),  # none of its events
        ((Placed("o-1", 7), Declined("o-1", "no")), Paid("p-1", "o-1")),  # it has ended
    ],
)
def test_what_a_runner_passes_over_is_passed_over(given: tuple[Any, ...], event: Any) -> None:
    scenario = process_scenario(Fulfilment, "o-1").given(*given)

    scenario.when(event).then_passed_over().then_nothing()


def test_a_process_may_be_named() -> None:
    scenario = process_scenario(Fulfilment, "o-2").given(Placed("o-1", 1), Placed("o-2", 2))

    scenario.when(Paid("p", "o-2")).then(Ship("o-2")).then_state(id="o-2", seen=["o-2"])
    process_scenario(Fulfilment).when(Noticed("x")).then_state(id="new-1").then_passed_over()


class Remembering(ProcessManager, name="remembering"):
    chain: str = ""
    position: int = 0
    count: object = 0

    @starts(Noticed, by="text")
    @reacts(Noticed, by="text")
    def noticed(self, event: Noticed, stored: StoredEvent[Noticed]) -> None:
        self.chain, self.position = stored.metadata.correlation_id, stored.position
        self.deadline("later", at=NOON)

    @on_deadline("later")
    def later(self) -> None: ...

    @reacts(Paid, by="order_id")
    def paid(self, event: Paid) -> None:
        self.count = object()

    @reacts(Declined, by="order_id")
    def declined(self, event: Event) -> None:
        self.send(Cancel("x" * 2_000_000, "too large"))


def test_metadata_that_matters_is_given_in_an_envelope() -> None:
    with context(correlation_id="chain-7"):
        envelope = stamp(Noticed("a"), clock=ManualClock())

    scenario = process_scenario(Remembering).given(Noticed("a"))

    scenario.when(envelope).then_state(chain="chain-7", position=2)


def test_a_deadline_at_an_instant_is_one() -> None:
    process_scenario(Remembering).when(Noticed("a")).then_deadlines(later=NOON)


def test_what_a_runner_could_not_write_fails_here_too() -> None:
    given = process_scenario(Remembering).given(Noticed("a"))

    given.when(Paid("p", "a")).then_raises(TypeError).then_state(count=0)
    given.when(Declined("a", "x")).then_raises(EventTooLargeError).then_nothing()


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (lambda: PLACED.when(Paid("p", "o-1")).then(Ship("o-2")), "(?s)commands are not those.*-     order_id='o-2'"),
        (lambda: PLACED.when(Paid("p", "o-1")).then_nothing(), r"no command .*\n  Ship\(order_id='o-1'\)"),
        (lambda: PLACED.when(Noticed("x")).then_deadlines(), "(?s)the deadlines are not those expected.*payment"),
        (lambda: PLACED.when(Noticed("x")).then_deadlines(payment=61), "(?s)- .*61.*[+] .*60"),
        (lambda: PLACED.when(Noticed("x")).then_ended(), "the process goes on: Fulfilment"),
        (lambda: PLACED.when_deadline("payment").then_goes_on(), "the process has ended: Fulfilment"),
        (lambda: PLACED.when_deadline("payment").then_passed_over(), "has reacted to it"),
        (lambda: PLACED.then_state(status="paid"), "status is 'paying', not 'paid'"),
        (lambda: PLACED.when(Noticed("x")).then_raises(ValueError), "ValueError expected, but nothing was raised"),
    ],
)
def test_a_check_that_fails_says_what_there_is(check: Callable[[], object], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: process_scenario(Pay), "derived from ProcessManager"),  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        (lambda: process_scenario(Fulfilment, ""), "process_id"),
        (lambda: PLACED.when_deadline("shipping"), "a deadline that is to come: 'payment'"),
        (lambda: PAID.when_deadline("payment"), "a deadline that is to come: none"),
        (lambda: PLACED.when_failed(Ship("o-1"), "x"), "one that was sent"),
        (lambda: PLACED.when_failed(Pay("o-1", 7), "x"), "@on_failure"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        make()


@pytest.mark.parametrize("message", [Pay("o-1", 7), Placed, "placed"])
def test_only_events_happen_to_a_process(message: Any) -> None:
    for happen in (PLACED.given, PLACED.when):
        with pytest.raises(NotAnEventError):
            happen(message)
