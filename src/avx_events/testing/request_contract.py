"""What transports promise of requests: one reply each, or an error that says why there is none."""

# ruff: noqa: ARG001, D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks;
# responders take what they are given

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.errors import (
    ClosedError,
    NoResponderError,
    NotAnEventError,
    NotStartedError,
    RemoteError,
    RequestTimeoutError,
)
from avx_events.core.event import Request
from avx_events.core.metadata import EventEnvelope, EventMetadata, context
from avx_events.testing.bus_contract import Collected, Sent, new_namespace, until
from avx_events.testing.own_loop import interrupted, on_its_own_loop
from avx_events.testing.renamed import find_guest, seek_guest


class Answer(msgspec.Struct, frozen=True):
    """A reply with a field of each kind."""

    number: int = 0
    text: str = ""
    blob: bytes = b""
    inner: "tuple[Answer, ...]" = ()


class Ask(Request[Answer], event_type="avx.contract.ask", aggregate_id="key"):
    """The request of most tests."""

    key: str = ""
    number: int = 0


class AskText(Request[str | None], event_type="avx.contract.ask.text"):
    """A request whose reply is no struct."""

    text: str | None


class AskList(Request[list[Answer]], event_type="avx.contract.ask.list"):
    """A request whose reply is a list."""

    count: int


class RequestReplyContract:
    """What requesters and responders can rely on, on every transport; see ``BusContract`` for the use of contracts."""

    async def connect_requests(self, namespace: str, **options: Any) -> RequestReplyBus:
        """Return a request-reply bus that was not started.

        Args:
            namespace: A name that no other test has: no request of others may come here.
            options: Options of ``RequestReplyBus``: ``drain_timeout_s``.
        """
        raise NotImplementedError

    async def request_bus(self, **options: Any) -> RequestReplyBus:
        """Return what ``connect_requests`` gives, in a namespace of its own."""
        return await self.connect_requests(new_namespace(), **options)

    # Replies

    @on_its_own_loop
    async def test_a_reply_arrives_as_it_was_given(self) -> None:
        bus = await self.request_bus()
        answer = Answer(2**63 - 1, "日本語 \x00 🎉", bytes(range(256)), (Answer(-1), Answer()))

        @bus.respond(Ask)
        async def give_a_struct(request: Ask) -> Answer:
            return answer

        @bus.respond(AskText)
        async def give_text(request: AskText) -> str | None:
            return request.text

        @bus.respond(AskList)
        async def give_a_list(request: AskList) -> list[Answer]:
            return [Answer(number) for number in range(request.count)]

        async with bus:
            assert await bus.request(Ask()) == answer
            for text in ("", "x" * 100_000, 'quote " and \\', None):
                reply = await bus.request(AskText(text))
                assert reply == text
            assert await bus.request(AskList(0)) == []
            assert await bus.request(AskList(100)) == [Answer(number) for number in range(100)]

    @on_its_own_loop
    async def test_each_of_100_callers_gets_its_own_replies(self) -> None:
        bus = await self.request_bus()

        @bus.respond(Ask)
        async def double(request: Ask) -> Answer:
            if request.number % 3 == 0:
                await asyncio.sleep(0)
            return Answer(request.number * 2, request.key)

        async def ask(caller: str) -> None:
            for number in range(20):
                assert await bus.request(Ask(caller, number)) == Answer(number * 2, caller)

        async with bus, asyncio.TaskGroup() as tasks:
            for caller in range(100):
                tasks.create_task(ask(f"caller-{caller}"))

    @on_its_own_loop
    async def test_a_responder_may_be_plain_and_may_take_the_envelope(self) -> None:
        bus = await self.request_bus()
        envelopes: list[EventEnvelope[Ask]] = []

        @bus.respond(Ask)
        def in_a_thread(request: Ask, envelope: EventEnvelope[Ask]) -> Answer:
            envelopes.append(envelope)
            return Answer(int(threading.current_thread() is threading.main_thread()))

        async with bus:
            with context(correlation_id="chain-1", user_id="jane"):
                assert await bus.request(Ask("a", 1), headers={"trace": "1"}) == Answer(0)

        (envelope,) = envelopes
        metadata: EventMetadata = envelope.metadata
        assert (envelope.event, metadata.aggregate_id) == (Ask("a", 1), "a")
        assert (metadata.correlation_id, metadata.user_id, dict(metadata.headers)) == (
            "chain-1",
            "jane",
            {"trace": "1"},
        )

    @on_its_own_loop
    async def test_a_responder_may_ask_others(self) -> None:
        bus = await self.request_bus()

        @bus.respond(Ask)
        async def asks(request: Ask) -> Answer:
            text = await bus.request(AskText(request.key))
            return Answer(text=text or "")

        @bus.respond(AskText)
        async def answers(request: AskText) -> str:
            return f"{request.text}!"

        async with bus:
            assert await bus.request(Ask("a")) == Answer(text="a!")

    @on_its_own_loop
    async def test_several_responders_share_the_requests(self) -> None:
        bus = await self.request_bus()
        both_in = asyncio.Barrier(2)

        @bus.respond(Ask, name="first", concurrency=1)
        async def first(request: Ask) -> Answer:
            await both_in.wait()
            return Answer(request.number)

        @bus.respond(Ask, name="second", concurrency=1)
        async def second(request: Ask) -> Answer:
            await both_in.wait()
            return Answer(request.number)

        async with bus, asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(bus.request(Ask("a", number))) for number in range(10)]

        assert [task.result().number for task in waiting] == list(range(10))

    @on_its_own_loop
    async def test_requests_are_answered_by_hand_where_somebody_listens(self) -> None:
        async with await self.request_bus() as bus, asyncio.TaskGroup() as tasks:
            listener = await bus.listen(Ask)

            async def answer() -> None:
                async for request, reply in listener:
                    if request.number == 2:
                        await reply.fail(KeyError("two"))
                    else:
                        await reply.send(Answer(request.number))

            tasks.create_task(answer())
            assert await bus.request(Ask("a", 1)) == Answer(1)
            with pytest.raises(RemoteError, match="KeyError: 'two'"):
                await bus.request(Ask("a", 2))
            assert await bus.request(Ask("a", 3)) == Answer(3)
            await listener.close()

            with pytest.raises(NoResponderError):
                await bus.request(Ask("a", 4))

    # No reply

    @on_its_own_loop
    async def test_without_a_responder_the_requester_is_told_at_once(self) -> None:
        async with await self.request_bus() as bus:
            async with asyncio.timeout(5):
                with pytest.raises(NoResponderError):
                    await bus.request(Ask("a"), timeout_s=1000)

    @on_its_own_loop
    async def test_what_a_responder_raises_reaches_the_requester_and_the_next_request_works(self) -> None:
        bus = await self.request_bus()

        @bus.respond(Ask)
        async def raises(request: Ask) -> Answer:
            if request.number == 0:
                message = "日本語: no such key"
                raise LookupError(message)
            return Answer(request.number)

        async with bus:
            with pytest.raises(RemoteError) as raised:
                await bus.request(Ask("a", 0))
            assert (raised.value.error_type, raised.value.message) == ("LookupError", "日本語: no such key")
            assert await bus.request(Ask("a", 1)) == Answer(1)

    @on_its_own_loop
    async def test_a_reply_that_comes_too_late_is_counted_and_dropped(self) -> None:
        bus = await self.request_bus()
        may_go = asyncio.Event()

        @bus.respond(Ask)
        async def slow(request: Ask) -> Answer:
            if request.number == 0:
                await may_go.wait()
            return Answer(request.number)

        async def is_counted() -> bool:
            return bus.statistics().late_replies == 1

        async with bus:
            with pytest.raises(RequestTimeoutError):
                await bus.request(Ask("a", 0), timeout_s=0.05)
            may_go.set()
            await until(is_counted)

            assert await bus.request(Ask("a", 1)) == Answer(1)
            assert bus.statistics().timed_out == 1

    @pytest.mark.parametrize("after_turns", range(5))
    @on_its_own_loop
    async def test_a_requester_that_is_cancelled_interrupts_nobody(self, after_turns: int) -> None:
        bus = await self.request_bus()
        answered: Collected[int] = Collected()
        asked: list[int] = []

        @bus.respond(Ask)
        async def slow(request: Ask) -> Answer:
            asked.append(request.number)
            for _ in range(3):
                await asyncio.sleep(0)
            answered.add(request.number)
            return Answer(request.number)

        async with bus:
            for number in range(5):
                await interrupted(bus.request(Ask("a", number)), after_turns=after_turns)
            assert await bus.request(Ask("a", 5)) == Answer(5)
            await answered.have(len(asked))

        assert answered.values == asked

    @on_its_own_loop
    async def test_what_is_no_request_is_refused(self) -> None:
        async with await self.request_bus() as bus:
            wrong: Any
            for wrong in (Sent("a"), Ask, "text", None):
                with pytest.raises(NotAnEventError):
                    await bus.request(wrong)

    # The end

    @on_its_own_loop
    async def test_a_close_lets_responders_answer_and_refuses_new_requests(self) -> None:
        bus = await self.request_bus()
        started, may_go = asyncio.Event(), asyncio.Event()

        @bus.respond(Ask)
        async def slow(request: Ask) -> Answer:
            started.set()
            await may_go.wait()
            return Answer(request.number)

        async with asyncio.TaskGroup() as tasks:
            await bus.start()
            waiting = tasks.create_task(bus.request(Ask("a", 1)))
            await started.wait()
            closing = tasks.create_task(bus.close())
            await asyncio.sleep(0)
            with pytest.raises(ClosedError):
                await bus.request(Ask("a", 2))
            may_go.set()

        assert waiting.result() == Answer(1)
        assert closing.done()
        await bus.close()
        with pytest.raises(ClosedError):
            await bus.request(Ask("a", 3))

    @on_its_own_loop
    async def test_a_bus_with_responders_that_was_not_started_refuses_requests(self) -> None:
        bus = await self.request_bus()

        @bus.respond(Ask)
        async def answer(request: Ask) -> Answer:
            return Answer()

        with pytest.raises(NotStartedError):
            await bus.request(Ask("a"))
        await bus.close()


class SharedRequestContract(RequestReplyContract):
    """Requests find the responders of other buses, too, and these come and go."""

    @on_its_own_loop
    async def test_responders_of_several_buses_share_the_requests_of_others(self) -> None:
        namespace = new_namespace()
        answered: Collected[str] = Collected()
        async with AsyncExitStack() as buses:
            for name in ("one", "two", "three"):
                bus = await self.connect_requests(namespace)
                _answer(bus, answered, name)
                await buses.enter_async_context(bus)
            requester = await buses.enter_async_context(await self.connect_requests(namespace))

            async with asyncio.TaskGroup() as tasks:
                replies = [tasks.create_task(requester.request(Ask("a", number))) for number in range(300)]

        assert [reply.result() for reply in replies] == [Answer(number) for number in range(300)]
        assert set(answered.values) == {"one", "two", "three"}

    @on_its_own_loop
    async def test_a_responder_that_leaves_answers_what_it_was_asked_and_is_asked_no_more(self) -> None:
        namespace = new_namespace()
        answered: Collected[str] = Collected()
        async with await self.connect_requests(namespace) as requester:
            staying, leaving = await self.connect_requests(namespace), await self.connect_requests(namespace)
            _answer(staying, answered, "staying")
            _answer(leaving, answered, "leaving")
            async with staying:
                async with leaving, asyncio.TaskGroup() as tasks:
                    first = [tasks.create_task(requester.request(Ask("a", number))) for number in range(50)]
                    await answered.have(10)
                count = len(answered)
                second = [await requester.request(Ask("a", number)) for number in range(50)]

            assert [reply.result() for reply in first] == second == [Answer(number) for number in range(50)]
            assert set(answered.values[count:]) == {"staying"}
            with pytest.raises(NoResponderError):
                await requester.request(Ask("a"))

    @on_its_own_loop
    async def test_no_request_fails_while_responders_come_and_go(self) -> None:
        namespace = new_namespace()
        answered: Collected[str] = Collected()
        replies: Collected[bool] = Collected()
        is_over = False

        async def ask(requester: RequestReplyBus, number: int) -> None:
            while not is_over:
                replies.add(await requester.request(Ask("a", number), timeout_s=20) == Answer(number))

        staying = await self.connect_requests(namespace)
        _answer(staying, answered, "staying")
        async with staying, await self.connect_requests(namespace) as requester, asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(ask(requester, number))
            for number in range(15):
                passing = await self.connect_requests(namespace)
                _answer(passing, answered, f"passing-{number}")
                async with passing:
                    await replies.have(len(replies) + 50)
            is_over = True

        assert all(replies.values)
        assert len(answered) == len(replies)

    @on_its_own_loop
    async def test_a_responder_that_joins_is_asked_soon(self) -> None:
        namespace = new_namespace()
        answered: Collected[str] = Collected()
        async with await self.connect_requests(namespace) as requester:
            with pytest.raises(NoResponderError):
                await requester.request(Ask("a"))
            bus = await self.connect_requests(namespace)
            _answer(bus, answered, "one")
            async with bus:
                assert await requester.request(Ask("a", 1)) == Answer(1)

    @on_its_own_loop
    async def test_a_reply_that_cannot_be_written_is_an_error_of_the_responder(self) -> None:
        namespace = new_namespace()
        async with await self.connect_requests(namespace) as requester:
            bus = await self.connect_requests(namespace)

            @bus.respond(AskText)
            async def give_a_surrogate(request: AskText) -> str | None:
                return "\ud800"

            async with bus:
                with pytest.raises(RemoteError, match="surrogate"):
                    await requester.request(AskText(""))

    @on_its_own_loop
    async def test_a_request_under_an_old_name_is_answered_as_one_of_today(self) -> None:
        namespace = new_namespace()
        old, new = find_guest(), seek_guest()
        async with await self.connect_requests(namespace) as requester:
            bus = await self.connect_requests(namespace)
            seen: Collected[Any] = Collected()

            @bus.respond(new)
            async def find(request: Any) -> int:
                seen.add(request)
                return 7

            async with bus:
                replies = [await requester.request(message("Ada")) for message in (old, new)]
            with pytest.raises(NoResponderError):
                await requester.request(old("Ada"))

        assert replies == [7, 7]
        assert seen.values == [new("Ada"), new("Ada")]

    @on_its_own_loop
    async def test_context_and_headers_reach_the_responder(self) -> None:
        namespace = new_namespace()
        seen: Collected[EventMetadata] = Collected()
        async with await self.connect_requests(namespace) as requester:
            bus = await self.connect_requests(namespace)

            @bus.respond(Ask)
            async def look(request: Ask, envelope: EventEnvelope[Ask]) -> Answer:
                seen.add(envelope.metadata)
                return Answer()

            async with bus:
                with context(correlation_id="chain-1", user_id="jane", causation_id="cause-1"):
                    await requester.request(Ask("a"), headers={"trace": "1"})

        (metadata,) = seen.values
        assert (metadata.correlation_id, metadata.user_id, metadata.causation_id) == ("chain-1", "jane", "cause-1")
        assert dict(metadata.headers) == {"trace": "1"}


def _answer(bus: RequestReplyBus, answered: Collected[str], name: str) -> None:
    @bus.respond(Ask, name=name)
    async def answer(request: Ask) -> Answer:
        answered.add(name)
        await asyncio.sleep(0)
        return Answer(request.number)
