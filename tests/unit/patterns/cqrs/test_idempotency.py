"""A command with an idempotency key is carried out once: one after another, at the same time, and after a restart."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from avx_events.core.clock import Timer
from avx_events.core.errors import (
    EncodeError,
    HandlerDefinitionError,
    HandlerTimeoutError,
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    ResultNotKeptError,
    StoreSchemaError,
    TransactionError,
    ValidationError,
)
from avx_events.core.event import Command, Event, Query
from avx_events.patterns.cqrs import CommandBus, QueryBus, idempotency_key
from avx_events.patterns.cqrs.ledgers import MOST_IN_MEMORY
from avx_events.store.event_store import EventStore
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

ResultT = TypeVar("ResultT")
KEY = {"idempotency-key": "k-1"}


class Receipt(msgspec.Struct):
    number: int
    lines: list[str] = []


class Order(Command[Receipt], event_type="shop.order"):
    what: str


class Cancel(Command[None], event_type="shop.cancel"):
    what: str


class Count(Query[int], event_type="shop.count"):
    pass


class OwnedClock:
    """Its time is set by the test; its timers are due at once and move it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def time_ns(self) -> int:
        return int(self.now_s * 1_000_000_000)

    def monotonic(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        self.now_s += delay_s
        return asyncio.get_running_loop().call_soon(callback)


class Shop:
    """Counts what it carried out; can be told to wait or to fail."""

    def __init__(self) -> None:
        self.carried_out: list[str] = []
        self.failures: list[BaseException] = []
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    def commands(self, *middleware: Any) -> CommandBus:
        commands = CommandBus(middleware=middleware)

        @commands.handler
        async def order(command: Order) -> Receipt:
            self.started.set()
            await self.may_end.wait()
            self.carried_out.append(command.what)
            if self.failures:
                raise self.failures.pop(0)
            return Receipt(len(self.carried_out), [command.what])

        @commands.handler
        async def cancel(command: Cancel) -> None:
            self.carried_out.append(f"not {command.what}")

        return commands


@asynccontextmanager
async def waiting_for_the_database(
    store: EventStore, commands: CommandBus, tasks: asyncio.TaskGroup
) -> AsyncGenerator[asyncio.Task[Receipt], None]:
    """Hold a transaction open, and behind it an order whose claim waits for its turn."""
    lock_is_held = asyncio.Event()

    async def dispatch() -> Receipt:  # its context is not the transaction's
        await lock_is_held.wait()
        return await commands.dispatch(Order("tea"), headers=KEY)

    claiming = tasks.create_task(dispatch())
    async with store.transaction():
        lock_is_held.set()
        for _ in range(20):  # turns of the loop, in which the claim gets into the line
            await asyncio.sleep(0)
        yield claiming


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventStore | None, None]:
    if request.param == "memory":
        yield None
        return
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as opened:
        yield opened


async def test_a_repeated_dispatch_gives_the_first_result(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))

    first = await commands.dispatch(Order("tea"), headers=KEY)
    second = await commands.dispatch(Order("tea"), headers=KEY)

    assert first == second == Receipt(1, ["tea"])
    assert first is not second
    assert shop.carried_out == ["tea"]


async def test_another_key_is_another_command(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))

    await commands.dispatch(Order("tea"), headers=KEY)
    receipt = await commands.dispatch(Order("tea"), headers={"idempotency-key": "k-2"})

    assert receipt.number == 2


async def test_a_key_belongs_to_one_command_class(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))

    await commands.dispatch(Order("tea"), headers=KEY)
    await commands.dispatch(Cancel("tea"), headers=KEY)
    await commands.dispatch(Cancel("tea"), headers=KEY)

    assert shop.carried_out == ["tea", "not tea"]


async def test_a_command_without_a_key_is_carried_out_each_time(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))

    await commands.dispatch(Order("tea"))
    receipt = await commands.dispatch(Order("tea"))

    assert receipt.number == 2


async def test_the_key_may_come_from_the_command_itself(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store, key=lambda envelope: f"{envelope.event.what}"))

    for what in ("tea", "milk", "tea"):
        await commands.dispatch(Order(what))

    assert shop.carried_out == ["tea", "milk"]


async def test_a_query_passes_whatever_its_headers_say(store: EventStore | None) -> None:
    queries, answers = QueryBus(middleware=[idempotency_key(store)]), iter([1, 2])

    @queries.handler
    async def count(query: Count) -> int:
        return next(answers)

    assert [await queries.ask(Count(), headers=KEY) for _ in range(2)] == [1, 2]


async def test_a_key_that_comes_with_other_values_is_refused(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))
    await commands.dispatch(Order("tea"), headers=KEY)

    with pytest.raises(IdempotencyKeyReusedError, match=r"'k-1' was used for another 'shop\.order'"):
        await commands.dispatch(Order("milk"), headers=KEY)

    assert shop.carried_out == ["tea"]


async def test_dispatches_at_the_same_time_give_the_result_of_the_one_that_is_carried_out(
    store: EventStore | None,
) -> None:
    shop = Shop()
    shop.may_end.clear()
    commands = shop.commands(idempotency_key(store))

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(commands.dispatch(Order("tea"), headers=KEY)) for _ in range(10)]
        await shop.started.wait()
        shop.may_end.set()

    assert [task.result().number for task in found] == [1] * 10
    assert shop.carried_out == ["tea"]


@pytest.mark.parametrize("failure", [ValidationError("no tea"), KeyError("tea"), SystemExit(3)])
async def test_a_failure_reaches_its_caller_as_it_is_and_the_key_is_free_again(
    store: EventStore | None, failure: BaseException
) -> None:
    shop = Shop()
    shop.failures = [failure]
    commands = shop.commands(idempotency_key(store))

    with pytest.raises(type(failure)) as raised:
        await commands.dispatch(Order("tea"), headers=KEY)
    receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert raised.value is failure
    assert receipt.number == 2


async def test_one_who_waited_carries_the_command_out_where_the_first_failed(store: EventStore | None) -> None:
    shop = Shop()
    shop.failures = [ValidationError("no tea yet")]
    shop.may_end.clear()
    commands = shop.commands(idempotency_key(store))
    outcomes: list[object] = []

    async def dispatch() -> None:
        try:
            outcomes.append((await commands.dispatch(Order("tea"), headers=KEY)).number)
        except ValidationError as exc:
            outcomes.append(str(exc))

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(dispatch())
        await shop.started.wait()
        shop.may_end.set()

    assert outcomes == ["no tea yet", 2, 2]


async def test_a_cancelled_attempt_frees_the_key_and_leaves_nothing_running(store: EventStore | None) -> None:
    shop = Shop()
    shop.may_end.clear()
    commands = shop.commands(idempotency_key(store))

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
        await shop.started.wait()
        first.cancel()
    shop.may_end.set()
    receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert first.cancelled()
    assert receipt.number == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_dispatch_that_is_cancelled_while_its_result_is_kept_is_not_carried_out_again(tmp_path: Path) -> None:
    shop, clock = Shop(), OwnedClock()
    shop.may_end.clear()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store, clock=clock))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
            await shop.started.wait()
            async with store.transaction():
                shop.may_end.set()
                await until(lambda: shop.carried_out)
                first.cancel()
                await asyncio.wait([first])  # inside of what the keeping waits for
        clock.now_s += 66
        receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert first.cancelled()
    assert receipt.number == 1
    assert shop.carried_out == ["tea"]


async def test_a_dispatch_that_is_cancelled_while_its_key_is_freed_leaves_it_free(tmp_path: Path) -> None:
    shop = Shop()
    shop.failures = [ValidationError("no tea")]
    shop.may_end.clear()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
            await shop.started.wait()
            async with store.transaction():
                shop.may_end.set()
                await until(lambda: shop.carried_out)
                first.cancel()
        receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert first.cancelled()
    assert receipt.number == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_dispatch_that_is_cancelled_while_it_claims_its_key_leaves_it_free(tmp_path: Path) -> None:
    shop = Shop()
    numbers: list[int] = []
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store))
        for turns in range(60):  # of the loop, after which it is cancelled
            headers = {"idempotency-key": f"{turns}"}
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(commands.dispatch(Order("tea"), headers=headers))
                for _ in range(turns):
                    await asyncio.sleep(0)
                first.cancel()
            numbers.append((await commands.dispatch(Order("tea"), headers=headers)).number)

    assert numbers == list(range(1, 61))


async def test_whoever_holds_the_database_can_cancel_a_dispatch_and_wait_for_it(tmp_path: Path) -> None:
    shop = Shop()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store))

        async with asyncio.TaskGroup() as tasks, waiting_for_the_database(store, commands, tasks) as claiming:
            claiming.cancel()
            await asyncio.wait([claiming])
        receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert claiming.cancelled()
    assert receipt.number == 1


async def test_what_a_cancelled_dispatch_could_not_keep_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    shop.may_end.clear()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
            await shop.started.wait()
            async with store.transaction() as connection:
                await connection.execute("DROP TABLE avx_idempotency")
                shop.may_end.set()
                await until(lambda: shop.carried_out)
                first.cancel()

    assert first.cancelled()
    assert "could not keep the result of shop.order 'k-1'" in caplog.text


async def test_an_attempt_that_takes_too_long_is_ended_and_the_key_is_free(store: EventStore | None) -> None:
    shop = Shop()
    shop.may_end.clear()
    commands = shop.commands(idempotency_key(store, timeout_s=0.01))

    with pytest.raises(HandlerTimeoutError, match=r"shop\.order did not finish within 0\.01 s"):
        await commands.dispatch(Order("tea"), headers=KEY)
    shop.may_end.set()

    assert (await commands.dispatch(Order("tea"), headers=KEY)).number == 1


async def test_a_timeout_of_the_handlers_own_stays_its_own(store: EventStore | None) -> None:
    shop = Shop()
    shop.failures = [TimeoutError("the till")]
    commands = shop.commands(idempotency_key(store))

    with pytest.raises(TimeoutError, match="the till") as raised:
        await commands.dispatch(Order("tea"), headers=KEY)

    assert type(raised.value) is TimeoutError


async def test_a_result_is_forgotten_when_it_expires(store: EventStore | None) -> None:
    shop, clock = Shop(), OwnedClock()
    commands = shop.commands(idempotency_key(store, expires_s=100, clock=clock))

    numbers: list[int] = []
    for at_s in (0, 99, 101):
        clock.now_s = 1_000 + at_s
        numbers.append((await commands.dispatch(Order("tea"), headers=KEY)).number)

    assert numbers == [1, 1, 2]


async def test_what_expired_leaves_the_table(tmp_path: Path) -> None:
    shop, clock = Shop(), OwnedClock()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store:
        commands = shop.commands(idempotency_key(store, expires_s=100, clock=clock))
        for number in range(20):
            await commands.dispatch(Order("tea"), headers={"idempotency-key": f"old {number}"})
        clock.now_s += 101
        for number in range(5):
            await commands.dispatch(Order("tea"), headers={"idempotency-key": f"new {number}"})

        async with store.transaction() as connection:
            kept = await connection.fetch("SELECT key FROM avx_idempotency ORDER BY key")

    assert kept == [(f"new {number}",) for number in range(5)]


async def test_in_memory_the_oldest_result_goes_first() -> None:
    commands = CommandBus(middleware=[idempotency_key()])
    carried_out = 0

    @commands.handler
    async def cancel(command: Cancel) -> None:
        nonlocal carried_out
        carried_out += 1

    for number in range(MOST_IN_MEMORY + 1):
        await commands.dispatch(Cancel("tea"), headers={"idempotency-key": f"{number}"})
    await commands.dispatch(Cancel("tea"), headers={"idempotency-key": f"{MOST_IN_MEMORY}"})
    assert carried_out == MOST_IN_MEMORY + 1

    await commands.dispatch(Cancel("tea"), headers={"idempotency-key": "0"})
    assert carried_out == MOST_IN_MEMORY + 2


async def test_in_memory_a_command_that_takes_long_is_not_forgotten_for_those_that_end_meanwhile() -> None:
    shop = Shop()
    shop.may_end.clear()
    commands = shop.commands(idempotency_key())

    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
        await shop.started.wait()
        for number in range(MOST_IN_MEMORY):
            await commands.dispatch(Cancel("milk"), headers={"idempotency-key": f"{number}"})
        shop.may_end.set()
    for number in range(MOST_IN_MEMORY - 1):
        await commands.dispatch(Cancel("salt"), headers={"idempotency-key": f"later {number}"})
    await commands.dispatch(Order("tea"), headers=KEY)

    assert shop.carried_out.count("tea") == 1


async def test_a_result_outlives_the_process_that_kept_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop()

    numbers: list[int] = []
    for _ in range(2):
        async with await EventStore.connect(url) as store:
            commands = shop.commands(idempotency_key(store))
            numbers.append((await commands.dispatch(Order("tea"), headers=KEY)).number)

    assert numbers == [1, 1]


async def test_another_process_waits_for_the_result_of_the_one_that_carries_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop, clock = Shop(), OwnedClock()
    shop.may_end.clear()
    async with await EventStore.connect(url) as ours, await EventStore.connect(url) as theirs, asyncio.timeout(10):
        here = shop.commands(idempotency_key(ours))
        there = shop.commands(idempotency_key(theirs))

        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(here.dispatch(Order("tea"), headers=KEY))
            await shop.started.wait()
            second = tasks.create_task(there.dispatch(Order("tea"), headers=KEY))
            with pytest.raises(IdempotencyKeyReusedError):  # it sees the claim of the other process
                await shop.commands(idempotency_key(theirs, clock=clock)).dispatch(Order("milk"), headers=KEY)
            shop.may_end.set()

    assert (first.result().number, second.result().number) == (1, 1)
    assert shop.carried_out == ["tea"]


async def test_the_claim_of_a_process_that_died_ends(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop, clock = Shop(), OwnedClock()
    async with await EventStore.connect(url) as store:
        commands = shop.commands(idempotency_key(store, timeout_s=30, clock=clock))
        await commands.dispatch(Order("tea"), headers=KEY)
        async with store.transaction() as connection:  # as it is when the process dies before it keeps the result
            until_us = (1_000 + 35) * 1_000_000
            await connection.execute("UPDATE avx_idempotency SET outcome = NULL, until_us = ?", until_us)

        receipt = await commands.dispatch(Order("tea"), headers=KEY)

    assert receipt.number == 2
    assert clock.now_s >= 1_035


async def test_a_claim_begins_when_it_is_there_however_long_it_waited_for_the_database(tmp_path: Path) -> None:
    shop, clock = Shop(), OwnedClock()
    shop.may_end.clear()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store, clock=clock))

        async with asyncio.TaskGroup() as tasks:
            async with waiting_for_the_database(store, commands, tasks) as first:
                clock.now_s += 66
            await shop.started.wait()
            [(until_us,)] = await store.fetch("SELECT until_us FROM avx_idempotency")
            shop.may_end.set()

    assert first.result().number == 1
    assert until_us == (1_000 + 66 + 65) * 1_000_000


async def test_a_claim_that_was_taken_over_does_not_overwrite_the_result_of_its_successor(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop()
    shop.may_end.clear()
    async with await EventStore.connect(url) as store, asyncio.timeout(10):
        commands = shop.commands(idempotency_key(store))
        async with asyncio.TaskGroup() as tasks:
            late = tasks.create_task(commands.dispatch(Order("tea"), headers=KEY))
            await shop.started.wait()
            async with store.transaction() as connection:
                await connection.execute(
                    "UPDATE avx_idempotency SET owner = 'successor', outcome = ?", b'{"number":7,"lines":[]}'
                )
            shop.may_end.set()
        again = await commands.dispatch(Order("tea"), headers=KEY)

    assert late.result().number == 1
    assert again.number == 7


# Results


async def test_a_command_without_a_result_type_keeps_anything_json_can_carry(store: EventStore | None) -> None:
    class Untyped(Command[ResultT], Generic[ResultT], event_type="shop.untyped"):
        pass

    commands = CommandBus(middleware=[idempotency_key(store)])

    @commands.handler
    async def handle(command: Untyped[Any]) -> Any:
        return {"a": [1, None]}

    untyped: Untyped[Any] = Untyped()
    assert [await commands.dispatch(untyped, headers=KEY) for _ in range(2)] == [{"a": [1, None]}] * 2


class QuotedResult(Command["Receipt"], event_type="shop.quoted"):
    pass


async def test_a_quoted_result_type_is_looked_up_in_the_module_of_the_command(store: EventStore | None) -> None:
    commands = CommandBus(middleware=[idempotency_key(store)])

    @commands.handler
    async def handle(command: QuotedResult) -> Receipt:
        return Receipt(1)

    assert [await commands.dispatch(QuotedResult(), headers=KEY) for _ in range(2)] == [Receipt(1)] * 2


async def test_a_result_that_does_not_fit_its_type_is_said_to_the_first_and_to_all_who_repeat(
    store: EventStore | None,
) -> None:
    commands, carried_out = CommandBus(middleware=[idempotency_key(store)]), 0

    @commands.handler
    async def order(command: Order) -> Any:
        nonlocal carried_out
        carried_out += 1
        return "no receipt"

    with pytest.raises(ResultNotKeptError, match=r"'shop\.order' was carried out.*'k-1'.*Expected `object`") as raised:
        await commands.dispatch(Order("tea"), headers=KEY)
    assert raised.value.result == "no receipt"
    with pytest.raises(ResultNotKeptError, match="Expected `object`"):
        await commands.dispatch(Order("tea"), headers=KEY)
    assert carried_out == 1


async def test_a_kept_result_that_no_longer_fits_its_type_is_said_to_whoever_repeats(tmp_path: Path) -> None:
    shop = Shop()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store:
        commands = shop.commands(idempotency_key(store))
        await commands.dispatch(Order("tea"), headers=KEY)
        async with store.transaction() as connection:  # as an earlier release left it, whose result was a number
            await connection.execute("UPDATE avx_idempotency SET outcome = ?", b"17")

        with pytest.raises(
            ResultNotKeptError, match=r"was carried out.* cannot be read .*Expected `object`, got `int`"
        ):
            await commands.dispatch(Order("tea"), headers=KEY)

    assert shop.carried_out == ["tea"]


async def test_a_result_that_the_store_refuses_is_given_with_the_error(tmp_path: Path) -> None:
    store = await EventStore.connect(f"sqlite:///{tmp_path}/shop.db")
    commands = CommandBus(middleware=[idempotency_key(store)])

    @commands.handler
    async def order(command: Order) -> Receipt:
        await store.close()
        return Receipt(1)

    with pytest.raises(ResultNotKeptError, match="was carried out") as raised:
        await commands.dispatch(Order("tea"), headers=KEY)

    assert raised.value.result == Receipt(1)


async def test_a_failure_is_not_hidden_by_a_store_that_cannot_free_the_key(tmp_path: Path) -> None:
    store = await EventStore.connect(f"sqlite:///{tmp_path}/shop.db")
    commands = CommandBus(middleware=[idempotency_key(store, timeout_s=30)])

    @commands.handler
    async def order(command: Order) -> Receipt:
        await store.close()
        raise ValidationError("no tea")

    with pytest.raises(ValidationError, match="no tea") as raised:
        await commands.dispatch(Order("tea"), headers=KEY)

    assert "'k-1' stays claimed for up to 30 s more" in raised.value.__notes__[0]


async def test_a_result_type_that_json_cannot_be_read_into_is_refused_before_anything_is_done() -> None:
    class OneOrOther(Command[Receipt | Order], event_type="shop.one.or.other"):
        pass

    commands = CommandBus(middleware=[idempotency_key()])
    carried_out: list[object] = []

    @commands.handler
    async def handle(command: OneOrOther) -> Receipt | Order:
        carried_out.append(command)
        return Receipt(1)

    with pytest.raises(HandlerDefinitionError, match=r"OneOrOther: its result type .* cannot be written as JSON"):
        await commands.dispatch(OneOrOther(), headers=KEY)

    assert carried_out == []


async def test_a_command_that_cannot_be_written_is_refused_before_anything_is_done(store: EventStore | None) -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(store))

    with pytest.raises(EncodeError, match="lone surrogate"):
        await commands.dispatch(Order("\ud800"), headers=KEY)

    assert shop.carried_out == []


# Arguments


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "a\0b", "\ud800"])
async def test_a_key_that_is_no_short_printable_text_is_refused(store: EventStore | None, key: str) -> None:
    commands = Shop().commands(idempotency_key(store))

    with pytest.raises(InvalidArgumentError, match="idempotency key must be text of 1 to 255 printable characters"):
        await commands.dispatch(Order("tea"), headers={"idempotency-key": key})


@pytest.mark.parametrize("times", [{"timeout_s": 0}, {"timeout_s": float("inf")}, {"expires_s": -1}])
def test_times_that_never_end_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError, match="_s must be"):
        idempotency_key(**times)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_store_without_a_database_is_refused() -> None:
    shop = Shop()
    commands = shop.commands(idempotency_key(EventStore()))

    with pytest.raises(TransactionError, match="sqlite://"):
        await commands.dispatch(Order("tea"), headers=KEY)

    assert shop.carried_out == []


async def test_a_table_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    shop = Shop()
    async with await EventStore.connect(f"sqlite:///{tmp_path}/shop.db") as store:
        async with store.transaction() as connection:
            await connection.execute("INSERT INTO avx_schema VALUES ('idempotency', 99)")
        commands = shop.commands(idempotency_key(store))

        with pytest.raises(StoreSchemaError, match="idempotency are at version 99, newer than 1"):
            await commands.dispatch(Order("tea"), headers=KEY)

    assert shop.carried_out == []


# Messages that were renamed


def carrying_out(command_class: Any, work: Callable[[Any], Any], middleware: Any) -> CommandBus:
    """Return a bus on which ``work`` carries out the commands of a class that a function made."""

    async def carry_out(command: Any) -> Any:
        return work(command)

    carry_out.__annotations__["command"] = command_class
    commands = CommandBus(middleware=[middleware])
    commands.handler(carry_out)
    return commands


def pay_class(event_type: str, *formerly: str) -> Any:
    """Return the class of one command under a name, which takes the place of the one made before."""

    class Pay(Command[int], event_type=event_type, formerly=formerly):
        __qualname__ = "Pay"
        amount: int

    return Pay


async def test_a_key_that_was_used_under_a_former_name_of_the_command_is_used(store: EventStore | None) -> None:
    once, paid = idempotency_key(store), list[int]()

    def pay(command: Any) -> int:
        paid.append(command.amount)
        return len(paid)

    for names in (("shop.pay",), ("shop.settle", "shop.pay"), ("shop.clear", "shop.settle", "shop.pay")):
        command_class = pay_class(*names)
        assert await carrying_out(command_class, pay, once).dispatch(command_class(7), headers=KEY) == 1

    assert paid == [7]


def packed_class() -> Any:
    """Return the class of an event as it was."""

    class Packed(Event, event_type="shop.packed"):
        __qualname__ = "Packed"
        what: str

    return Packed


def parcelled_class() -> Any:
    """Return the class of that event as it is, which takes the place of the one made before."""

    class Packed(Event, event_type="shop.parcelled", formerly=("shop.packed",), revision=2):
        __qualname__ = "Packed"
        items: list[str]

    @Packed.upcast(from_revision=1)
    def listed(data: dict[str, Any]) -> dict[str, Any]:
        return {"items": [data["what"]]}

    return Packed


def pack_class(result: Any) -> Any:
    """Return the class of a command that gives the event."""

    class Pack(Command[result], event_type="shop.pack"):
        __qualname__ = "Pack"
        what: str

    return Pack


async def test_a_result_that_is_an_event_is_read_back_as_its_class_is_today(store: EventStore | None) -> None:
    old = packed_class()
    middleware = idempotency_key(store)
    was = pack_class(old)
    commands = carrying_out(was, lambda command: old(command.what), middleware)
    assert await commands.dispatch(was("tea"), headers=KEY) == old("tea")

    new = parcelled_class()
    now = pack_class(new)
    commands = carrying_out(now, lambda _: pytest.fail("it was carried out"), middleware)

    assert await commands.dispatch(now("tea"), headers=KEY) == new(["tea"])


async def test_a_result_that_is_another_event_than_the_command_gives_is_not_kept() -> None:
    command_class = pack_class(packed_class())
    commands = carrying_out(command_class, lambda _: 7, idempotency_key())

    with pytest.raises(ResultNotKeptError, match="Expected `Packed`, got `int`"):
        await commands.dispatch(command_class("tea"), headers=KEY)
