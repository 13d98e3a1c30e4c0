"""What stands around the handlers: the log, the timing, the rules, and the retry where another writer was first."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from avx_events.core.clock import Timer
from avx_events.core.errors import ConcurrencyError, InvalidArgumentError, StoreUnavailableError, ValidationError
from avx_events.core.event import Command, Event, Query
from avx_events.core.policy import Retry
from avx_events.patterns.cqrs import (
    CommandBus,
    Outcome,
    QueryBus,
    log_dispatch,
    retry_on_conflict,
    time_dispatch,
    validate,
)

pytestmark = pytest.mark.timeout(10)


class Rename(Command[str], event_type="middleware.rename"):
    name: str


class RenameLoudly(Rename, event_type="middleware.rename.loudly"):
    pass


class Count(Query[int], event_type="middleware.count"):
    least: int


class Renamed(Event, event_type="middleware.renamed"):
    name: str


class SteppedClock:
    """Each look at it is a quarter of a second later; timers are due at once and remembered."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.delays_s: list[float] = []

    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        self.now_s += 0.25
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        self.delays_s.append(delay_s)
        return asyncio.get_running_loop().call_soon(callback)


class StoppedClock(SteppedClock):
    """Its timers are never due."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = asyncio.Event()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        self.is_waited_for.set()
        return asyncio.get_running_loop().call_later(3600, callback)


def failing_bus(error: BaseException, *middleware: Any) -> CommandBus:
    commands = CommandBus(middleware=middleware)

    @commands.handler
    async def rename(command: Rename) -> str:
        raise error

    return commands


def echoing_bus(*middleware: Any) -> CommandBus:
    commands = CommandBus(middleware=middleware)

    @commands.handler
    async def rename(command: Rename) -> str:
        return command.name

    @commands.handler
    async def rename_loudly(command: RenameLoudly) -> str:
        return command.name.upper()

    return commands


# Log


async def test_a_result_is_logged_with_its_type_and_its_time(caplog: pytest.LogCaptureFixture) -> None:
    commands = echoing_bus(log_dispatch(clock=SteppedClock()))

    with caplog.at_level(logging.INFO, "avx_events.cqrs"):
        await commands.dispatch(Rename("a"))

    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("middleware.rename ")
    assert record.getMessage().endswith(" is done after 250.0 ms")


@pytest.mark.parametrize(
    ("error", "level", "ending", "tracebacks"),
    [
        (ValidationError("Name required"), logging.WARNING, "ms: ValidationError: Name required", 0),
        (KeyError("lost"), logging.ERROR, "ms: KeyError", 1),
        (SystemExit(3), logging.ERROR, "ms: SystemExit", 1),
        (asyncio.CancelledError(), logging.INFO, "was cancelled", 0),
    ],
)
async def test_a_failure_is_logged_as_what_it_is_and_carries_on(
    error: BaseException, level: int, ending: str, tracebacks: int, caplog: pytest.LogCaptureFixture
) -> None:
    commands = failing_bus(error, log_dispatch())

    with caplog.at_level(logging.INFO, "avx_events.cqrs"), pytest.raises(type(error)) as raised:
        await commands.dispatch(Rename("a"))

    (record,) = caplog.records
    assert raised.value is error
    assert (record.levelno, int(bool(record.exc_info))) == (level, tracebacks)
    assert ending in record.getMessage()


async def test_a_logger_of_ones_own_is_used(caplog: pytest.LogCaptureFixture) -> None:
    commands = echoing_bus(log_dispatch(logging.getLogger("mine")))

    with caplog.at_level(logging.INFO, "mine"):
        await commands.dispatch(Rename("a"))

    assert [record.name for record in caplog.records] == ["mine"]


# Timing


@pytest.mark.parametrize(
    ("error", "outcome"), [(KeyError("x"), "failed"), (asyncio.CancelledError(), "cancelled"), (None, "done")]
)
async def test_each_dispatch_is_timed_once_with_how_it_ended(error: BaseException | None, outcome: Outcome) -> None:
    seen: list[tuple[str, float, Outcome]] = []

    def record(event_type: str, elapsed_s: float, ended: Outcome) -> None:
        seen.append((event_type, elapsed_s, ended))

    timing = time_dispatch(record, clock=SteppedClock())
    commands = echoing_bus(timing) if error is None else failing_bus(error, timing)

    try:
        await commands.dispatch(Rename("a"))
    except (KeyError, asyncio.CancelledError) as exc:
        assert exc is error  # noqa: PT017 - cancellation is one of the cases

    assert seen == [("middleware.rename", 0.25, outcome)]


# Rules


def not_empty(command: Rename) -> str | None:
    return None if command.name else "Name required"


def short(command: Rename) -> str | None:
    return "Name too long" if len(command.name) > 3 else None


def no_spaces(command: Rename) -> None:
    if " " in command.name:
        raise ValidationError("No spaces")


async def test_a_message_that_keeps_all_rules_reaches_its_handler() -> None:
    commands = echoing_bus(validate({Rename: [not_empty, short, no_spaces]}))

    assert await commands.dispatch(Rename("abc")) == "abc"


async def test_all_that_is_wrong_is_said_at_once() -> None:
    commands = echoing_bus(validate({Rename: [not_empty, short, no_spaces]}))

    with pytest.raises(ValidationError, match=r"^Name too long; No spaces$"):
        await commands.dispatch(Rename("a b c"))
    with pytest.raises(ValidationError, match=r"^Name required$"):
        await commands.dispatch(Rename(""))


async def test_the_rules_of_a_base_count_for_what_is_derived_from_it() -> None:
    commands = echoing_bus(validate({Rename: not_empty, RenameLoudly: short}))

    with pytest.raises(ValidationError, match="Name required"):
        await commands.dispatch(RenameLoudly(""))
    with pytest.raises(ValidationError, match="Name too long"):
        await commands.dispatch(RenameLoudly("abcd"))
    assert await commands.dispatch(Rename("abcd")) == "abcd"


async def test_queries_have_rules_too_and_others_pass() -> None:
    queries = QueryBus(middleware=[validate({Count: lambda query: "Too few" if query.least < 0 else None})])

    @queries.handler
    async def count(query: Count) -> int:
        return query.least

    assert await queries.ask(Count(3)) == 3
    with pytest.raises(ValidationError, match="Too few"):
        await queries.ask(Count(-1))


async def test_the_handler_does_not_see_what_breaks_a_rule() -> None:
    seen: list[Rename] = []
    commands = CommandBus(middleware=[validate({Rename: not_empty})])

    @commands.handler
    async def rename(command: Rename) -> str:
        seen.append(command)
        return ""

    with pytest.raises(ValidationError):
        await commands.dispatch(Rename(""))

    assert seen == []


@pytest.mark.parametrize("answer", [True, False, 0, ["Name required"]])
async def test_a_rule_that_answers_with_anything_but_text_or_none_is_an_error_that_names_it(answer: object) -> None:
    def is_fine(command: Rename) -> Any:
        return answer

    commands = echoing_bus(validate({Rename: is_fine}))

    with pytest.raises(InvalidArgumentError, match="is_fine must be a rule that returns what is wrong as text, or"):
        await commands.dispatch(Rename("a"))


async def asynchronous(command: Rename) -> None:
    del command


@pytest.mark.parametrize(
    "rules",
    [
        None,
        [not_empty],
        {Renamed: not_empty},
        {"Rename": not_empty},
        {Rename: None},
        {Rename: 5},
        {Rename: [asynchronous]},
        {Rename: ["not empty"]},
    ],
)
def test_rules_that_cannot_be_asked_are_refused_when_they_are_given(rules: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="rules must be"):
        validate(rules)


# Retry


async def test_a_conflict_is_tried_again_until_it_succeeds() -> None:
    clock, attempts = SteppedClock(), 0
    commands = CommandBus(middleware=[retry_on_conflict(Retry(attempts=3, initial_s=8, max_s=9), clock=clock)])

    @commands.handler
    async def rename(command: Rename) -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConcurrencyError("user-1", expected=1, actual=2)
        return command.name

    assert await commands.dispatch(Rename("a")) == "a"

    assert attempts == 3
    assert len(clock.delays_s) == 2
    assert all(0 < delay_s <= most_s for delay_s, most_s in zip(clock.delays_s, (8, 9), strict=True))


async def test_the_pauses_of_two_writers_differ() -> None:
    clock = SteppedClock()
    commands = failing_bus(
        ConcurrencyError("user-1", expected=1, actual=2),
        retry_on_conflict(Retry(attempts=20, initial_s=1, max_s=1), clock=clock),
    )

    with pytest.raises(ConcurrencyError):
        await commands.dispatch(Rename("a"))

    assert len(set(clock.delays_s)) > 1


async def test_the_last_conflict_reaches_the_dispatcher() -> None:
    clock = SteppedClock()
    error = ConcurrencyError("user-1", expected=1, actual=2)
    commands = failing_bus(error, retry_on_conflict(Retry(attempts=4), clock=clock))

    with pytest.raises(ConcurrencyError) as raised:
        await commands.dispatch(Rename("a"))

    assert raised.value is error
    assert len(clock.delays_s) == 3


@pytest.mark.parametrize("error", [StoreUnavailableError("sqlite://", "full"), ValidationError("no"), KeyError("x")])
async def test_nothing_but_a_conflict_is_tried_again(error: Exception) -> None:
    clock = SteppedClock()
    commands = failing_bus(error, retry_on_conflict(clock=clock))

    with pytest.raises(type(error)) as raised:
        await commands.dispatch(Rename("a"))

    assert raised.value is error
    assert clock.delays_s == []


async def test_a_dispatch_that_is_cancelled_between_two_attempts_leaves_nothing_running() -> None:
    clock = StoppedClock()
    conflict = ConcurrencyError("user-1", expected=1, actual=2)
    commands = failing_bus(conflict, retry_on_conflict(Retry(attempts=2, initial_s=3600, max_s=3600), clock=clock))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(commands.dispatch(Rename("a")))
        await clock.is_waited_for.wait()
        task.cancel()

    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
