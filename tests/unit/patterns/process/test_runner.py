"""Processes from their first event to their end."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from avx_events import CommandBus, EventStore, ValidationError
from avx_events.core.errors import (
    InvalidArgumentError,
    NotRunningError,
    ProcessFailedError,
    ProcessLagError,
    TransactionError,
)
from avx_events.core.metadata import EventEnvelope, context
from avx_events.patterns.process import ProcessManager, ProcessRunner, on_deadline, starts
from avx_events.testing import ManualClock
from tests.unit.patterns.process.orders import Cancel, Declined, Fulfilment, Noticed, Paid, Pay, Placed, Ship
from tests.unit.patterns.process.shop import NO_PAUSE, Shop, opened
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)


async def test_a_process_sends_commands_as_events_come(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()

            view = await runner.process("o-1")

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]
        assert view is not None
        assert (view.status, view.state, view.commands, view.deadlines) == (
            "running",
            {"status": "shipping", "seen": ["o-1"]},
            (),
            {},
        )


async def test_many_processes_go_on_side_by_side_and_each_in_order(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, batch_events=7, concurrency=5) as runner:
            for number in range(40):
                await store.append(f"o-{number}", [Placed(f"o-{number}", number), Declined("unknown", "x")])
            await runner.settled(timeout_s=20)
            statistics = runner.statistics()

        for number in range(40):
            of_one = [command for command in shop.done if command.order_id == f"o-{number}"]
            assert of_one == [Pay(f"o-{number}", number), Ship(f"o-{number}")]
        assert (statistics.reactions, statistics.passed_over, statistics.dispatched) == (80, 40, 80)


async def test_what_a_process_sends_belongs_to_its_correlation_and_names_its_cause(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            with context(correlation_id="request-7", user_id="ada"):
                await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            log = [stored async for stored in store.read_all()]

        placed, paid = log
        assert [envelope.metadata.correlation_id for envelope in shop.envelopes] == ["request-7", "request-7"]
        assert [envelope.metadata.causation_id for envelope in shop.envelopes] == [
            placed.metadata.event_id,
            paid.metadata.event_id,
        ]
        assert {envelope.metadata.user_id for envelope in shop.envelopes} == {"ada"}
        assert paid.metadata.causation_id == shop.envelopes[0].metadata.event_id
        assert shop.envelopes[0].metadata.headers["idempotency-key"] == shop.envelopes[0].metadata.event_id


async def test_a_deadline_comes_where_nobody_answers(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(f"sqlite:///{tmp_path}/store.db", clock=clock) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, clock=clock) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            view = await runner.process("o-1")
            assert view is not None
            assert view.deadlines == {"payment": view.started_at + timedelta(seconds=60)}
            clock.advance(59)
            await runner.settled()
            assert shop.done == [Pay("o-1", 7)]

            clock.advance(2)
            await until(lambda: len(shop.done) == 2)
            await runner.settled()
            ended = await runner.process("o-1")

        assert shop.done == [Pay("o-1", 7), Cancel("o-1", "no answer")]
        assert ended is not None
        assert (ended.status, ended.state["status"], ended.deadlines) == ("ended", "too late", {})
        assert runner.statistics().fired == 1


class Impatient(ProcessManager, name="impatient"):
    @starts(Placed)
    def placed(self, event: Placed) -> None:
        self.deadline("soon", after_s=0.05)
        self.deadline("never", after_s=3600)

    @on_deadline("soon")
    def soon(self) -> None:
        self.deadline("moved", at=datetime.now(UTC))

    @on_deadline("moved")
    def moved(self) -> None:
        self.send(Ship(self.id))
        self.end()

    @on_deadline("never")
    def never(self) -> None:
        self.send(Cancel(self.id, "never"))


async def test_deadlines_come_by_the_time_of_the_database(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Impatient, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))

            await until(lambda: shop.done)
            await runner.settled()
            view = await runner.process("o-1")

        assert shop.done == [Ship("o-1")]
        assert view is not None
        assert (view.status, view.deadlines) == ("ended", {})


async def test_a_process_that_has_ended_passes_everything_over(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="no money")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            await store.append("o-1", [Placed("o-1", 8), Paid("p", "o-1"), Declined("o-1", "again")])
            await runner.settled()
            view = await runner.process("o-1")

        assert shop.done == [Pay("o-1", 7), Cancel("o-1", "no money")]
        assert view is not None
        assert (view.status, view.state["seen"]) == ("ended", ["o-1"])


async def test_a_command_that_fails_is_tried_again(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        failures = [OSError("away"), OSError("away")]

        async def flaky(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if failures and isinstance(envelope.event, Ship):
                raise failures.pop()
            return await call_next(envelope)

        shop.bus.use(flaky)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=NO_PAUSE) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]
        assert runner.statistics().failed_attempts == 2


async def test_a_command_that_fails_for_good_is_compensated(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)

        async def no_lorry(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if isinstance(envelope.event, Ship):
                raise ValidationError("no lorry")
            return await call_next(envelope)

        shop.bus.use(no_lorry)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=NO_PAUSE) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            view = await runner.process("o-1")

        assert shop.done == [Pay("o-1", 7), Cancel("o-1", "ValidationError: no lorry")]
        assert shop.envelopes[1].metadata.causation_id is not None
        assert view is not None
        assert (view.status, view.commands) == ("ended", ())


async def test_a_command_whose_failure_nobody_expects_stops_its_process_only(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store)
        is_broken = True

        async def broken(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            if is_broken and isinstance(envelope.event, Pay) and envelope.event.order_id == "o-1":
                raise ValidationError("no card")
            return await call_next(envelope)

        shop.bus.use(broken)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=NO_PAUSE) as runner:
            await store.append("o-1", Placed("o-1", 1))
            await store.append("o-2", Placed("o-2", 2))
            await runner.settled()
            [failed] = await runner.processes(status="failed")
            assert (failed.id, failed.commands[0].command) == ("o-1", Pay("o-1", 1))
            assert "ValidationError: no card" in failed.problem
            assert shop.done == [Pay("o-2", 2), Ship("o-2")]

            is_broken = False
            assert await runner.retry("o-1")
            assert not await runner.retry("o-1")
            await runner.settled()

        assert shop.done[2:] == [Pay("o-1", 1), Ship("o-1")]


async def test_a_reaction_that_fails_waits_with_what_comes_after_it(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store, answer="bug")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            await store.append("o-1", Paid("p-1", "o-1"))
            await runner.settled()
            [failed] = await runner.processes()
            assert failed.parked == (2, 3)
            assert "ValueError: cannot cope" in failed.problem
            assert failed.state["status"] == "paying"

            assert await runner.retry("o-1")  # nothing was mended
            await runner.settled()
            [again] = await runner.processes()

        assert again.parked == (2, 3)
        assert shop.done == [Pay("o-1", 7)]


async def test_a_runner_that_is_entered_anew_goes_on_where_the_last_one_was(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
        await store.append("x", Paid("p-1", "o-1"))

        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await runner.settled()
            assert runner.statistics().reactions == 1

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]


async def test_of_two_runners_each_event_is_reacted_to_once_and_one_dispatches(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with (
            ProcessRunner(store, Fulfilment, commands=shop.bus) as one,
            ProcessRunner(store, Fulfilment, commands=shop.bus) as two,
        ):
            for number in range(20):
                await store.append(f"o-{number}", Placed(f"o-{number}", number))
            await one.settled(timeout_s=20)
            await two.settled()
            assert one.statistics().reactions + two.statistics().reactions == 40
            assert [one.is_active, two.is_active].count(True) == 1

        assert len(shop.done) == 40


async def test_an_event_of_another_manager_is_nothing_to_it(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("n", [Noticed("a")] * 3)
            await runner.settled()

            assert runner.statistics().position == 3
            assert await runner.process("n") is None


async def test_a_new_manager_may_begin_at_the_end_of_the_log(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        await store.append("o-1", Placed("o-1", 1))
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, start="latest") as runner:
            await store.append("o-2", Placed("o-2", 2))
            await runner.settled()

        assert shop.done == [Pay("o-2", 2), Ship("o-2")]


async def test_processes_that_ended_long_ago_can_be_forgotten(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="no")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 1))
            await runner.settled()

            assert await runner.forget_ended(older_than=timedelta(hours=1)) == 0
            assert await runner.forget_ended(older_than=timedelta(0)) == 1
            assert await runner.process("o-1") is None


async def test_who_waits_is_told_what_is_left(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        gate = asyncio.Event()

        async def slow(envelope: EventEnvelope[Any], call_next: Any) -> Any:
            await gate.wait()
            return await call_next(envelope)

        shop.bus.use(slow)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 1))
            with pytest.raises(ProcessLagError, match="1 commands wait"):
                await runner.settled(timeout_s=0.3)
            gate.set()
            await runner.settled()

        with pytest.raises(NotRunningError):
            await runner.settled()


async def test_an_event_that_cannot_be_read_stops_the_manager(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            async with store.transaction() as connection:
                await store_damaged(store, connection)
            await store.append("o-1", Placed("o-1", 1))
            with pytest.raises(ProcessFailedError, match="fulfilment"):
                await runner.settled()
            assert runner.statistics().state == "failed"


async def store_damaged(store: EventStore, connection: Any) -> None:
    mark = "$1" if connection.dialect == "postgresql" else "?"
    sql = (
        "INSERT INTO avx_events (position, stream, version, recorded_at, event_id, event_type, metadata, data)"  # noqa: S608 - the marks are ours
        f" VALUES (1, 'damaged', 1, 1, 'e-1', 'process.order.placed', {mark}, {mark.replace('1', '2')})"
    )
    await connection.execute(sql, b'[1,""]', b"{}")


async def test_a_store_without_a_database_will_not_do() -> None:
    async with EventStore() as store:
        with pytest.raises(TransactionError):
            async with ProcessRunner(store, Fulfilment, commands=CommandBus()):
                pass


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"process": Pay}, "derived from ProcessManager"),
        ({"commands": None}, "commands must be a CommandBus"),
        ({"retry": 3}, "retry must be"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"batch_events": 0}, "batch_events must be"),
        ({"lease_s": 0}, "lease_s must be"),
        ({"drain_timeout_s": -1}, "drain_timeout_s must be"),
        ({"start": "now"}, "start must be"),
        ({"store": None}, "store must be an EventStore"),
    ],
)
async def test_what_cannot_be_run_is_refused(options: dict[str, Any], problem: str) -> None:
    async with EventStore() as store:
        given: dict[str, Any] = {"store": store, "process": Fulfilment, "commands": CommandBus(), **options}
        first, second = given.pop("store"), given.pop("process")
        with pytest.raises(InvalidArgumentError, match=problem):
            ProcessRunner(first, second, **given)
