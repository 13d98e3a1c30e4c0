"""The servers of the tests do as they are told, and none of them outlives the tests."""

# The clients of NATS and Redis do not say of which types the options of some functions are.
# pyright: reportUnknownMemberType=false

import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import nats
import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.kafka import kafka_in
from tests.servers.ports import free_port
from tests.servers.process import Server, ServerFailedError
from tests.servers.proxy import Proxy
from tests.servers.redis import redis_in

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]

STARTS_A_SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tests.servers.proxy import Proxy
from tests.servers.redis import redis_in

server = redis_in(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def redis_says(server: Server, *words: str, timeout_s: float = 10) -> bytes:
    """Send one command on a connection of its own, and return the first of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout_s) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(1024)


def wait_for_the_end_of(pid: int) -> None:
    """Return when no process has this id, at once if that is so already."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(process):
        ended, _, _ = select.select([process], [], [], 10)
    assert ended


def test_redis_answers_at_its_url(redis_url: str) -> None:
    host, _, port = redis_url.removeprefix("redis://").partition("/")[0].rpartition(":")

    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"


def test_redis_that_is_killed_comes_back_on_its_port_with_its_data(redis_server: Server) -> None:
    redis_says(redis_server, "SET", "kept", "yes")

    redis_server.kill()
    with pytest.raises(ConnectionRefusedError):
        redis_says(redis_server, "PING")
    redis_server.start()

    assert redis_says(redis_server, "GET", "kept") == b"$3\r\nyes\r\n"


def test_redis_that_is_restarted_is_another_process_with_the_same_data(redis_server: Server) -> None:
    before = redis_server.pid
    redis_says(redis_server, "SET", "kept", "yes")

    redis_server.restart()

    assert redis_server.pid != before
    assert redis_says(redis_server, "GET", "kept") == b"$3\r\nyes\r\n"


async def test_nats_has_jetstream_at_its_url(nats_url: str) -> None:
    async with await nats.connect(nats_url) as client:
        account = await client.jetstream().account_info()

    assert account.limits.max_streams == -1


async def test_nats_that_is_killed_comes_back_on_its_port_with_its_streams(nats_server: Server) -> None:
    async with await nats.connect(nats_server.url) as client:
        await client.jetstream().add_stream(name="kept", subjects=["kept.*"])
        await client.jetstream().publish("kept.one", b"yes")

    nats_server.kill()
    nats_server.start()

    async with await nats.connect(nats_server.url) as client:
        message = await client.jetstream().get_msg("kept", 1)
    assert message.data == b"yes"


def test_kafka_has_one_broker_at_its_url(kafka_url: str) -> None:
    address = kafka_url.removeprefix("kafka://")

    brokers = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers

    assert [f"{broker.host}:{broker.port}" for broker in brokers.values()] == [address]


def test_kafka_that_is_killed_comes_back_on_its_port_with_its_topics(kafka_server: Server) -> None:
    address = kafka_server.url.removeprefix("kafka://")
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    producer.produce("kept", b"yes")
    assert producer.flush(10) == 0

    kafka_server.kill()
    kafka_server.start()

    consumer = Consumer({"bootstrap.servers": address, "group.id": "late", "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    with closing(consumer):
        message = consumer.poll(20)
    assert message is not None
    assert message.value() == b"yes"


def test_kafka_stops_in_good_order(kafka_server: Server) -> None:
    kafka_server.stop()

    assert not kafka_server.is_running


def test_a_server_that_has_ended_is_not_paused(redis_server: Server) -> None:
    redis_server.stop()

    with pytest.raises(ServerFailedError, match="has ended"):
        redis_server.pause()


def test_a_server_that_is_paused_answers_when_it_is_resumed(redis_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", redis_server.port), 10) as connection:
        redis_server.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(64)
        connection.settimeout(10)
        redis_server.resume()

        assert connection.recv(64) == b"+PONG\r\n"


def test_a_server_that_is_paused_can_be_stopped(redis_server: Server) -> None:
    redis_server.pause()

    redis_server.stop()

    assert not redis_server.is_running
    assert redis_server.log.read_text().endswith("bye bye...\n")


def test_a_server_that_does_not_answer_in_time_is_said_to_be_late(redis_server: Server) -> None:
    redis_server.pause()

    with pytest.raises(ServerFailedError, match=r"was not ready after 0\.1 s"):
        redis_server.wait_until_ready(timeout_s=0.1)


def test_a_server_that_ends_by_itself_is_said_to_have_ended_and_why(redis_server: Server, tmp_path: Path) -> None:
    unable = redis_in(tmp_path / "unable", "--no-such-option", "yes")

    with pytest.raises(ServerFailedError, match=r"(?s)has ended.*no-such-option"):
        unable.start()


def test_a_server_is_not_started_twice(redis_server: Server) -> None:
    with pytest.raises(ServerFailedError, match="runs already"):
        redis_server.start()


def test_redis_is_reached_through_a_proxy_again_after_a_cut(redis_server: Server) -> None:
    never = Retry(NoBackoff(), 0)
    with Proxy(redis_server.port) as proxy, redis.Redis(port=proxy.port, retry=never, socket_timeout=10) as client:
        assert client.ping()
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        proxy.mend()

        assert client.ping()


def test_kafka_can_be_behind_a_proxy(tmp_path: Path, kafka_url: str) -> None:
    with Proxy(free_port()) as proxy:
        there = f"127.0.0.1:{proxy.port}"
        with kafka_in(tmp_path / "kafka", port=proxy.target_port, advertised_listeners=f"PLAINTEXT://{there}"):
            producer = Producer({"bootstrap.servers": there, "message.timeout.ms": 10_000})
            producer.produce("topic", b"value")

            assert producer.flush(10) == 0
            assert proxy.connections > 0


def test_no_server_outlives_a_process_that_is_killed(tmp_path: Path, redis_server: Server) -> None:
    command = [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path / "other")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as starter:  # noqa: S603 - our own program
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.send_signal(signal.SIGKILL)

    wait_for_the_end_of(pid)


def test_a_server_outlives_the_thread_that_told_it_to_start(redis_server: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(redis_server.restart).result(30)

    assert redis_says(redis_server, "PING") == b"+PONG\r\n"


def test_no_server_outlives_its_block(redis_server: Server, tmp_path: Path) -> None:
    with redis_in(tmp_path / "other") as server:
        pid = server.pid

    assert not server.is_running
    wait_for_the_end_of(pid)
