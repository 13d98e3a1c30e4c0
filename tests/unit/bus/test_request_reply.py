"""Request and reply: who answers, when it ends, and what the requester is told."""

import asyncio
import contextvars
import gc
import threading
import weakref

import msgspec
import pytest

from avx_events import Command, Event, EventBus, EventEnvelope, Request, RequestReplyBus, context
from avx_events.bus.request_reply import RequestStatistics
from avx_events.core.errors import (
    ClosedError,
    DuplicateHandlerError,
    HandlerDefinitionError,
    HandlerWaitError,
    InvalidArgumentError,
    NoResponderError,
    NotAnEventError,
    NotStartedError,
    RemoteError,
    ReplySentError,
    RequestTimeoutError,
    StoppedError,
    WrongLoopError,
)
from avx_events.testing.clock import ManualClock
from tests.waiting import until


class Answer(msgspec.Struct):
    text: str


class Question(Request[Answer], aggregate_id="key"):
    key: str


class Sum(Request[int]):
    up_to: int


class Vain(Request[Answer], weakref=True, gc=True):
    pass


class NoQuestion(Event, event_type="no.question"):
    pass


class NoQuestionEither(Command[int], event_type="no.question.either"):
    pass


async def test_the_reply_reaches_the_requester() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        return Answer(f"at once {request.key}")

    @bus.respond(Sum)
    async def add(request: Sum) -> int:
        await asyncio.sleep(0)
        return sum(range(request.up_to + 1))

    async with bus:
        assert await bus.request(Question("1")) == Answer("at once 1")
        assert await bus.request(Sum(10)) == 55


async def test_a_responder_may_be_plain_and_may_take_the_envelope() -> None:
    bus = RequestReplyBus()
    threads: list[int] = []

    @bus.respond(Sum)
    def add(request: Sum) -> int:
        threads.append(threading.get_ident())
        return request.up_to

    @bus.respond(Question)
    async def answer(request: Question, envelope: EventEnvelope[Question]) -> Answer:
        return Answer(f"{envelope.metadata.aggregate_id} {envelope.metadata.headers['h']}")

    async with bus:
        assert await bus.request(Sum(3)) == 3
        assert await bus.request(Question("k"), headers={"h": "v"}) == Answer("k v")

    assert threads
    assert threads[0] != threading.get_ident()


async def test_a_request_that_nobody_answers_fails_at_once() -> None:
    bus = RequestReplyBus()

    with pytest.raises(NoResponderError, match="question"):
        await bus.request(Question("1"))

    assert bus.statistics() == RequestStatistics()


@pytest.mark.parametrize("waits_first", [False, True])
async def test_what_a_responder_raises_is_a_remote_error_with_type_and_message(*, waits_first: bool) -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        if waits_first:
            await asyncio.sleep(0)
        raise KeyError(request.key)

    async with bus:
        with pytest.raises(RemoteError) as failure:
            await bus.request(Question("lost"))
        for _ in range(2):
            with pytest.raises(RemoteError):
                await bus.request(Question("lost again"))

    assert (failure.value.error_type, failure.value.message) == ("KeyError", "'lost'")
    assert isinstance(failure.value.__cause__, KeyError)
    assert bus.statistics().failed == 3


async def test_a_reply_that_comes_too_late_is_counted_and_dropped() -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)
    release = asyncio.Event()
    answered: list[str] = []

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        await release.wait()
        answered.append(request.key)
        return Answer("late")

    async def ask() -> None:
        with pytest.raises(RequestTimeoutError, match="question within 2 s"):
            await bus.request(Question("1"), timeout_s=2)

    async with bus:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
            await clock.planned()
            clock.advance(1.9)
            await asyncio.sleep(0)
            assert bus.statistics().timed_out == 0
            clock.advance(0.2)
        release.set()
        await until(lambda: bus.statistics().late_replies)

    assert answered == ["1"]
    assert bus.statistics() == RequestStatistics(requested=1, timed_out=1, late_replies=1)


async def test_five_seconds_are_the_default_deadline() -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)

    @bus.respond(Question)
    async def never(request: Question) -> Answer:
        await asyncio.Event().wait()
        return Answer("never")

    async def ask() -> None:
        with pytest.raises(RequestTimeoutError):
            await bus.request(Question("1"))

    async with bus:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
            await clock.planned()
            assert 5 <= clock.pauses_s[0] <= 5.02
            clock.advance(5.02)
        await bus_gives_up(bus, clock)


async def bus_gives_up(bus: RequestReplyBus, clock: ManualClock) -> None:
    """Close a bus with a responder that never ends, without waiting ten seconds for it."""
    del clock
    async with asyncio.timeout(5):
        closing = asyncio.ensure_future(bus.close())  # noqa: TID251 - cancelled in the next line
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing


@pytest.mark.parametrize("timeout_s", [3600, 1e307])
async def test_requests_that_were_answered_in_time_leave_few_timers(timeout_s: float) -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)

    @bus.respond(Sum)
    async def add(request: Sum) -> int:
        await asyncio.sleep(0)
        return request.up_to

    async with bus:
        for number in range(1000):
            assert await bus.request(Sum(number), timeout_s=timeout_s) == number
            clock.advance(0.01)
        left = len(clock.pauses_s)

    assert left <= 3


@pytest.mark.parametrize("way", ["responder", "listener"])
async def test_requests_that_were_given_up_are_let_go_though_nobody_comes_to_answer(way: str) -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock, drain_timeout_s=1)
    may_end = asyncio.Event()
    requests: list[weakref.ref[Vain]] = []

    async def hangs(request: Vain) -> Answer:
        await may_end.wait()
        return Answer("late")

    async def give_up() -> None:
        request = Vain()
        requests.append(weakref.ref(request))
        with pytest.raises(RequestTimeoutError):
            await bus.request(request, timeout_s=1)

    if way == "responder":
        bus.respond(Vain, concurrency=1)(hangs)
    else:
        await bus.listen(Vain)
    async with asyncio.timeout(10), bus:
        for _ in range(10):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(give_up())
                await clock.planned()
                clock.advance(2)
        gc.collect()
        kept = sum(request() is not None for request in requests)
        may_end.set()

    assert bus.statistics().timed_out == len(requests) == 1000
    assert kept <= 200


async def test_a_requester_that_is_cancelled_does_not_interrupt_the_responder() -> None:
    bus = RequestReplyBus()
    release = asyncio.Event()
    ended: list[str] = []

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        await release.wait()
        ended.append(request.key)
        return Answer("done")

    async with bus:
        asking = asyncio.ensure_future(bus.request(Question("1")))  # noqa: TID251 - to be cancelled
        await until(lambda: bus.statistics().in_flight)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        release.set()
        await until(lambda: ended)

    assert bus.statistics().late_replies == 1


async def test_requests_beyond_the_concurrency_wait_their_turn_and_all_are_answered() -> None:
    bus = RequestReplyBus()
    running = most = 0

    @bus.respond(Sum, concurrency=3)
    async def add(request: Sum) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(request.up_to % 5):
            await asyncio.sleep(0)
        running -= 1
        return request.up_to

    async with bus, asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(bus.request(Sum(number))) for number in range(200)]

    assert [task.result() for task in asked] == list(range(200))
    assert most == 3
    assert bus.statistics() == RequestStatistics(requested=200, replied=200)


async def test_several_responders_share_the_requests() -> None:
    bus = RequestReplyBus()
    shares = {"first": 0, "second": 0}

    @bus.respond(Sum)
    async def first(request: Sum) -> int:
        shares["first"] += 1
        return 1

    @bus.respond(Sum)
    async def second(request: Sum) -> int:
        shares["second"] += 1
        return 2

    async with bus:
        for _ in range(10):
            await bus.request(Sum(1))

    assert shares == {"first": 5, "second": 5}


async def test_a_listener_is_given_requests_with_where_to_reply() -> None:
    bus = RequestReplyBus()

    async def serve() -> None:
        async for request, reply in await bus.listen(Question):
            if request.key == "bad":
                await reply.fail(ValueError("no such key"))
            else:
                await reply.send(Answer(request.key))
                with pytest.raises(ReplySentError):
                    await reply.send(Answer("again"))

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        await asyncio.sleep(0)
        assert await bus.request(Question("a")) == Answer("a")
        with pytest.raises(RemoteError, match="ValueError: no such key"):
            await bus.request(Question("bad"))
        await bus.close()

    assert bus.statistics() == RequestStatistics(requested=2, replied=1, failed=1)


async def test_a_listener_skips_those_who_gave_up_and_counts_what_is_late() -> None:
    clock = ManualClock()
    bus = RequestReplyBus(clock=clock)
    listener = await bus.listen(Question)

    async def ask(key: str) -> None:
        with pytest.raises(RequestTimeoutError):
            await bus.request(Question(key), timeout_s=1)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("read"))
        await clock.planned()
        request, reply = await anext(listener)
        tasks.create_task(ask("not read"))
        await until(lambda: bus.statistics().waiting)
        assert reply.is_awaited
        clock.advance(2)
    await reply.send(Answer("late"))
    await bus.close()

    assert request == Question("read")
    assert not reply.is_awaited
    assert [item async for item in listener] == []
    assert bus.statistics() == RequestStatistics(requested=2, timed_out=2, late_replies=1)


async def test_a_closed_listener_answers_nobody() -> None:
    bus = RequestReplyBus()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        async with await bus.listen(Question):
            asking = tasks.create_task(ask_in_vain(bus))
            await until(lambda: bus.statistics().waiting)
        await asking
        await ask_in_vain(bus)


async def test_a_listener_that_is_closed_after_its_bus_answers_those_who_still_wait() -> None:
    bus = RequestReplyBus()
    listener = await bus.listen(Question)

    async with asyncio.timeout(2), asyncio.TaskGroup() as tasks:
        tasks.create_task(ask_in_vain(bus))
        await until(lambda: bus.statistics().waiting)
        await bus.close()
        await listener.close()


async def ask_in_vain(bus: RequestReplyBus) -> None:
    with pytest.raises(NoResponderError):
        await bus.request(Question("1"))


async def test_an_answer_begins_and_ends_in_the_same_task_which_is_not_the_requesters() -> None:
    bus = RequestReplyBus()
    tasks: list[object] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="untouched")

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        tasks.append(asyncio.current_task())
        variable.set("answering")
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        return Answer(variable.get())

    async with bus:
        assert await bus.request(Question("1")) == Answer("answering")

    assert tasks[0] is tasks[1]
    assert tasks[0] is not asyncio.current_task()
    assert variable.get() == "untouched"


async def test_responders_may_ask_and_publish_and_what_they_make_carries_the_request() -> None:
    bus, events = RequestReplyBus(), EventBus()
    heard = await events.subscribe(NoQuestion)
    metadata: list[tuple[str, str | None, str | None]] = []

    @bus.respond(Sum, concurrency=2)
    async def add(request: Sum, envelope: EventEnvelope[Sum]) -> int:
        found = envelope.metadata
        metadata.append((found.correlation_id, found.causation_id, found.user_id))
        if request.up_to == 0:
            await events.publish(NoQuestion())
            return 0
        if request.up_to % 2:
            await asyncio.sleep(0)
        return request.up_to + await bus.request(Sum(request.up_to - 1))

    async with bus:
        with context(correlation_id="chain", user_id="jane"):
            assert await bus.request(Sum(20)) == 210

    envelope = await heard.recv_envelope()
    assert envelope is not None
    assert {(correlation, user) for correlation, _, user in metadata} == {("chain", "jane")}
    assert (envelope.metadata.correlation_id, envelope.metadata.user_id) == ("chain", "jane")
    assert envelope.metadata.causation_id is not None


async def test_close_lets_responders_finish_and_refuses_new_requests() -> None:
    bus = RequestReplyBus()
    release = asyncio.Event()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        await release.wait()
        return Answer("finished")

    await bus.start()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(bus.request(Question("1")))
        await until(lambda: bus.statistics().in_flight)
        closing = tasks.create_task(bus.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await bus.request(Question("2"))
        release.set()
        await closing
        assert await asking == Answer("finished")
    with pytest.raises(ClosedError):
        await bus.request(Question("3"))
    await bus.close()


async def test_close_tells_those_whose_responder_did_not_finish() -> None:
    bus = RequestReplyBus(drain_timeout_s=0.01)
    cleaned: list[str] = []

    @bus.respond(Question, concurrency=1, name="slow one")
    async def answer(request: Question) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(request.key)
        return Answer("never")

    async def ask(key: str) -> None:
        with pytest.raises(StoppedError, match="slow one"):
            await bus.request(Question(key))

    before = asyncio.all_tasks()
    async with bus:
        asking = [asyncio.ensure_future(ask(key)) for key in ("running", "waiting")]  # noqa: TID251 - awaited below
        await until(lambda: bus.statistics().waiting)
    for task in asking:
        await task

    assert cleaned == ["running"]
    assert asyncio.all_tasks() == before


async def test_a_responder_cannot_close_its_own_bus() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        await bus.close()
        return Answer("never")

    async with bus:
        with pytest.raises(RemoteError, match="HandlerWaitError") as failure:
            await bus.request(Question("1"))

    assert isinstance(failure.value.__cause__, HandlerWaitError)


async def test_a_bus_with_responders_that_was_not_started_says_so() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        return Answer("x")

    with pytest.raises(NotStartedError):
        await bus.request(Question("1"))


async def test_another_thread_cannot_ask() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        return Answer("x")

    async with bus:
        with pytest.raises(WrongLoopError):
            await asyncio.to_thread(asyncio.run, bus.request(Question("1")))


@pytest.mark.parametrize("wrong", [NoQuestion(), NoQuestionEither(), Question, 3, None])
async def test_what_is_no_request_cannot_be_asked(wrong: Request[int]) -> None:
    with pytest.raises(NotAnEventError):
        await RequestReplyBus().request(wrong)


@pytest.mark.parametrize("wrong", [NoQuestion, NoQuestionEither, Request, Question("1"), 3])
async def test_what_is_no_request_class_has_no_responder(wrong: type[Question]) -> None:
    bus = RequestReplyBus()

    with pytest.raises(NotAnEventError):
        bus.respond(wrong)
    with pytest.raises(NotAnEventError):
        await bus.listen(wrong)


async def test_options_outside_their_range_are_refused() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question, name="taken")
    async def answer(request: Question) -> Answer:
        return Answer("x")

    async def total(request: Sum) -> int:
        return 3

    with pytest.raises(InvalidArgumentError, match="concurrency"):
        bus.respond(Sum, concurrency=0)(total)
    with pytest.raises(InvalidArgumentError, match="name"):
        bus.respond(Sum, name="")(total)
    with pytest.raises(DuplicateHandlerError, match="taken"):
        bus.respond(Sum, name="taken")(total)
    with pytest.raises(HandlerDefinitionError):
        bus.respond(Sum)(lambda: 3)
    async with bus:
        for timeout_s in (0, -1, float("nan"), float("inf"), 10**400):
            with pytest.raises(InvalidArgumentError, match="timeout_s"):
                await bus.request(Question("1"), timeout_s=timeout_s)


@pytest.mark.parametrize(
    "error", [GeneratorExit, KeyboardInterrupt, SystemExit, StopIteration, StopAsyncIteration, asyncio.CancelledError]
)
@pytest.mark.parametrize("turns", [0, 1])
async def test_whatever_a_responder_raises_reaches_its_requester_and_nobody_else(
    error: type[BaseException], turns: int
) -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        for _ in range(turns):
            await asyncio.sleep(0)
        if request.key == "bad":
            raise error
        return Answer("good")

    async with asyncio.timeout(5), bus:
        with pytest.raises(RemoteError):
            await bus.request(Question("bad"), timeout_s=1)
        assert await bus.request(Question("good")) == Answer("good")


async def test_a_responder_that_cancels_itself_is_answered_for() -> None:
    bus = RequestReplyBus()

    @bus.respond(Question)
    async def answer(request: Question) -> Answer:
        task = asyncio.current_task()
        if request.key == "bad" and task is not None:
            task.cancel()
            await asyncio.sleep(0)
        return Answer("good")

    async with asyncio.timeout(5), bus:
        with pytest.raises((RemoteError, StoppedError)):
            await bus.request(Question("bad"), timeout_s=1)
        assert await bus.request(Question("good")) == Answer("good")
        assert bus.statistics().in_flight == 0
