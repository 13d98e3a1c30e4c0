"""What a bus does with requests that come from elsewhere, while it is closed."""

import asyncio
from collections.abc import Callable

import msgspec

from avx_events import Request, RequestReplyBus
from avx_events.bus.remote.ports import Address, OnFailed, Question
from avx_events.bus.request_reply import RemoteOptions
from avx_events.core import cloudevents
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import stamp


class Ask(Request[int], event_type="remote.ask"):
    """The request of the tests below."""

    number: int


class Requesters:
    """A broker over which others ask this bus, and no more."""

    def __init__(self) -> None:
        self.name = "requesters"
        self.replies: list[bytes] = []
        self._responders: dict[str, Callable[[Question], None]] = {}

    def give(self, request: Ask) -> None:
        """Ask, if anybody responds."""
        document = cloudevents.encode(stamp(request, clock=SYSTEM_CLOCK), source="/tests", max_bytes=1000)
        on_question = self._responders.get("remote.ask")
        if on_question is not None:
            on_question(Question(document, "requester", 5))

    async def open(self, on_reply: Callable[[bytes], None]) -> None:
        del on_reply

    async def respond(self, event_type: str, on_question: Callable[[Question], None] | None) -> None:
        if on_question is None:
            self._responders.pop(event_type, None)
        else:
            self._responders[event_type] = on_question

    def ask(self, event_type: str, document: bytes, *, event_id: str, timeout_s: float, on_failed: OnFailed) -> None:
        del event_type, document, event_id, timeout_s, on_failed

    def reply(self, to: Address, document: bytes) -> None:
        del to
        self.replies.append(document)

    async def close(self) -> None:
        pass


async def test_what_is_asked_in_the_turn_in_which_an_idle_bus_is_closed_is_answered() -> None:
    requesters = Requesters()
    bus = RequestReplyBus(remote=RemoteOptions(requesters, "/tests", 1000))

    @bus.respond(Ask)
    async def answer(request: Ask) -> int:
        await asyncio.sleep(0)
        return request.number

    await bus.start()
    asyncio.get_running_loop().call_soon(requesters.give, Ask(7))
    await bus.close()
    requesters.give(Ask(8))

    assert [msgspec.json.decode(reply).get("result") for reply in requesters.replies] == [7]
