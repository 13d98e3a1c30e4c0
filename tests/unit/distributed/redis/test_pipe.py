"""Commands go out while others are on their way, and each gets its reply or learns what became of it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis.exceptions

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import PublishUnknownError, TransportRefusedError, TransportUnavailableError
from avx_events.distributed.redis.flow import Flow, Listener
from avx_events.distributed.redis.pipe import Pipe

if TYPE_CHECKING:
    from avx_events.distributed.redis.wire import Servers


class Stand:
    """A server, its connections and what was written to each of them."""

    name = "redis://there"

    def __init__(self) -> None:
        self.written: list[list[bytes]] = []
        self.flow_now: Any = None
        self.listener: Any = None

    def wire(self) -> "Stand":
        return self

    async def connect(self) -> None:
        self.written.append([])

    async def close(self) -> None:
        self.flow_now = None

    def flow(self, listener: Listener) -> Flow:
        self.listener = listener
        self.flow_now = Flow(cast("asyncio.Transport", self), cast("Any", self), listener)
        return self.flow_now  # type: ignore[no-any-return]

    def refused(self, error: Exception) -> TransportRefusedError:
        return TransportRefusedError(self.name, str(error), remedy="give a password")

    def write(self, data: bytes) -> None:
        self.written[-1].append(data)

    def abort(self) -> None:
        self.flow_now = None

    def taken(self, data: bytes) -> list[Any]:
        return [data]


def unknown(problem: str) -> Exception:
    return PublishUnknownError("redis://there", "a.type", problem)


@pytest.fixture
def stand() -> Stand:
    return Stand()


def pipe_to(stand: Stand, *, timeout_s: float = 10) -> Pipe:
    return Pipe(cast("Servers", stand), timeout_s=timeout_s, clock=SYSTEM_CLOCK, what="test")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - a turn of the loop at a time
            await asyncio.sleep(0)


async def test_what_is_asked_in_one_turn_goes_out_in_one_write_and_does_not_wait_for_what_is_on_its_way(
    stand: Stand,
) -> None:
    pipe = pipe_to(stand)

    first, second = pipe.ask(b"1"), pipe.ask(b"2")
    await until(lambda: stand.written and stand.written[0])
    third = pipe.ask(b"3")
    await until(lambda: len(stand.written[0]) > 1)
    stand.listener.take([b"one", b"two"])
    stand.listener.take([b"three"])

    assert stand.written == [[b"12", b"3"]]
    assert [await first, await second, await third] == [b"one", b"two", b"three"]


async def test_no_more_than_so_much_is_on_its_way_and_replies_let_more_out(stand: Stand) -> None:
    pipe = pipe_to(stand)

    replies = [pipe.ask(b"x") for _ in range(1500)]
    await until(lambda: stand.written and stand.written[0])
    assert stand.written == [[b"x" * 1000]]
    stand.listener.take([b"done"] * 10)

    assert stand.written == [[b"x" * 1000, b"x" * 10]]
    assert sum(reply.done() for reply in replies) == 10


async def test_a_server_that_takes_less_than_is_written_is_given_nothing_until_it_has(stand: Stand) -> None:
    pipe = pipe_to(stand)
    answered = pipe.ask(b"1")
    await until(lambda: stand.written and stand.written[0])

    stand.flow_now.pause_writing()
    reply = pipe.ask(b"2")
    stand.listener.take([b"one"])
    await answered
    assert stand.written == [[b"1"]]
    stand.flow_now.resume_writing()
    stand.listener.take([b"two"])

    assert await reply == b"two"


async def test_when_the_connection_is_lost_what_does_no_harm_is_sent_again_before_everything_else(
    stand: Stand,
) -> None:
    pipe = pipe_to(stand)
    harmless, published = pipe.ask(b"1"), pipe.ask(b"2", unconfirmed=unknown)
    await until(lambda: stand.written and stand.written[0])

    again = pipe.ask(b"3", unconfirmed=unknown)
    stand.flow_now.connection_lost(OSError("cut"))
    with pytest.raises(PublishUnknownError, match="cut"):
        await published
    await until(lambda: len(stand.written) > 1 and stand.written[1])
    stand.listener.take([b"one", b"three"])

    assert stand.written == [[b"12"], [b"13"]]
    assert [await harmless, await again] == [b"one", b"three"]


async def test_what_comes_from_a_connection_that_was_lost_is_nobodys(stand: Stand) -> None:
    pipe = pipe_to(stand)
    reply = pipe.ask(b"1")
    await until(lambda: stand.written and stand.written[0])
    lost = stand.flow_now

    lost.eof_received()
    await until(lambda: len(stand.written) > 1 and stand.written[1])
    lost.data_received(b"late")
    lost.connection_lost(None)
    assert not reply.done()
    stand.flow_now.data_received(b"one")

    assert await reply == b"one"
    assert len(stand.written) == 2


async def test_an_answer_that_does_not_come_ends_the_connection(stand: Stand) -> None:
    pipe = pipe_to(stand, timeout_s=0.01)
    reply = pipe.ask(b"1", unconfirmed=unknown)

    with pytest.raises(PublishUnknownError, match=r"no answer within 0\.01 s"):
        await reply

    assert stand.flow_now is None


async def test_what_is_cancelled_before_it_was_sent_is_not_sent(stand: Stand) -> None:
    pipe = pipe_to(stand)
    pipe.ask(b"1").cancel()
    reply = pipe.ask(b"2")
    await until(lambda: stand.written and stand.written[0])

    stand.listener.take([b"two"])

    assert stand.written == [[b"2"]]
    assert await reply == b"two"


async def test_a_server_that_asks_for_a_password_has_done_nothing_and_refuses_all(stand: Stand) -> None:
    pipe = pipe_to(stand)
    replies = [pipe.ask(b"1", unconfirmed=unknown), pipe.ask(b"2", unconfirmed=unknown)]
    await until(lambda: stand.written and stand.written[0])

    stand.listener.take([redis.exceptions.AuthenticationError("Authentication required."), b"never read"])

    for reply in replies:
        with pytest.raises(TransportRefusedError, match="give a password"):
            await reply


async def test_a_close_waits_for_what_was_sent_and_leaves_nobody_waiting(stand: Stand) -> None:
    pipe = pipe_to(stand)
    replies = [pipe.ask(b"1"), pipe.ask(b"2", unconfirmed=unknown)]
    await until(lambda: stand.written and stand.written[0])

    async with asyncio.TaskGroup() as closing:
        closing.create_task(pipe.close())
        await until(lambda: len(stand.written[0]) > 1)
        stand.listener.take([b"one", b"two", b"PONG"])

    assert [await reply for reply in replies] == [b"one", b"two"]
    assert stand.flow_now is None


async def test_a_close_while_nobody_answers_tells_those_who_wait_what_became_of_their_commands(stand: Stand) -> None:
    pipe = pipe_to(stand, timeout_s=0.05)
    harmless, published = pipe.ask(b"1"), pipe.ask(b"2", unconfirmed=unknown)
    await until(lambda: stand.written and stand.written[0])

    await pipe.close()

    with pytest.raises(TransportUnavailableError):
        await harmless
    with pytest.raises(PublishUnknownError):
        await published


async def test_a_close_does_not_wait_for_a_server_that_is_away_where_nobody_else_does(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_there() -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(stand, "connect", nobody_there)
    pipe = pipe_to(stand, timeout_s=3600)
    reply = pipe.ask(b"1")
    await asyncio.sleep(0)
    reply.cancel()

    async with asyncio.timeout(5):
        await pipe.close()
    assert stand.written == []
