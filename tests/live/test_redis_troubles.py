"""What a bus on Redis says and does where something is wrong: with its URL, its server, its keys."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from avx_events import (
    ClosedError,
    Event,
    EventBus,
    EventTooLargeError,
    InvalidArgumentError,
    PartitionsMismatchError,
    RequestReplyBus,
    TopicBus,
    TransportRefusedError,
    TransportUnavailableError,
    UnknownSchemeError,
)
from avx_events.distributed import RedisEventBus
from avx_events.distributed.redis.names import lane_of
from tests.servers.process import Server
from tests.servers.redis import redis_in

pytestmark = pytest.mark.live


class Troubled(Event, event_type="live.troubled", aggregate_id="key"):
    key: str
    number: int = 0


@pytest.fixture
def namespace() -> str:
    return f"troubles-{uuid4().hex}"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as client:  # pyright: ignore[reportUnknownMemberType]
        yield client


async def configure(url: str, name: str, value: str) -> None:
    client: Any
    async with Redis.from_url(url) as client:  # pyright: ignore[reportUnknownMemberType]
        await client.config_set(name, value)


async def until_handled(handled: list[int], expected: list[int]) -> None:
    async with asyncio.timeout(10):
        while handled != expected:  # noqa: ASYNC110 - other processes are between us
            await asyncio.sleep(0.01)


# Connecting


@pytest.mark.parametrize(
    "url", ["redis://", "redis://localhost:port", "redis://localhost/?protocol=x", "localhost:6379"]
)
async def test_a_url_that_is_wrong_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="url must be"):
        await EventBus.connect(url)


async def test_a_bus_of_redis_takes_no_other_url() -> None:
    with pytest.raises(InvalidArgumentError, match="a redis:// URL"):
        await RedisEventBus.connect("nats://localhost:4222")


async def test_a_scheme_that_nobody_serves_is_said_with_those_that_somebody_does() -> None:
    with pytest.raises(UnknownSchemeError, match="redis://"):
        await EventBus.connect("rabbit://localhost")


@pytest.mark.parametrize("bus_class", [EventBus, TopicBus, RequestReplyBus])
async def test_a_server_that_is_not_there_is_an_error_within_its_time(bus_class: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{free.getsockname()[1]}"

        with pytest.raises(TransportUnavailableError, match="is not available"):
            await bus_class.connect(url, timeout_s=0.2)


async def test_a_server_that_does_not_answer_is_an_error_within_its_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(TransportUnavailableError, match=r"no answer|Timeout"):
            await EventBus.connect(url, timeout_s=0.2)


async def test_a_password_that_is_missing_or_wrong_is_refused_and_not_shown(tmp_path: Path) -> None:
    with redis_in(tmp_path) as server:
        await configure(server.url, "requirepass", "right")
        for credentials in ("", ":wr0ng@", "jane:wr0ng@"):
            url = server.url.replace("redis://", f"redis://{credentials}")
            with pytest.raises(TransportRefusedError, match="redis://user:password@host") as caught:
                await EventBus.connect(url)
            assert "wr0ng" not in str(caught.value)

        async with await EventBus.connect(server.url.replace("redis://", "redis://:right@")) as bus:
            await bus.publish(Troubled("a"))


async def test_tls_to_a_server_without_it_is_an_error(redis_url: str) -> None:
    with pytest.raises((TransportRefusedError, TransportUnavailableError)):
        await EventBus.connect(redis_url.replace("redis://", "rediss://"), timeout_s=0.5)


async def test_members_must_agree_on_the_number_of_partitions(redis_url: str, namespace: str) -> None:
    async with await EventBus.connect(redis_url, namespace=namespace, partitions=4):
        with pytest.raises(PartitionsMismatchError, match="has 4 partitions, not 8; connect with partitions=4"):
            await EventBus.connect(redis_url, namespace=namespace, partitions=8)


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": 0},
        {"partitions": 2000},
        {"namespace": ""},
        {"namespace": "a b"},
        {"group": ""},
        {"start": "middle"},
        {"redeliver_after_s": 0},
        {"timeout_s": -1},
        {"capacity": 0},
        {"retention_s": 0},
        {"max_events": 0},
        {"max_event_bytes": 0},
        {"no_such_option": 1},
    ],
)
async def test_an_option_that_is_wrong_is_said_before_anything_is_done(redis_url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await EventBus.connect(redis_url, **options)


# While it runs


async def test_an_event_past_the_limit_is_refused_and_the_next_one_is_sent(redis_url: str, namespace: str) -> None:
    async with await EventBus.connect(redis_url, namespace=namespace, max_event_bytes=1000) as bus:
        subscriber = await bus.subscribe(Troubled)

        with pytest.raises(EventTooLargeError, match="max_event_bytes=1,000"):
            await bus.publish(Troubled("x" * 1000))
        await bus.publish(Troubled("a", 2))

        assert await subscriber.recv() == Troubled("a", 2)


async def test_a_consumer_group_that_somebody_deletes_is_made_again_where_it_was(
    redis_url: str, namespace: str, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await EventBus.connect(redis_url, namespace=namespace, group="billing")
    handled: list[int] = []

    @bus.on(Troubled, name="handler")
    async def handler(event: Troubled) -> None:
        handled.append(event.number)

    async with bus:
        await bus.publish(Troubled("a", 1))
        await until_handled(handled, [1])
        await redis.xgroup_destroy(f"{namespace}:log:{lane_of('a', 16)}", "billing:handler")
        await bus.publish(Troubled("a", 2))

        await until_handled(handled, [1, 2])
    assert "the consumer group billing:handler is gone" in caplog.text


async def test_everything_that_somebody_deletes_is_made_again(redis_url: str, namespace: str, redis: Any) -> None:
    bus = await EventBus.connect(redis_url, namespace=namespace, group="billing", redeliver_after_s=1)
    handled: list[int] = []

    @bus.on(Troubled, name="handler")
    async def handler(event: Troubled) -> None:
        handled.append(event.number)

    async with bus:
        await bus.publish(Troubled("a", 1))
        await until_handled(handled, [1])
        await redis.delete(*[key async for key in redis.scan_iter(f"{namespace}:*")])
        await bus.publish(Troubled("a", 2))

        await until_handled(handled, [1, 2])


async def test_events_that_are_trimmed_before_they_are_handled_are_said_and_those_after_them_are_handled(
    redis_url: str, namespace: str, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stream = f"{namespace}:log:{lane_of('a', 16)}"
    handled: list[int] = []
    began, may_end = asyncio.Event(), asyncio.Event()

    async def handler(event: Troubled) -> None:
        handled.append(event.number)
        began.set()
        await may_end.wait()

    async with await EventBus.connect(redis_url, namespace=namespace) as publisher:
        first = await EventBus.connect(redis_url, namespace=namespace, group="billing", drain_timeout_s=0.1)
        first.on(Troubled, name="handler")(handler)
        async with first:
            await publisher.publish_many(Troubled("a", number) for number in range(3))
            await began.wait()
            await redis.xtrim(stream, maxlen=0, approximate=False)
        may_end.set()
        second = await EventBus.connect(redis_url, namespace=namespace, group="billing")
        second.on(Troubled, name="handler")(handler)
        async with second:
            await publisher.publish(Troubled("a", 3))

            await until_handled(handled, [0, 3])
    assert "billing:handler lost" in caplog.text


async def test_a_stream_of_something_else_is_an_error_and_not_a_stall(
    redis_url: str, namespace: str, redis: Any
) -> None:
    await redis.set(f"{namespace}:log:{lane_of('a', 16)}", "no stream")
    async with await EventBus.connect(redis_url, namespace=namespace) as bus:
        with pytest.raises(TransportRefusedError, match="WRONGTYPE"):
            await bus.publish(Troubled("a"))

    bus = await EventBus.connect(redis_url, namespace=namespace, group="billing")

    @bus.on(Troubled, name="handler")
    async def handler(event: Troubled) -> None:
        del event

    with pytest.raises(TransportRefusedError, match="WRONGTYPE"):
        await bus.start()
    await bus.close()


async def test_a_full_server_refuses_what_is_published_and_takes_it_again_later(tmp_path: Path) -> None:
    with redis_in(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        async with await EventBus.connect(server.url, namespace="full", retention_s=None) as bus:
            with pytest.raises(TransportUnavailableError, match=r"OOM|maxmemory"):
                await bus.publish_many(Troubled("x" * 5000, number) for number in range(2000))
            await configure(server.url, "maxmemory", "100mb")
            await bus.publish(Troubled("a"))


async def test_a_server_that_is_away_fails_a_publish_after_its_time_and_works_when_it_is_back(
    redis_server: Server,
) -> None:
    async with await EventBus.connect(redis_server.url, timeout_s=0.5) as bus:
        await bus.publish(Troubled("a", 1))
        await asyncio.to_thread(redis_server.stop)

        with pytest.raises(TransportUnavailableError, match="nothing was sent"):
            await bus.publish(Troubled("a", 2))
        await asyncio.to_thread(redis_server.start)
        await bus.publish(Troubled("a", 3))


async def test_a_bus_closes_soon_while_its_server_is_away(redis_server: Server) -> None:
    bus = await EventBus.connect(redis_server.url, group="billing", timeout_s=0.5)
    began, closed = asyncio.Event(), asyncio.Event()
    for number in range(8):

        @bus.on(Troubled, name=f"handler-{number}")
        async def handler(event: Troubled) -> None:
            began.set()
            await closed.wait()

    async with bus:
        await bus.publish_many(Troubled("a", number) for number in range(100))
        await began.wait()
        await asyncio.to_thread(redis_server.stop)
        closed.set()
        closing = asyncio.get_running_loop().time()
    took_s = asyncio.get_running_loop().time() - closing

    assert took_s < 8 * 0.5  # not one after the other


# What is left


async def test_a_bus_leaves_no_connection_no_member_and_no_consumer_behind(
    redis_url: str, namespace: str, redis: Any
) -> None:
    async def handler(event: Troubled) -> None:
        del event

    before = {client["id"] for client in await redis.client_list()}
    for _ in range(3):
        bus = await EventBus.connect(redis_url, namespace=namespace, group="billing")
        bus.on(Troubled, name="handler")(handler)
        async with bus:
            await bus.subscribe(Troubled)
            await bus.publish_many(Troubled(f"key-{number}", number) for number in range(50))
            await bus.settled()
        async with await RequestReplyBus.connect(redis_url, namespace=namespace):
            pass

    async with asyncio.timeout(5):
        while {client["id"] for client in await redis.client_list()} - before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the server sees a connection's end a little later
    assert not await redis.exists(f"{namespace}:consumer:billing:handler:members")
    for lane in range(16):
        assert len(await redis.xinfo_consumers(f"{namespace}:log:{lane}", "billing:handler")) <= 1


async def test_a_closed_bus_says_so_of_its_dead_letters_too(redis_url: str, namespace: str) -> None:
    async with await EventBus.connect(redis_url, namespace=namespace) as bus:
        queue = bus.dead_letter_queue
        assert await queue.count() == 0

    with pytest.raises(ClosedError):
        await queue.count()
