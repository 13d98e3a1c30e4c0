"""Processes that cannot go on: they wait, the others do not, and once mended they go on where they stopped."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from avx_events import Event, ValidationError
from avx_events.core.metadata import EventEnvelope, context
from avx_events.patterns.process import (
    ProcessManager,
    ProcessRunner,
    ProcessView,
    on_deadline,
    on_failure,
    reacts,
    starts,
)
from avx_events.patterns.process.rows import Rows
from avx_events.patterns.tables import execute
from tests.unit.patterns.process.orders import Cancel, Declined, Fulfilment, Noticed, Paid, Pay, Placed, Ship
from tests.unit.patterns.process.shop import NO_PAUSE, Shop, Stop, opened

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


class Fault:
    """Fails the commands of one class until it is mended."""

    def __init__(self, shop: Shop, command_class: type, error: Exception | None = None) -> None:
        self.error: Exception | None = ValidationError("broken") if error is None else error
        self._command_class = command_class
        shop.bus.use(self._fail)

    def mend(self) -> None:
        self.error = None

    async def _fail(self, envelope: EventEnvelope[Any], call_next: Any) -> Any:
        if self.error is not None and isinstance(envelope.event, self._command_class):
            raise self.error
        return await call_next(envelope)


async def view_of(runner: ProcessRunner, process_id: str) -> ProcessView:
    view = await runner.process(process_id)
    assert view is not None
    return view


class Version:
    """What the code of the process is like today."""

    is_broken = True


class Careful(ProcessManager, name="careful"):
    """Cannot begin, nor go on after a deadline or a failure, while it is broken."""

    seen: list[str] = []  # noqa: RUF012 - each process has its own

    @starts(Placed)
    def placed(self, event: Placed) -> None:
        self.seen.append("placed")
        if event.total < 0 and Version.is_broken:
            raise ValueError("cannot begin")
        self.send(Pay(self.id, event.total))

    @reacts(Paid, by="order_id")
    def noted(self, event: Paid) -> None:
        self.seen.append("noted")
        self.send(Ship(event.payment_id))

    @reacts(Paid, by="order_id")
    def paid(self, event: Paid) -> None:
        if event.payment_id == "bad" and Version.is_broken:
            raise ValueError("cannot be paid")
        self.seen.append("paid")
        if event.payment_id == "soon":
            self.deadline("soon", after_s=0.001)

    @on_deadline("soon")
    def soon(self) -> None:
        if Version.is_broken:
            raise ValueError("too soon")
        self.seen.append("soon")

    @on_failure(Pay)
    def unpaid(self, command: Pay, error: str) -> None:
        if Version.is_broken:
            raise ValueError("cannot cope")
        self.seen.append(error)


@pytest.fixture
def mend(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what mends the class."""
    return lambda: monkeypatch.setattr(Version, "is_broken", value=False)


async def test_a_process_that_could_not_begin_begins_once_it_is_mended(url: str, mend: Callable[[], None]) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Careful, commands=shop.bus) as runner:
            await store.append("o-1", [Placed("o-1", -1), Paid("p-1", "o-1"), Noticed("x")])
            await runner.settled()
            waiting = await view_of(runner, "o-1")
            assert (waiting.status, waiting.state, waiting.parked) == ("failed", {}, (1, 2))
            mend()
            assert await runner.retry("o-1")
            await runner.settled()
            mended = await view_of(runner, "o-1")

        assert shop.done == [Pay("o-1", -1), Ship("p-1")]
        assert (mended.status, mended.state["seen"][:3], mended.parked) == ("running", ["placed", "noted", "paid"], ())


async def test_all_reactions_to_one_event_are_kept_or_none(url: str, mend: Callable[[], None]) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Careful, commands=shop.bus) as runner:
            await store.append("o-1", [Placed("o-1", 1), Paid("bad", "o-1")])
            await runner.settled()
            waiting = await view_of(runner, "o-1")
            mend()
            await runner.retry("o-1")
            await runner.settled()

        assert (waiting.status, waiting.state["seen"]) == ("failed", ["placed"])
        assert shop.done == [Pay("o-1", 1), Ship("bad")]


async def test_a_deadline_whose_method_fails_comes_again_once_it_is_mended(url: str, mend: Callable[[], None]) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Careful, commands=shop.bus) as runner:
            await store.append("o-1", [Placed("o-1", 1), Paid("soon", "o-1")])
            while not (failed := await runner.processes()):
                pass
            assert "at the deadline 'soon': ValueError: too soon" in failed[0].problem
            assert list(failed[0].deadlines) == ["soon"]
            mend()
            await runner.retry("o-1")
            while "soon" not in (view := await view_of(runner, "o-1")).state["seen"]:
                pass

        assert (view.status, view.deadlines, runner.statistics().fired) == ("running", {}, 2)


async def test_a_deadline_that_no_method_has_any_more_waits_with_its_process(url: str) -> None:
    class Forgetful(ProcessManager, name="fulfilment"):
        status: str = ""

        @starts(Placed)
        def placed(self, event: Placed) -> None: ...

    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 1))
            await runner.settled()
        async with store.transaction() as connection:
            await execute(connection, "UPDATE avx_process_deadlines SET due_us = 1")
        async with ProcessRunner(store, Forgetful, commands=shop.bus) as runner:
            while not (failed := await runner.processes()):
                pass

        assert failed[0].problem == "no method is marked @on_deadline('payment') any more"
        assert list(failed[0].deadlines) == ["payment"]


async def test_a_failure_whose_method_fails_is_tried_again_from_the_command_on(
    url: str, mend: Callable[[], None]
) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        fault = Fault(shop, Pay)
        async with ProcessRunner(store, Careful, commands=shop.bus) as runner:
            await store.append("o-1", [Placed("o-1", 1), Paid("p-1", "o-1")])
            await runner.settled()
            waiting = await view_of(runner, "o-1")
            assert "at the failure of 'process.pay': ValueError: cannot cope" in waiting.problem
            assert [(each.command, each.problem) for each in waiting.commands] == [
                (Pay("o-1", 1), "ValidationError: broken"),
                (Ship("p-1"), ""),
            ]
            assert shop.done == []
            mend()
            await runner.retry("o-1")
            await runner.settled()
            mended = await view_of(runner, "o-1")
            fault.mend()

        assert "ValidationError: broken" in mended.state["seen"]
        assert shop.done == [Ship("p-1")]


async def test_a_process_whose_last_command_fails_after_its_end_is_ended_again_once_that_is_done(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="no money")
        fault = Fault(shop, Cancel)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            waiting = await view_of(runner, "o-1")
            assert (waiting.status, waiting.commands[0].command) == ("failed", Cancel("o-1", "no money"))
            await store.append("o-1", Paid("p-1", "o-1"))
            await runner.settled()
            assert (await view_of(runner, "o-1")).parked == ()
            fault.mend()
            assert await runner.retry("o-1")
            await runner.settled()
            await store.append("o-1", Paid("p-2", "o-1"))
            await runner.settled()
            ended = await view_of(runner, "o-1")

        assert shop.done == [Pay("o-1", 7), Cancel("o-1", "no money")]
        assert (ended.status, ended.state["status"]) == ("ended", "declined")


class Renewed(ProcessManager, name="fulfilment"):
    """The same processes as a later version has them, which cannot read what the one before has kept."""

    status: int = 0

    @starts(Placed, by="order_id")
    def placed(self, event: Placed) -> None: ...

    @reacts(Paid, Declined, by="order_id")
    def went_on(self, event: Event) -> None: ...


async def test_a_state_of_another_shape_waits_for_a_version_that_can_read_it(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await store.append("o-2", [Placed("o-2", 7), Declined("o-2", "no")])
            await runner.settled()
        async with ProcessRunner(store, Renewed, commands=shop.bus) as runner:
            await store.append("o-1", Paid("p-1", "o-1"))
            await store.append("o-2", Declined("o-2", "again"))
            await store.append("o-3", Placed("o-3", 7))
            await runner.settled()
            [failed] = await runner.processes()
            assert "DecodeError" in failed.problem
            assert (failed.id, failed.state, failed.parked) == ("o-1", {}, (4,))
            assert (await view_of(runner, "o-2")).status == "ended"
            assert (await view_of(runner, "o-3")).status == "running"
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            assert await runner.retry("o-1")
            await runner.settled()
            assert (await view_of(runner, "o-1")).state["status"] == "shipping"


def whose(event: Noticed) -> str:
    if event.text == "raise":
        raise ValueError("nobody knows")
    return {"nobody": "", "long": "x" * 2_000}.get(event.text, event.text)


class Odd(ProcessManager, name="odd"):
    """Does what it is told, whatever comes of it."""

    kept: object = None
    count: int = 0

    @starts(Noticed, by=whose)
    def noticed(self, event: Noticed) -> None:
        self.count += 1
        match event.text:
            case "set":
                self.kept = Shop
            case "text":
                self.count = "many"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
            case "large":
                self.send(Cancel(self.id, "x" * 2_000_000))
            case "unwritable":
                raise ValueError("\0\ud800")
            case "exit":
                raise GeneratorExit
            case "silent":
                raise Unspeakable
            case "end":
                self.end()
                self.send(Cancel(self.id, "at the end"))
            case _:
                self.send(Cancel(self.id, "done"))


class Unspeakable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("set", "TypeError"),
        ("text", "Expected `int`, got `str`"),
        ("large", "EventTooLargeError"),
        ("unwritable", r"ValueError: \x00\ud800"),
        ("exit", "GeneratorExit"),
        ("silent", "Unspeakable: its text cannot be had: RuntimeError"),
    ],
)
async def test_what_a_reaction_does_wrong_fails_its_process_and_no_other(url: str, text: str, problem: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Odd, commands=shop.bus) as runner:
            await store.append("n", [Noticed(text), Noticed("fine")])
            await runner.settled()
            [failed] = await runner.processes()

        assert (failed.id, failed.parked, failed.commands) == (text, (1,), ())
        assert problem in failed.problem
        assert shop.done == [Cancel("fine", "done")]


@pytest.mark.parametrize("text", ["raise", "nobody", "long"])
async def test_an_event_that_belongs_to_no_process_holds_up_no_other(url: str, text: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Odd, commands=shop.bus) as runner:
            await store.append("n", [Noticed(text), Noticed("fine")])
            await runner.settled()
            statistics = runner.statistics()

        assert shop.done == [Cancel("fine", "done")]
        assert (statistics.reactions, statistics.failures, statistics.passed_over) == (
            1,
            int(text != "nobody"),
            int(text == "nobody"),
        )


async def test_what_a_process_sends_as_it_ends_is_dispatched(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Odd, commands=shop.bus) as runner:
            await store.append("n", [Noticed("end"), Noticed("end")])
            await runner.settled()
            view = await view_of(runner, "end")

        assert shop.done == [Cancel("end", "at the end")]
        assert (view.status, view.state["count"]) == ("ended", 1)


async def test_ids_of_a_chain_may_be_any_text(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        async with ProcessRunner(store, Odd, commands=shop.bus) as runner:
            with context(correlation_id="a\0b", user_id="ada\0"):
                await store.append("n", Noticed("fine"))
            await runner.settled()

        assert shop.done == [Cancel("fine", "done")]


@pytest.mark.parametrize("error", [ValueError("\0\ud800"), Unspeakable()])
async def test_what_a_command_fails_of_may_be_any_text(url: str, error: Exception) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        Fault(shop, Ship, error)
        async with ProcessRunner(store, Fulfilment, commands=shop.bus, retry=NO_PAUSE) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()

        [_, cancel] = shop.done
        assert cancel.why.startswith(type(error).__name__)
        assert cancel.why.isprintable()


async def test_a_command_whose_class_is_gone_waits_for_one_that_is_there(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Odd, commands=shop.bus, drain_timeout_s=0.01) as runner:
            rename = "UPDATE avx_process_commands SET document = ?"
            shop.bus.use(stop := Stop())
            await store.append("n", Noticed("fine"))
            await stop.reached()
        async with store.transaction() as connection:
            [(document,)] = await connection.fetch("SELECT document FROM avx_process_commands")
            await execute(connection, rename, document.replace(b'"process.cancel"', b'"process.gone"'))
        async with ProcessRunner(store, Odd, commands=shop.bus) as runner:
            await runner.settled()
            [failed] = await runner.processes()
            assert "UnknownEventTypeError" in failed.problem
            assert failed.commands[0].command is None
            async with store.transaction() as connection:
                await execute(connection, rename, document)
            stop.open()
            await runner.retry("fine")
            await runner.settled()

        assert shop.done == [Cancel("fine", "done")]


async def test_nobody_waits_for_what_stands_behind_a_command_that_failed(url: str) -> None:
    class Twice(ProcessManager, name="twice"):
        @starts(Placed)
        def placed(self, event: Placed) -> None:
            self.send(Pay(self.id, event.total))
            self.send(Ship(self.id))

    async with opened(url) as store:
        shop = Shop(store)
        fault = Fault(shop, Pay)
        async with ProcessRunner(store, Twice, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            assert len((await view_of(runner, "o-1")).commands) == 2
            fault.mend()
            await runner.retry("o-1")
            await runner.settled()

        assert shop.done == [Pay("o-1", 7), Ship("o-1")]


async def test_a_process_is_not_forgotten_before_what_it_sent_is_done(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store)
        shop.bus.use(stop := Stop())
        async with ProcessRunner(store, Odd, commands=shop.bus, drain_timeout_s=0.01) as runner:
            await store.append("n", Noticed("end"))
            await stop.reached()
            assert await runner.forget_ended(older_than=timedelta(0)) == 0
            stop.open()
            await runner.settled()
            assert await runner.forget_ended(older_than=timedelta(0)) == 1


async def test_a_deadline_is_not_lost_where_its_process_fails_before_it_fires(url: str) -> None:
    async with opened(url) as store:
        shop = Shop(store, answer="")
        async with ProcessRunner(store, Fulfilment, commands=shop.bus) as runner:
            await store.append("o-1", Placed("o-1", 7))
            await runner.settled()
            rows, steps = Rows("fulfilment", Fulfilment), runner._steps
            async with store.transaction() as connection:
                due = await rows.due_deadlines(connection, 2**62, 10)
            await store.append("o-1", Declined("o-1", "bug"))
            await runner.settled()
            async with store.transaction() as connection:
                fired = await steps.react_to_deadlines(connection, due, now_us=2**61)
            view = await view_of(runner, "o-1")

        assert (len(due), fired, view.status, list(view.deadlines)) == (1, 0, "failed", ["payment"])


async def test_a_lot_of_processes_may_stand_in_one_batch(url: str) -> None:
    async with (
        opened(url) as store,
        ProcessRunner(store, Renewed, commands=Shop(store).bus, batch_events=100_000) as runner,
    ):
        await store.append("many", [Placed(f"o-{number}", 1) for number in range(2_500)])
        await runner.settled(timeout_s=20)

        assert runner.statistics().reactions == 2_500
