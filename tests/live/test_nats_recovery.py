"""What a bus on NATS does when others delete, trim or overwrite what it keeps there, and what it leaves behind."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
import nats
import pytest

from avx_events import (
    ClosedError,
    Event,
    EventBus,
    EventTooLargeError,
    InvalidArgumentError,
    PartitionsMismatchError,
    PublishUnknownError,
    Retry,
    TransportRefusedError,
    TransportUnavailableError,
)
from avx_events.distributed import NatsEventBus
from avx_events.testing.bus_contract import Collected, until
from tests.servers.nats import nats_in
from tests.servers.ports import free_port
from tests.servers.process import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


class Noted(Event, event_type="live.nats.noted", aggregate_id="key"):
    key: str
    number: int
    text: str = ""


class JetStreamClient:
    """Another client of the server, which knows nothing of us."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def api(self, what: str, **asked: object) -> dict[str, Any]:
        answer = await self.client.request(f"$JS.API.{what}", msgspec.json.encode(asked), timeout=5)
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        return found

    async def streams(self) -> list[str]:
        return sorted((await self.api("STREAM.NAMES")).get("streams") or [])

    async def consumers(self, stream: str) -> list[str]:
        return (await self.api(f"CONSUMER.NAMES.{stream}")).get("consumers") or []

    async def subjects(self, stream: str) -> dict[str, int]:
        found = await self.api(f"STREAM.INFO.{stream}", subjects_filter=">")
        return found["state"].get("subjects") or {}


@asynccontextmanager
async def stranger(url: str) -> AsyncGenerator[JetStreamClient]:
    untyped: Any = nats
    client = await untyped.connect(url)
    try:
        yield JetStreamClient(client)
    finally:
        await client.close()


@pytest.fixture
def namespace() -> str:
    return f"recovery-{uuid4().hex}"


async def _has_a_letter(bus: EventBus) -> bool:
    return await bus.dead_letter_queue.count() == 1


def _greets(connection: socket.socket) -> bool:
    return connection.recv(5) == b"INFO "


async def member(url: str, namespace: str, handled: Collected[int], **options: Any) -> EventBus:
    bus = await EventBus.connect(url, namespace=namespace, group="billing", **options)

    @bus.on(Noted, name="handler")
    async def handler(event: Noted) -> None:
        handled.add(event.number)

    return bus


# What is left behind


async def test_nothing_but_positions_is_left_when_a_bus_is_closed(nats_url: str, namespace: str) -> None:
    handled: Collected[int] = Collected()
    async with stranger(nats_url) as other:
        async with await member(nats_url, namespace, handled) as bus:
            listener = await bus.subscribe(Noted)
            await bus.publish_many(Noted(f"key-{number}", number) for number in range(50))
            await handled.have(50)
            assert len(await other.consumers(namespace)) > 0
            await listener.close()

        assert await other.consumers(namespace) == []
        subjects = await other.subjects(f"KV_{namespace}-groups")
        assert {subject.split(".")[4] for subject in subjects} == {"position"}
        assert set(subjects.values()) == {1}


async def test_a_bus_without_groups_makes_one_stream(nats_url: str, namespace: str) -> None:
    async with stranger(nats_url) as other:
        before = await other.streams()
        async with await EventBus.connect(nats_url, namespace=namespace) as bus:
            await bus.publish(Noted("a", 1))
            assert await bus.dead_letter_queue.count() == 0

        assert set(await other.streams()) - set(before) == {namespace}


# What others delete


async def test_a_consumer_that_is_deleted_is_made_again(nats_url: str, namespace: str) -> None:
    handled: Collected[int] = Collected()
    async with stranger(nats_url) as other, await member(nats_url, namespace, handled) as bus:
        await bus.publish(Noted("a", 0))
        await handled.have(1)

        for name in await other.consumers(namespace):
            await other.api(f"CONSUMER.DELETE.{namespace}.{name}")
        await bus.publish_many(Noted("a", number) for number in range(1, 10))

        assert await handled.have(10) == list(range(10))


async def test_a_listener_whose_consumer_is_deleted_misses_nothing(nats_url: str, namespace: str) -> None:
    async with stranger(nats_url) as other, await EventBus.connect(nats_url, namespace=namespace) as bus:
        subscriber = await bus.subscribe(Noted)
        await bus.publish(Noted("a", 0))
        assert await subscriber.recv() == Noted("a", 0)

        for name in await other.consumers(namespace):
            await other.api(f"CONSUMER.DELETE.{namespace}.{name}")
        await bus.publish(Noted("a", 1))

        assert await subscriber.recv() == Noted("a", 1)


async def test_a_stream_that_is_deleted_is_made_again_and_read_from_its_beginning(
    nats_url: str, namespace: str
) -> None:
    handled: Collected[int] = Collected()
    async with stranger(nats_url) as other, await member(nats_url, namespace, handled) as bus:
        await bus.publish_many(Noted("a", number) for number in range(5))
        await handled.have(5)
        listener = await bus.subscribe(Noted, name="reader")

        await other.api(f"STREAM.DELETE.{namespace}")
        await bus.publish_many(Noted("a", number) for number in range(5, 10))

        assert await handled.have(10) == list(range(10))
        assert [(await listener.recv()) for _ in range(5)] == [Noted("a", number) for number in range(5, 10)]


async def test_positions_that_are_deleted_are_written_again_by_who_holds_them(nats_url: str, namespace: str) -> None:
    handled: Collected[int] = Collected()
    async with stranger(nats_url) as other:
        async with await member(nats_url, namespace, handled) as bus:
            await bus.publish_many(Noted("a", number) for number in range(5))
            await handled.have(5)

            await other.api(f"STREAM.DELETE.KV_{namespace}-groups")
            await bus.publish_many(Noted("a", number) for number in range(5, 10))

            assert await handled.have(10) == list(range(10))
        async with await member(nats_url, namespace, handled) as bus:
            await bus.publish(Noted("a", 10))

            assert await handled.have(11) == list(range(11))


async def test_a_position_that_is_overwritten_is_begun_anew(nats_url: str, namespace: str) -> None:
    handled: Collected[int] = Collected()
    async with stranger(nats_url) as other:
        async with await member(nats_url, namespace, handled) as bus:
            await bus.publish_many(Noted("a", number) for number in range(3))
            await handled.have(3)
        for subject in await other.subjects(f"KV_{namespace}-groups"):
            await other.client.request(subject, b"\xff no position")

        async with await member(nats_url, namespace, handled):
            assert await handled.have(6) == [0, 1, 2, 0, 1, 2]


async def test_events_that_are_trimmed_before_they_are_handled_hold_nothing_up(
    nats_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    handled: Collected[int] = Collected()
    begun = asyncio.Event()
    bus = await EventBus.connect(nats_url, namespace=namespace, group="billing", drain_timeout_s=0.1)

    @bus.on(Noted, name="handler", concurrency=2)
    async def stuck(event: Noted) -> None:
        if event.number == 0:
            begun.set()
            await asyncio.Event().wait()
        handled.add(event.number)

    async with stranger(nats_url) as other:
        async with bus:
            await bus.publish(Noted("b", 0))
            await begun.wait()
            await bus.publish_many(Noted("b1", number) for number in range(1, 5))
            await bus.publish_many(Noted(f"key-{number}", number) for number in range(5, 100))
            await handled.have(99)
        await other.api(f"STREAM.PURGE.{namespace}")

        following: Collected[int] = Collected()
        async with await member(nats_url, namespace, following) as bus:
            await bus.publish(Noted("b", 100))

            assert await following.have(1) == [100]
    assert "lost event 1 of lane" in caplog.text


# Attempts, order, and when a lane is taken over


async def test_what_a_dead_member_had_comes_again_in_order_when_its_time_is_up(nats_url: str, namespace: str) -> None:
    """The member is cut off from the server as a dead one is: its bus is left to itself and beats no more."""
    handled: Collected[int] = Collected()
    dead = await EventBus.connect(
        nats_url, namespace=namespace, group="billing", redeliver_after_s=1, drain_timeout_s=0.1
    )
    begun = asyncio.Event()

    @dead.on(Noted, name="handler")
    async def never_ends(event: Noted) -> None:
        begun.set()
        await asyncio.Event().wait()

    await dead.start()
    await dead.publish_many(Noted("a", number) for number in range(20))
    await begun.wait()
    dead_engine: Any = dead._engine
    (intake,) = dead_engine.link._intakes.values()
    await intake._source._lanes._tasks.cancel()  # it beats no more
    loop = asyncio.get_running_loop()
    at = loop.time()

    async with await member(nats_url, namespace, handled, redeliver_after_s=1):
        assert await handled.have(20) == list(range(20))
        assert 0.5 < loop.time() - at < 4
    await dead.close()


# Errors


async def test_another_number_of_partitions_is_told(nats_url: str, namespace: str) -> None:
    async with await EventBus.connect(nats_url, namespace=namespace, partitions=8):
        with pytest.raises(PartitionsMismatchError):
            await EventBus.connect(nats_url, namespace=namespace, partitions=4)


async def test_a_stream_of_somebody_else_is_refused(nats_url: str, namespace: str) -> None:
    async with stranger(nats_url) as other:
        await other.api(f"STREAM.CREATE.{namespace}", name=namespace, subjects=[f"{namespace}.orders"])

    with pytest.raises(TransportRefusedError, match="subjects"):
        await EventBus.connect(nats_url, namespace=namespace)


async def test_a_subject_that_another_stream_has_is_refused(nats_url: str, namespace: str) -> None:
    async with stranger(nats_url) as other:
        await other.api(f"STREAM.CREATE.{namespace}-x", name=f"{namespace}-x", subjects=[f"{namespace}.log.>"])

    with pytest.raises(TransportRefusedError, match="overlap"):
        await EventBus.connect(nats_url, namespace=namespace)


async def test_an_event_larger_than_the_server_takes_is_refused_and_the_next_one_is_sent(
    nats_url: str, namespace: str
) -> None:
    async with await EventBus.connect(nats_url, namespace=namespace, max_event_bytes=8 << 20) as bus:
        subscriber = await bus.subscribe(Noted)

        with pytest.raises(EventTooLargeError):
            await bus.publish(Noted("a", 1, "x" * (1 << 20)))
        await bus.publish(Noted("a", 2))

        assert await subscriber.recv() == Noted("a", 2)


async def test_a_stream_of_smaller_messages_refuses_larger_events(nats_url: str, namespace: str) -> None:
    async with stranger(nats_url) as other:
        await other.api(
            f"STREAM.CREATE.{namespace}", name=namespace, subjects=[f"{namespace}.log.16.*"], max_msg_size=1000
        )
    async with await EventBus.connect(nats_url, namespace=namespace) as bus:
        with pytest.raises(EventTooLargeError):
            await bus.publish(Noted("a", 1, "x" * 2000))


async def test_a_server_that_is_not_there_is_told_after_the_timeout(namespace: str) -> None:
    with pytest.raises(TransportUnavailableError):
        await EventBus.connect(f"nats://127.0.0.1:{free_port()}", namespace=namespace, timeout_s=0.3)


async def test_a_server_that_does_not_answer_is_told_after_the_timeout(namespace: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        with pytest.raises(TransportUnavailableError):
            await EventBus.connect(f"nats://127.0.0.1:{silent.getsockname()[1]}", namespace=namespace, timeout_s=0.3)


async def test_a_bus_of_nats_takes_no_other_url() -> None:
    with pytest.raises(InvalidArgumentError, match="a nats:// URL"):
        await NatsEventBus.connect("redis://localhost:6379")


async def test_a_bus_closes_soon_while_its_server_is_away(nats_server: Server, namespace: str) -> None:
    bus = await EventBus.connect(nats_server.url, namespace=namespace, group="billing", timeout_s=0.5)
    began, closed = asyncio.Event(), asyncio.Event()
    for number in range(8):

        @bus.on(Noted, name=f"handler-{number}")
        async def handler(event: Noted) -> None:
            began.set()
            await closed.wait()

    async with bus:
        await bus.publish_many(Noted("a", number) for number in range(100))
        await began.wait()
        await asyncio.to_thread(nats_server.stop)
        closed.set()
        closing = asyncio.get_running_loop().time()
    took_s = asyncio.get_running_loop().time() - closing

    assert took_s < 8 * 0.5  # not one after the other


async def test_a_closed_bus_says_so_of_its_dead_letters_too(nats_url: str, namespace: str) -> None:
    async with await EventBus.connect(nats_url, namespace=namespace) as bus:
        queue = bus.dead_letter_queue
        assert await queue.count() == 0

    with pytest.raises(ClosedError):
        await queue.count()


@pytest.mark.parametrize("url", ["nats://", "nats://:4222", "nats://host:port", "nats://a,,b"])
async def test_what_is_no_url_of_nats_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await EventBus.connect(url)


async def test_an_option_that_nats_py_does_not_know_is_refused(nats_url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await EventBus.connect(nats_url, no_such_option=1)


async def test_wrong_credentials_are_refused_and_right_ones_work(tmp_path: Any, namespace: str) -> None:
    described = nats_in(tmp_path / "nats", "--user", "jane", "--pass", "s@cret")
    described._is_ready = _greets  # it tells strangers nothing else
    with described as server:
        right = server.url.replace("://", "://jane:s%40cret@")
        for wrong in (server.url, server.url.replace("://", "://jane:wrong@")):
            with pytest.raises(TransportRefusedError, match="uthorization") as refused:
                await EventBus.connect(wrong, namespace=namespace)
            assert "wrong" not in str(refused.value)
        async with await EventBus.connect(right, namespace=namespace) as bus:
            await bus.publish(Noted("a", 1))


async def test_a_server_without_tls_is_refused_where_tls_is_wanted(nats_url: str) -> None:
    with pytest.raises(TransportRefusedError, match="TLS"):
        await EventBus.connect(nats_url.replace("nats://", "tls://"))


async def test_what_is_published_while_the_server_is_away_is_refused_in_time_or_sent_when_it_is_back(
    nats_server: Server, namespace: str
) -> None:
    async with await EventBus.connect(nats_server.url, namespace=namespace, timeout_s=0.5) as bus:
        await asyncio.to_thread(nats_server.stop)
        with pytest.raises(TransportUnavailableError):
            await bus.publish(Noted("a", 1))
        await asyncio.to_thread(nats_server.start)

        while True:
            try:
                await bus.publish(Noted("a", 2))
            except (TransportUnavailableError, PublishUnknownError):  # a server that starts may take its time
                continue
            break


async def test_a_large_dead_letter_is_kept_whole(nats_url: str, namespace: str) -> None:
    bus = await EventBus.connect(nats_url, namespace=namespace, group="billing")

    @bus.on(Noted, name="fails", retry=Retry(attempts=1))
    async def fails(event: Noted) -> None:
        raise RuntimeError("x" * 100)

    event = Noted("a", 1, "x" * 1_000_000)
    async with bus, stranger(nats_url) as other:
        await bus.publish(event)
        await until(partial(_has_a_letter, bus))

        (letter,) = await bus.dead_letter_queue.list()
        assert letter.event == event
        await bus.dead_letter_queue.remove(letter)
        assert await bus.dead_letter_queue.count() == 0
        assert await other.subjects(f"{namespace}-parts") == {}


async def test_the_same_envelope_is_kept_once_and_on_each_topic(nats_url: str, namespace: str) -> None:
    async with await EventBus.connect(nats_url, namespace=namespace) as bus, stranger(nats_url) as other:
        subscriber = await bus.subscribe(Noted)
        await bus.publish(Noted("a", 1))
        envelope = await subscriber.recv_envelope()

        await bus.publish(envelope)

        assert sum((await other.subjects(namespace)).values()) == 1
