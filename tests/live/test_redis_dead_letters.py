"""Dead letters in Redis: what others left there, servers that are away, clocks that are wrong, members that die."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis

from avx_events import DeadLetterQueue, EventBus
from avx_events.bus.claim_leases import LEASE_S
from avx_events.bus.dead_letters import DeadLetter
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    ClosedError,
    InvalidArgumentError,
    TransportRefusedError,
    TransportUnavailableError,
    WrongLoopError,
)
from avx_events.core.metadata import stamp
from avx_events.distributed.redis.dead_letters import RedisDeadLetters
from avx_events.distributed.redis.names import Names
from avx_events.distributed.redis.pipe import Pipe
from avx_events.distributed.redis.wire import Servers
from avx_events.testing import ManualClock
from tests.live.redis_letters_worker import GROUP, Cracked
from tests.live.redis_letters_worker import LEASE_S as WORKERS_LEASE_S
from tests.live.sqlite_processes import lines, running
from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def namespace() -> str:
    return f"live-{uuid4().hex}"


@pytest.fixture
def url(redis_url: str, namespace: str) -> str:
    return f"{redis_url}?namespace={namespace}"


def a_letter(number: int = 1, **changes: Any) -> DeadLetter:
    letter = DeadLetter(
        id=f"letter-{number:04}",
        handler="mend",
        reason="failed",
        error="KeyError: 'glue'",
        error_type="KeyError",
        attempts=5,
        first_failed_at=AT,
        dead_at=AT,
        envelope=stamp(Cracked("blue"), clock=SYSTEM_CLOCK),
    )
    return msgspec.structs.replace(letter, **changes)


def client(redis_url: str) -> Any:
    return Redis.from_url(redis_url, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes; nothing announces it."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.02)


# What others left there


@pytest.mark.parametrize("document", [b"", b"null", b'{"id": "letter-0002"}', b"\xff\xfe", b"[" * 100_000])
async def test_a_document_that_is_no_letter_hides_no_other(
    redis_url: str, url: str, namespace: str, document: bytes
) -> None:
    async with await DeadLetterQueue.connect(url) as queue, client(redis_url) as redis:
        for number in (1, 2, 3):
            await queue.add(a_letter(number))
        await redis.hset(f"{namespace}:letters", "letter-0002", document)

        letters = await queue.list(handler="mend")

        assert [letter.id for letter in letters] == ["letter-0001", "letter-0002", "letter-0003"]
        odd = letters[1]
        assert (odd.reason, odd.raw, odd.handler, odd.dead_at) == ("undecodable", document, "mend", AT)
        assert await queue.get("letter-0002") == odd
        await queue.remove(odd)
        assert await queue.count() == 2


@pytest.mark.parametrize("facts", ["", "null", "[1]", '{"handler": 7, "dead_at_us": "soon"}', "{" * 10_000, None])
async def test_facts_that_are_none_hide_no_letter_from_who_asks_for_all(
    redis_url: str, url: str, namespace: str, facts: str | None
) -> None:
    async with await DeadLetterQueue.connect(url) as queue, client(redis_url) as redis:
        for number in (1, 2):
            await queue.add(a_letter(number))
        if facts is None:
            await redis.hdel(f"{namespace}:letters:facts", "letter-0001")
        else:
            await redis.hset(f"{namespace}:letters:facts", "letter-0001", facts)

        assert [letter.id for letter in await queue.list()] == ["letter-0001", "letter-0002"]
        assert [letter.id for letter in await queue.list(handler="mend")] == ["letter-0002"]
        assert await queue.claim("letter-0001") is not None
        assert (await queue.purge(error_type="KeyError"), await queue.purge()) == (1, 1)


async def test_a_claim_that_is_none_claims_nothing(redis_url: str, url: str, namespace: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue, client(redis_url) as redis:
        await queue.add(a_letter())
        for claim in ("", "forever", "a b c", f"{'9' * 20}"):
            await redis.hset(f"{namespace}:letters:claims", "letter-0001", claim)

            assert await queue.claim("letter-0001") is not None
            await queue.release("letter-0001")


async def test_keys_of_another_kind_are_refused(redis_url: str, url: str, namespace: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue, client(redis_url) as redis:
        await redis.set(f"{namespace}:letters", "mine")

        for call in (queue.add(a_letter()), queue.get("a"), queue.claim("a"), queue.count()):
            with pytest.raises(TransportRefusedError, match="use another namespace"):
                await call


async def test_a_letter_leaves_nothing_behind(redis_url: str, url: str, namespace: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue, client(redis_url) as redis:
        for number in range(3):
            await queue.add(a_letter(number))
            assert await queue.claim(f"letter-{number:04}")
        await queue.remove("letter-0000")
        await queue.resolve("letter-0001")
        await queue.purge()

        assert await redis.keys(f"{namespace}:*") == []


# Many letters


async def test_more_letters_than_one_page_are_found_and_purged(url: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        async with asyncio.TaskGroup() as tasks:
            for number in range(2_500):
                tasks.create_task(queue.add(a_letter(number, handler="mend" if number % 50 else "glue")))
        every = [f"letter-{number:04}" for number in range(2_500)]

        assert [letter.id for letter in await queue.list()] == every
        assert [letter.id for letter in await queue.list(handler="glue", limit=40)] == every[: 50 * 40 : 50]
        assert [letter.id for letter in await queue.list(handler="glue", after=every[2_400])] == [every[2_450]]
        assert (await queue.purge(handler="glue"), await queue.count()) == (50, 2_450)


async def test_letters_that_fill_more_than_a_page_each_are_found(url: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        for number in range(4):
            await queue.add(a_letter(number, envelope=None, raw=b"x" * 1_000_000))

        assert [letter.id for letter in await queue.list(limit=3)] == ["letter-0000", "letter-0001", "letter-0002"]
        assert len(await queue.list()) == 4


# Opening and closing


@pytest.mark.parametrize(
    "query", ["namespace=", "namespace=a:b", "namespace=%F0%9F%98%80", "timeout_s=0", "timeout_s=soon", "colour=blue"]
)
async def test_a_url_with_a_wrong_option_is_refused(redis_url: str, query: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await DeadLetterQueue.connect(f"{redis_url}?{query}")


async def test_the_options_of_redis_py_are_its_own(redis_url: str, namespace: str) -> None:
    url = f"{redis_url}/7?namespace={namespace}&client_name=letters"
    async with await DeadLetterQueue.connect(url) as queue, client(f"{redis_url}/7") as redis:
        await queue.add(a_letter())

        assert await redis.hlen(f"{namespace}:letters") == 1
        assert "letters" in [connection["name"] for connection in await redis.client_list()]


async def test_a_server_that_does_not_answer_is_not_available() -> None:
    with pytest.raises(TransportUnavailableError):
        await DeadLetterQueue.connect(f"redis://127.0.0.1:{free_port()}?timeout_s=0.1")


async def test_a_namespace_of_another_layout_is_refused(redis_url: str, url: str, namespace: str) -> None:
    async with client(redis_url) as redis:
        await redis.hset(f"{namespace}:meta", "version", "99")

    with pytest.raises(TransportRefusedError, match="layout 99"):
        await DeadLetterQueue.connect(url)


async def test_a_queue_in_redis_is_that_of_the_bus_of_its_namespace(redis_url: str, url: str, namespace: str) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        async with await EventBus.connect(redis_url, namespace=namespace) as bus:
            await bus.dead_letter_queue.add(a_letter())
            assert [letter.id for letter in await queue.list()] == ["letter-0001"]
            await bus.dead_letter_queue.claim("letter-0001")
            assert await queue.claim("letter-0001") is None

        assert await queue.claim("letter-0001") is not None  # the bus gave it up
        with pytest.raises(ClosedError, match="the dead letter queue is closed"):
            await bus.dead_letter_queue.list()


def test_a_queue_is_used_on_its_own_loop(url: str) -> None:
    async def elsewhere(queue: DeadLetterQueue) -> None:
        with pytest.raises(WrongLoopError):
            await queue.list()
        with pytest.raises(WrongLoopError):
            await queue.close()

    async def use() -> None:
        async with await DeadLetterQueue.connect(url) as queue:
            await asyncio.to_thread(asyncio.run, elsewhere(queue))
            await queue.add(a_letter())

    asyncio.run(use())


# Servers that are away


async def test_a_server_that_is_away_is_said_in_time_and_missed_no_longer_than_that(redis_server: Server) -> None:
    async with await DeadLetterQueue.connect(f"{redis_server.url}?timeout_s=0.5") as queue:
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.add(a_letter(2)),
            lambda: queue.get("letter-0001"),
            lambda: queue.claim("letter-0001"),
            lambda: queue.release("letter-0001"),
            lambda: queue.remove("letter-0001"),
            queue.list,
            queue.purge,
            queue.count,
        ]
        await asyncio.to_thread(redis_server.stop)

        outcomes = await asyncio.gather(*(call() for call in calls), return_exceptions=True)  # noqa: TID251 - a test

        assert [type(outcome) for outcome in outcomes] == [TransportUnavailableError] * len(calls)
        await asyncio.to_thread(redis_server.start)
        assert await queue.count() == 1


async def test_a_queue_whose_server_is_away_can_be_closed(redis_server: Server) -> None:
    queue = await DeadLetterQueue.connect(f"{redis_server.url}?timeout_s=0.2")
    await queue.add(a_letter())
    assert await queue.claim("letter-0001")
    await asyncio.to_thread(redis_server.stop)

    async with asyncio.timeout(5):
        await queue.close()


class SendsTwice(Pipe):
    """Sends each command again, as a pipe does where the connection was lost before the reply."""

    def ask(self, command: bytes, **options: Any) -> "asyncio.Future[Any]":
        super().ask(command, **options)
        return super().ask(command, **options)


async def test_a_command_that_is_sent_twice_is_done_once(redis_url: str, namespace: str) -> None:
    servers = Servers(redis_url, timeout_s=5, client={})
    pipe = SendsTwice(servers, timeout_s=5, clock=SYSTEM_CLOCK, what="sends twice")
    await pipe.connect()
    letters = RedisDeadLetters(pipe, Names(namespace), clock=SYSTEM_CLOCK, hang_up=pipe.close)
    async with DeadLetterQueue(store=letters) as queue:
        await queue.add(a_letter())

        assert await queue.claim("letter-0001") is not None
        assert await queue.claim("letter-0001") is None
        await queue.add(a_letter(redrives=1))
        assert await queue.count() == 1
        assert await queue.claim("letter-0001") is not None
        await queue.resolve("letter-0001")
        assert await queue.count() == 0


# Claims


async def test_the_servers_clock_says_when_a_claim_is_over(url: str) -> None:
    far_ahead = ManualClock(datetime(2100, 1, 1, tzinfo=UTC))
    async with (
        await DeadLetterQueue.connect(url) as queue,
        await DeadLetterQueue.connect(url, clock=far_ahead) as other,
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")

        assert await other.claim("letter-0001") is None


async def test_a_claim_is_renewed_while_its_process_lives(redis_url: str, url: str, namespace: str) -> None:
    claims = f"{namespace}:letters:claims"
    clock = ManualClock()
    async with await DeadLetterQueue.connect(url, clock=clock) as queue, client(redis_url) as redis:
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        claim = await redis.hget(claims, "letter-0001")
        about_to_end = f"{claim.split()[0]} 1"
        await redis.hset(claims, "letter-0001", about_to_end)

        clock.advance(LEASE_S / 3)

        async def is_renewed() -> bool:
            return bool(await redis.hget(claims, "letter-0001") != about_to_end)

        await eventually(is_renewed)
        renewed = await redis.hget(claims, "letter-0001")
        assert renewed.split()[0] == claim.split()[0]
        assert int(renewed.split()[1]) >= int(claim.split()[1])


async def test_who_has_lost_a_claim_says_so(
    redis_url: str, url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with await DeadLetterQueue.connect(url, clock=clock) as queue, client(redis_url) as redis:
        for number in (1, 2):
            await queue.add(a_letter(number))
            assert await queue.claim(f"letter-{number:04}")
        await redis.hset(f"{namespace}:letters:claims", "letter-0001", "another 9999999999999")

        clock.advance(LEASE_S / 3)
        await until(lambda: "letter-0001 is redriven here" in caplog.text)

        assert "letter-0002" not in caplog.text


async def test_a_redrive_that_was_killed_can_be_done_again_after_its_lease(redis_url: str, namespace: str) -> None:
    mended = asyncio.Event()
    async with running("redis_letters_worker", redis_url, namespace) as worker:
        letter_id = await anext(lines(worker, str))
        bus = await EventBus.connect(redis_url, namespace=namespace, group=GROUP, redeliver_after_s=WORKERS_LEASE_S)

        @bus.on(Cracked, name="mend", retry=None)
        async def mend(event: Cracked) -> None:
            mended.set()

        async with bus:
            assert not await bus.republish(letter_id)
            worker.kill()
            killed_at = time.monotonic()
            await worker.wait()
            await eventually(lambda: bus.republish(letter_id))
            waited_s = time.monotonic() - killed_at
            await bus.settled()

            assert mended.is_set()
            assert waited_s > WORKERS_LEASE_S / 2, "a claim is renewed three times in a lease"
            assert await bus.dead_letter_queue.list() == []
