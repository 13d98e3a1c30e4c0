"""Commands and deadlines: who carries them out and when, what is left behind, and what a runner that is late may do."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from avx_events import EventStore, Retry, ValidationError
from avx_events.core.errors import ProcessFailedError, StoreUnavailableError
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.process import ProcessManager, ProcessRunner, on_deadline, starts
from avx_events.patterns.tables import execute
from avx_events.store.ports import Connection
from avx_events.testing import ManualClock
from tests.unit.patterns.process.orders import Cancel, Fulfilment, Noticed, Paid, Pay, Placed, Ship
from tests.unit.patterns.process.shop import NO_PAUSE, Shop, Stop, opened
from tests.unit.patterns.process.test_runner import store_damaged
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)

TAKEN_BY_ANOTHER = "UPDATE avx_relays SET owner = 'another', until_us = ?"


class WatchedStore(EventStore):
    """A store that counts its transactions, and whose next ones may fail."""

    transactions = 0
    failures = 0

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        self.transactions += 1
        return self._failing() if self.failures else super().transaction()

    @asynccontextmanager
    async def _failing(self) -> AsyncGenerator[Connection, None]:
        self.failures -= 1
        async with super().transaction() as connection:
            yield connection
            raise StoreUnavailableError("sqlite://", "it is away")


async def take_lease(store: EventStore, *, until_us: int) -> None:
    """Have another runner hold the lease until then."""
    async with store.transaction() as connection:
        await execute(connection, TAKEN_BY_ANOTHER, until_us)


async def turns(count: int = 200) -> None:
    """Let all that can go on do so, for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


class Twice(ProcessManager, name="twice"):
    @starts(Placed)
    def placed(self, event: Placed) -> None:
        self.send(Pay(self.id, event.total))
        self.send(Ship(self.id))


async def test_while_a_command_waits_to_be_tried_again_the_database_has_rest(tmp_path: Path) -> None:
    clock = ManualClock()
    async with await WatchedStore.connect(f"sqlite:///{tmp_path}/store.db", clock=clock) as store:
        shop = Shop(store, answer="")
        failures = [OSError("away")]

        async def flaky(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if failures:
                raise failures.pop()
            return await call_next(envelope)

        shop.bus.use(flaky)
        retry = Retry(attempts=3, initial_s=1_000, max_s=1_000)
        async with ProcessRunner(store, Twice, commands=shop.bus, retry=retry, clock=clock) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await until(lambda: runner.statistics().failed_attempts)
            await until(lambda: not runner.statistics().running)
            await asyncio.to_thread(lambda: None)
            before = store.transactions
            for _ in range(20):
                await asyncio.to_thread(lambda: None)  # SQLite's thread has had its turn
            assert store.transactions - before <= 2
            assert min(clock.pauses_s) > 0
            assert shop.done == []

            clock.advance(1_000)
            await runner.settled()

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]


async def test_one_that_waits_is_tried_again_in_time_while_others_run(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(f"sqlite:///{tmp_path}/store.db", clock=clock) as store:
        shop = Shop(store, answer="")
        failures = [OSError("away")]
        gate = asyncio.Event()

        async def flaky(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if envelope.event == Pay("slow", 1):
                await gate.wait()
            elif failures:
                raise failures.pop()
            return await call_next(envelope)

        shop.bus.use(flaky)
        retry = Retry(attempts=3, initial_s=0.01, max_s=0.01)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=retry, clock=clock) as runner:
            await store.append("o", [Placed("slow", 1), Placed("flaky", 1)])
            await until(lambda: runner.statistics().failed_attempts)
            await until(lambda: runner.statistics().running == 1)
            await until(lambda: min(clock.pauses_s, default=1) <= 0.01)
            clock.advance(0.01)
            await until(lambda: shop.done)
            gate.set()
            await runner.settled()

        assert shop.done == [Pay("flaky", 1), Pay("slow", 1)]


async def test_a_runner_that_is_left_begins_nothing_more(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        shop.bus.use(stop := Stop())
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, concurrency=1) as runner:
            await store.append("o", [Placed(f"o-{number}", number) for number in range(5)])
            await stop.reached()
            stop.open()

        assert shop.done == [Pay("o-0", 0)]
        assert runner.statistics().dispatched == 1


async def test_a_runner_that_is_left_lets_another_one_take_over_at_once(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, lease_s=3_000) as runner:
            await store.append("o-1", Placed("o-1", 1))
            await runner.settled()
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, lease_s=3_000) as runner:
            await until(lambda: runner.is_active)


async def test_a_runner_whose_leaving_is_cancelled_leaves_nothing_running(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        shop.bus.use(stop := Stop())
        entered = asyncio.Event()

        async def run() -> None:
            async with ProcessRunner(store, Fulfilment, commands=shop.bus):
                await store.append("o-1", Placed("o-1", 1))
                await stop.reached()
                entered.set()

        before = asyncio.all_tasks()
        task = asyncio.create_task(run())  # noqa: TID251 - cancelled below
        await entered.wait()
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not [each for each in asyncio.all_tasks() - before if "process" in each.get_name()]


async def test_an_attempt_that_is_cut_off_by_leaving_is_none(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store, answer="")
        for _ in range(3):
            shop.bus.use(stop := Stop())
            options: dict[str, Any] = {"commands": shop.bus, "retry": None, "drain_timeout_s": 0.01}
            async with ProcessRunner(store, Fulfilment, **options) as runner:
                await store.append("o-1", Placed("o-1", 1))
                await stop.reached()
            stop.open()
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=None) as runner:
            await runner.settled()

        assert shop.done == [Pay("o-1", 1)]


async def test_a_handler_that_cancels_its_own_task_has_failed_an_attempt(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        failures = 2

        async def suicidal(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            return await call_next(envelope)

        shop.bus.use(suicidal)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=NO_PAUSE) as runner:
            await store.append("o-1", Placed("o-1", 1))
            await runner.settled()

        assert shop.done == [Pay("o-1", 1), Ship("o-1")]
        assert runner.statistics().failed_attempts == 2


async def test_a_store_that_is_away_for_a_moment_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    async with await WatchedStore.connect(f"sqlite:///{tmp_path}/store.db") as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            for number in range(10):
                store.failures = 1
                await store.append(f"o-{number}", Placed(f"o-{number}", number))
            await until(lambda: not store.failures)
            await runner.settled()

        for number in range(10):
            of_one = [command for command in shop.done if command.order_id == f"o-{number}"]
            assert of_one == [Pay(f"o-{number}", number), Ship(f"o-{number}")]


# Deadlines


async def test_a_deadline_does_not_overtake_what_was_in_the_log_before_it_came(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(f"sqlite:///{tmp_path}/store.db", clock=clock) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, clock=clock) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
        for number in range(30):
            await store.append("others", [Placed(f"x-{number}", 1)])
        await store.append("p-1", Paid("p-1", "o-1"))
        clock.advance(3_600)

        # The runner was away for an hour: the payment came in time, and is read last.
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, clock=clock, batch_events=1) as runner:
            await runner.settled()
            await turns()
            view = await runner.process("o-1")

        assert view is not None
        assert view.state["status"] == "shipping"
        assert Cancel("o-1", "no answer") not in shop.done
        assert runner.statistics().fired == 0


class Either(ProcessManager, name="either"):
    seen: list[str] = []  # noqa: RUF012 - each process has its own

    @starts(Placed)
    def placed(self, event: Placed) -> None:
        self.deadline("first", after_s=1)
        self.deadline("second", after_s=2)

    @on_deadline("first")
    def first(self) -> None:
        self.seen.append("first")
        self.cancel("second")

    @on_deadline("second")
    def second(self) -> None:
        self.seen.append("second")
        self.cancel("first")


async def test_of_two_deadlines_that_are_due_the_first_may_cancel_the_second(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(f"sqlite:///{tmp_path}/store.db", clock=clock) as store:
        async with ProcessRunner(store, Either, commands=Shop(store).bus, clock=clock) as runner:
            await store.append("o-1", [Placed("o-1", 7), Placed("o-2", 7)])
            await runner.settled()
            clock.advance(60)
            await until(lambda: runner.statistics().fired)
            await turns()
            views = await runner.processes(status="running")

        assert [(view.state["seen"], view.deadlines) for view in views] == [(["first"], {})] * 2
        assert runner.statistics().fired == 2


# Several runners


async def test_a_runner_that_has_lost_its_lease_says_nothing_about_a_command_that_fails(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store)
        gate, entered = asyncio.Event(), asyncio.Event()
        is_broken = True

        async def late(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if is_broken and isinstance(envelope.event, Ship):
                entered.set()
                await gate.wait()
                raise ValidationError("too late")
            return await call_next(envelope)

        shop.bus.use(late)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, lease_s=3_000) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await entered.wait()
            await take_lease(store, until_us=2**62)  # another one carries it out
            gate.set()
            await until(lambda: runner.statistics().failed_attempts)
            await until(lambda: runner.statistics().state == "standby")
            view = await runner.process("o-1")
            assert view is not None
            assert (view.status, view.state["status"]) == ("running", "shipping")
            assert [(each.command, each.problem) for each in view.commands] == [(Ship("o-1"), "")]

        is_broken = False
        await take_lease(store, until_us=0)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await runner.settled()

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]


async def test_a_runner_whose_lease_somebody_else_has_begins_nothing(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, lease_s=3_000) as runner:
            await until(lambda: runner.is_active)
            await take_lease(store, until_us=2**62)
            assert runner.is_active  # it has not heard of it

            await store.append("o-1", Placed("o-1", 7))
            await until(lambda: not runner.is_active)
            view = await runner.process("o-1")

        assert shop.done == []
        assert view is not None
        assert [each.attempts for each in view.commands] == [0]


async def test_a_runner_that_cannot_read_an_event_leaves_the_commands_to_another(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Noting(ProcessManager, name="fulfilment"):
        @starts(Noticed, by="text")
        def noticed(self, event: Noticed) -> None: ...

    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, lease_s=3_000) as failing:
            await until(lambda: failing.is_active)
            async with store.transaction() as connection:
                await store_damaged(store, connection)
            await store.append("o-1", Placed("o-1", 1))
            with pytest.raises(ProcessFailedError):
                await failing.settled()

            async with ProcessRunner(store, Noting, commands=shop.bus, lease_s=3_000) as other:
                await until(lambda: other.is_active)
                await other.settled()
