"""Given, when, then for aggregates, command handlers and projections."""

import gc
from dataclasses import dataclass
from typing import Any

import pytest

from avx_events import Command, Event, EventEnvelope, event
from avx_events.core.errors import (
    ConcurrencyError,
    DecodeError,
    InvalidArgumentError,
    NotAnEventError,
    StreamNotFoundError,
    UnknownEventTypeError,
    ValidationError,
)
from avx_events.core.metadata import stamp
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.cqrs import CommandHandler, retry_on_conflict
from avx_events.patterns.projection import Projection, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent
from avx_events.testing import ManualClock, command_scenario, projection_scenario, read_back, scenario


class Opened(Event, event_type="scenario.opened", aggregate_id="account"):
    account: str
    owner: str


class Paid(Event, event_type="scenario.paid", aggregate_id="account"):
    account: str
    amount: int


class Listed(Event, event_type="scenario.listed", aggregate_id="account", revision=2):
    account: str
    entries: tuple[str, ...]


@Listed.upcast(from_revision=1)
def one_entry_becomes_several(data: dict[str, Any]) -> dict[str, Any]:
    return {"account": data["account"], "entries": [data["entry"]]}


class Noted(Event, event_type="scenario.noted"):
    text: str


@event("scenario.frozen", aggregate_id="account")
@dataclass(frozen=True)
class Frozen:
    account: str


class Account(AggregateRoot):
    owner: str = ""
    balance: int = 0
    is_frozen: bool = False
    entries: list[str] = []  # noqa: RUF012 - a mutable default is each instance's own

    def apply(self, event: object) -> None:
        match event:
            case Listed(entries=entries):
                self.entries.extend(entries)
            case Opened(owner=owner):
                self.owner = owner
            case Paid(amount=amount):
                self.balance += amount
            case Frozen():
                self.is_frozen = True
            case _:
                pass

    @property
    def is_rich(self) -> bool:
        return self.balance > 1000

    def pay(self, amount: int) -> int:
        if self.is_frozen:
            raise ValidationError("the account is frozen")
        self.record(Paid(self.id, amount))
        return self.balance

    async def pay_later(self, amount: int) -> int:
        return self.pay(amount)

    def freeze_and_fail(self) -> None:
        self.record(Frozen(self.id))
        raise ValidationError("frozen for good")


class Pay(Command[int], event_type="scenario.pay"):
    account: str
    amount: int


class PayHandler(CommandHandler[Pay, int]):
    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def handle(self, command: Pay) -> int:
        account = await self._store.load(Account, command.account)
        balance = account.pay(command.amount)
        await self._store.save(account)
        return balance


class Balances(Projection, name="balances"):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE balances (account TEXT PRIMARY KEY, balance INTEGER, paid_us INTEGER)")

    @handles(Opened)
    async def open(self, event: Opened, connection: Connection) -> None:
        await connection.execute("INSERT INTO balances VALUES (?, 0, 0)", event.account)

    @handles(Paid)
    async def pay(self, event: Paid, connection: Connection, stored: StoredEvent[Paid]) -> None:
        if event.amount < 0:
            raise ValueError("an amount below 0")
        sql = "UPDATE balances SET balance = balance + ?, paid_us = ? WHERE account = ?"
        await connection.execute(sql, event.amount, stored.metadata.timestamp, event.account)


# Aggregates


def test_an_action_gives_the_events_it_recorded_the_state_and_the_result() -> None:
    given = scenario(Account).given(Opened("a", "Jane"), Paid("a", 5))

    given.when(lambda account: account.pay(3)).then(Paid("a", 3)).then_state(balance=8, owner="Jane").then_returns(8)
    given.when(lambda account: account.owner).then_nothing().then_returns("Jane")


def test_an_aggregate_is_at_the_id_and_version_of_what_was_given() -> None:
    given = scenario(Account).given(Noted("first"), Opened("a", "Jane"), Frozen("a"))

    given.when(lambda account: (account.id, account.version)).then_returns(("a", 3))
    scenario(Account, "b").when(lambda account: (account.id, account.version)).then_returns(("b", 0))
    scenario(Account).when(lambda account: account.id).then_returns("new-1")


def test_what_was_given_alone_makes_a_state_that_can_be_checked() -> None:
    opened = scenario(Account).given(Opened("a", "Jane"))

    opened.then_state(owner="Jane", balance=0)
    opened.given(Paid("a", 2000)).then_state(balance=2000, is_rich=True)
    opened.then_state(balance=0)


def test_envelopes_may_be_given() -> None:
    scenario(Account).given(stamp(Paid("a", 5), clock=ManualClock())).then_state(balance=5)


def test_an_action_may_raise() -> None:
    frozen = scenario(Account).given(Opened("a", "Jane"), Frozen("a"))

    frozen.when(lambda account: account.pay(3)).then_raises(ValidationError, match="is frozen").then_nothing()
    frozen.when(lambda account: account.pay(3)).then_raises(Exception).then_state(balance=0)
    scenario(Account, "a").when(Account.freeze_and_fail).then_raises(ValidationError).then(Frozen("a"))


def test_other_events_than_expected_are_shown_field_by_field() -> None:
    outcome = scenario(Account, "a").when(lambda account: account.pay(3))

    with pytest.raises(AssertionError) as raised:
        outcome.then(Paid("a", 4), Frozen("a"))

    assert str(raised.value).splitlines() == [
        "the events are not those expected (- expected, + actual):",
        "  Paid(",
        "      account='a',",
        "-     amount=4,",
        "+     amount=3,",
        "  )",
        "- Frozen(",
        "-     account='a',",
        "- )",
    ]


def test_what_else_is_not_as_expected_is_said() -> None:
    outcome = scenario(Account, "a").when(lambda account: account.pay(3))

    with pytest.raises(AssertionError, match=r"no event expected, but there are:\n  Paid\(account='a', amount=3\)"):
        outcome.then_nothing()
    with pytest.raises(AssertionError, match=r"(?s)result is not the one expected.*- 4\n\+ 3"):
        outcome.then_returns(4)
    with pytest.raises(AssertionError, match=r"balance is 3, not 4\n  colour is not there, 'red' expected"):
        outcome.then_state(balance=4, colour="red", owner="")
    with pytest.raises(AssertionError, match=r"ValueError expected, but nothing was raised; it gave:\n  Paid"):
        outcome.then_raises(ValueError)
    with pytest.raises(AssertionError, match=r"nothing was raised; it gave:\n  the result 0, and no event"):
        scenario(Account).when(lambda account: account.balance).then_raises(ValueError)


def test_a_long_value_of_the_state_shows_where_it_differs() -> None:
    words = [f"word-{number}" for number in range(20)]

    with pytest.raises(AssertionError) as raised:
        scenario(Account).given(Opened("a", " ".join(words)), Listed("a", (*words, "x"))).then_state(
            owner=" ".join(words), entries=[*words, "y"]
        )

    assert str(raised.value).splitlines() == [
        "the state of Account is not as expected:",
        "  entries is another one (- expected, + actual):",
        "    -  'y']",
        "    +  'x']",
    ]


def test_events_as_they_were_once_written_may_be_given() -> None:
    old = read_back("scenario.listed", {"account": "a", "entry": "x"}, revision=1)

    assert old == Listed("a", ("x",))
    scenario(Account).given(old).then_state(entries=["x"])
    assert read_back("scenario.listed", {"account": "a", "entries": ["x"]}, revision=2) == old
    with pytest.raises(DecodeError, match="revision 3 is newer"):
        read_back("scenario.listed", {}, revision=3)
    with pytest.raises(UnknownEventTypeError):
        read_back("scenario.forgotten", {})


def test_an_error_that_nobody_expects_fails_every_other_check() -> None:
    outcome = scenario(Account).given(Frozen("a")).when(lambda account: account.pay(3))

    for check in (outcome.then, outcome.then_nothing, outcome.then_state, lambda: outcome.then_returns(None)):
        with pytest.raises(AssertionError, match="raised ValidationError: the account is frozen") as raised:
            check()
        assert isinstance(raised.value.__cause__, ValidationError)
    with pytest.raises(AssertionError, match="ValueError expected, not ValidationError: the account is frozen"):
        outcome.then_raises(ValueError)
    with pytest.raises(AssertionError, match="the text of ValidationError does not match 'closed': the account"):
        outcome.then_raises(ValidationError, match="closed")


async def test_an_asynchronous_action_is_done_when_it_is_awaited() -> None:
    opened = scenario(Account).given(Opened("a", "Jane"))

    await opened.when_async(lambda account: account.pay_later(3)).then(Paid("a", 3)).then_state(balance=3)
    await opened.when_async(lambda account: account.pay_later(3)).then_returns(3)
    await opened.given(Frozen("a")).when_async(lambda account: account.pay_later(3)).then_raises(ValidationError)
    with pytest.raises(AssertionError, match=r"amount=4"):
        await opened.when_async(lambda account: account.pay_later(3)).then(Paid("a", 4))
    with pytest.raises(AssertionError, match="raised ValidationError"):
        await opened.given(Frozen("a")).when_async(lambda account: account.pay_later(3))


def test_an_asynchronous_action_is_refused_where_nobody_awaits_it() -> None:
    with pytest.raises(InvalidArgumentError, match="when_async"):
        scenario(Account).when(lambda account: account.pay_later(3))


def test_a_scenario_that_nobody_awaits_is_warned_of() -> None:
    def forget_to_await() -> None:
        scenario(Account).when_async(lambda account: account.pay_later(3)).then_nothing()
        gc.collect()

    with pytest.warns(RuntimeWarning, match="_play_the_scenario' was never awaited"):
        forget_to_await()


def test_what_is_no_event_or_no_aggregate_is_refused() -> None:
    with pytest.raises(NotAnEventError):
        scenario(Account).given("opened")
    with pytest.raises(NotAnEventError):
        scenario(Account).given(Opened)
    with pytest.raises(InvalidArgumentError, match="AggregateRoot"):
        scenario(Opened)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# Command handlers


async def test_a_command_gives_the_events_that_its_handler_appended_and_the_result() -> None:
    opened = command_scenario(PayHandler).given(Opened("a", "Jane"), Paid("a", 5))

    await opened.when(Pay("a", 3)).then(Paid("a", 3)).then_returns(8)
    await opened.when(Pay("a", 4)).then(Paid("a", 4)).then_returns(9)


async def test_a_command_may_be_refused() -> None:
    frozen = command_scenario(PayHandler).given(Opened("a", "Jane")).given(Frozen("a"))

    await frozen.when(Pay("a", 3)).then_raises(ValidationError, match="frozen").then_nothing()
    await frozen.when(Pay("b", 3)).then_raises(StreamNotFoundError)
    with pytest.raises(AssertionError, match="raised ValidationError"):
        await frozen.when(Pay("a", 3)).then_nothing()
    with pytest.raises(AssertionError, match="raised ValidationError"):
        await frozen.when(Pay("a", 3))


async def test_events_may_be_given_to_a_stream_by_name() -> None:
    given = command_scenario(PayHandler).given(Noted("x"), Paid("a", 1), stream="account-1")

    await given.when(Pay("account-1", 3)).then(Paid("account-1", 3)).then_returns(4)
    with pytest.raises(InvalidArgumentError, match="for a Noted: it has no aggregate id"):
        command_scenario(PayHandler).given(Noted("x"))
    with pytest.raises(NotAnEventError):
        command_scenario(PayHandler).given("x")


async def test_a_handler_may_be_a_function_made_with_the_store_and_stand_behind_middleware() -> None:
    tries: list[int] = []

    def make_handler(store: EventStore) -> object:
        async def pay(command: Pay, envelope: EventEnvelope[Pay]) -> int:
            tries.append(command.amount)
            if len(tries) < 3:
                raise ConcurrencyError(command.account, expected=1, actual=2)
            await store.append(command.account, Paid(command.account, envelope.metadata.timestamp))
            return len(tries)

        return pay

    clock = ManualClock()
    retrying = command_scenario(make_handler, middleware=[retry_on_conflict()], clock=clock)

    await retrying.when(Pay("a", 3)).then(Paid("a", clock.time_ns() // 1000)).then_returns(3)


# Projections


async def test_a_projection_gives_rows() -> None:
    opened = projection_scenario(Balances()).given(Opened("a", "Jane"), Paid("a", 5))

    await (
        opened.when(Paid("a", 3), Opened("b", "John"))
        .then_rows("SELECT account, balance FROM balances ORDER BY account", ("a", 8), ("b", 0))
        .then_rows("SELECT balance FROM balances WHERE account = ?", (8,), params=["a"])
        .then_rows("SELECT balance FROM balances WHERE account = 'c'")
    )
    await opened.when().then_rows("SELECT account, balance FROM balances", ("a", 5))


async def test_a_projection_sees_the_metadata_of_envelopes() -> None:
    envelope = stamp(Paid("a", 3), clock=ManualClock())

    pending = projection_scenario(Balances()).given(Opened("a", "Jane")).when(envelope, stream="a")

    await pending.then_rows("SELECT paid_us FROM balances", (envelope.metadata.timestamp,))


async def test_other_rows_than_expected_are_shown() -> None:
    pending = projection_scenario(Balances()).when(Opened("a", "Jane"), Paid("a", 5))

    with pytest.raises(
        AssertionError, match=r"(?s)rows are not those expected .*'SELECT .*- \('a', 4\)\n\+ \('a', 5\)"
    ):
        await pending.then_rows("SELECT account, balance FROM balances", ("a", 4))


async def test_a_projection_may_fail() -> None:
    opened = projection_scenario(Balances()).given(Opened("a", "Jane"))

    await opened.when(Paid("a", -1)).then_raises(ValueError, match="below 0")
    with pytest.raises(AssertionError, match="raised ValueError: an amount below 0"):
        await opened.when(Paid("a", -1)).then_rows("SELECT * FROM balances")
