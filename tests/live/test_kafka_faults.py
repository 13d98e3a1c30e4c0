"""What happens to the broker, its topics and its groups while they are in use, and who may not use them."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any, ClassVar, Final

import pytest
from confluent_kafka import Producer, TopicPartition, cimpl
from confluent_kafka.admin import AdminClient

from avx_events import Event, EventBus, Request, RequestReplyBus
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    EventTooLargeError,
    NoResponderError,
    PublishUnknownError,
    RequestTimeoutError,
    RetryableError,
    TransportRefusedError,
    TransportUnavailableError,
)
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.names import Names, lane_of
from avx_events.distributed.kafka.responders import LIFE_S
from avx_events.distributed.kafka.wire import Servers
from avx_events.testing.bus_contract import Collected, new_namespace, until
from avx_events.testing.own_loop import on_its_own_loop
from tests.live.fault_suite import FaultSuite
from tests.servers.kafka import kafka_in
from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.live

PARTITIONS: Final = 4
SOON: Final[dict[str, Any]] = {"partitions": PARTITIONS, "heartbeat_interval_ms": 100}


class Happened(Event, event_type="kafka.happened", aggregate_id="key"):
    """The event of the tests below."""

    key: str
    number: int = 0


RESPONDER: Final = """
import asyncio, sys
from avx_events import Request, RequestReplyBus

class Question(Request[int], event_type="kafka.question"):
    number: int

async def main(url, namespace):
    bus = await RequestReplyBus.connect(url, namespace=namespace)

    @bus.respond(Question)
    async def respond(question: Question) -> int:
        return question.number

    async with bus:
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def collect(bus: EventBus, handled: Collected[Happened]) -> None:
    """Have a handler that keeps what it gets."""

    @bus.on(Happened, name="handler", concurrency=4)
    async def handler(event: Happened) -> None:
        handled.add(event)


async def until_published(bus: EventBus, event: Happened) -> None:
    """Publish until the broker takes it."""

    async def is_published() -> bool:
        try:
            await bus.publish(event)
        except RetryableError:
            return False
        return True

    await until(is_published)


async def until_gone(server: Server, topic: str) -> None:
    """Return when the broker takes nothing for ``topic`` any more: a busy one still does when it has said so."""
    cluster = Cluster(Servers(server.url, {}), timeout_s=10, clock=SYSTEM_CLOCK)
    asked = requests.list_offsets(topic, range(PARTITIONS), requests.LATEST)

    async def is_gone() -> bool:
        return all(code for code, _ in requests.listed(await cluster.ask_anybody(asked)).values())

    await until(is_gone)
    await cluster.close()


async def until_letters(bus: EventBus, count: int) -> None:
    """Return when there are so many dead letters."""

    async def are_there() -> bool:
        return await bus.dead_letter_queue.count() == count

    await until(are_there)


def produce_as_others_do(url: str, topic: str) -> None:
    """Publish with another client, which chooses the partition itself: both modes, and a tombstone between them."""
    producer = Producer({"bootstrap.servers": url.removeprefix("kafka://"), "partitioner": "murmur2_random"})
    attributes = {"specversion": "1.0", "id": "1", "source": "/others", "type": "kafka.happened", "subject": "a"}
    structured = json.dumps(attributes | {"data": {"key": "a", "number": 1}})
    producer.produce(topic, structured, b"a", headers={"content-type": "application/cloudevents+json"})
    producer.produce(topic, None, b"a")
    binary: dict[str, str | bytes | None] = {"content-type": "application/json"}
    binary |= {f"ce_{name}": value for name, value in attributes.items()}
    producer.produce(topic, b'{"key":"a","number":2}', b"a", headers=binary)
    assert producer.flush(10) == 0


@pytest.fixture(scope="module")
def proxied() -> tuple[int, int]:
    """Return where a proxy listens, and where the server listens to it: clients go where the server sends them."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, proxied: tuple[int, int]) -> Iterator[Server]:
    """Run a server of their own that takes short sessions, which the tests stop and start."""
    del kafka_url  # which skips where there is no Kafka
    port, controller = free_port(), free_port()
    outside, inside = proxied
    direct = f"PLAINTEXT://127.0.0.1:{port}"
    settings: dict[str, object] = {
        "listeners": f"{direct},PROXIED://127.0.0.1:{inside},CONTROLLER://127.0.0.1:{controller}",
        "advertised_listeners": f"{direct},PROXIED://127.0.0.1:{outside}",
        "listener_security_protocol_map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller_quorum_voters": f"1@127.0.0.1:{controller}",
        "group_min_session_timeout_ms": 500,
    }
    with kafka_in(tmp_path_factory.mktemp("kafka"), port=port, **settings) as server:
        yield server


@pytest.mark.timeout(120)
class TestKafka(FaultSuite):
    """One server for all tests, each of which has names of its own there."""

    options: ClassVar[dict[str, Any]] = {**FaultSuite.options, **SOON}

    @pytest.fixture
    def server(self, server: Server, proxied: tuple[int, int]) -> Server:
        self._proxied = proxied
        return server

    def proxy(self, server: Server) -> Proxy:
        del server
        outside, inside = self._proxied
        return Proxy(inside, port=outside)


@pytest.fixture
def admin(server: Server) -> Any:
    return AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://")})


async def member(server: Server, namespace: str, **options: Any) -> EventBus:
    return await EventBus.connect(server.url, namespace=namespace, group="faults", **SOON, **options)


@on_its_own_loop
async def test_nobody_waits_longer_for_a_broker_that_is_away_than_was_said(server: Server) -> None:
    async with await member(server, new_namespace(), timeout_s=2) as bus:
        await bus.publish(Happened("a"))
        await asyncio.to_thread(server.stop)
        try:
            with pytest.raises(TransportUnavailableError):
                await bus.publish(Happened("a", 1))
            with pytest.raises(TransportUnavailableError):
                await member(server, new_namespace(), timeout_s=0.2)
        finally:
            await asyncio.to_thread(server.start)


@on_its_own_loop
async def test_a_publish_that_gets_no_answer_is_unknown(server: Server) -> None:
    async with await member(server, new_namespace(), timeout_s=2) as bus:
        await bus.publish(Happened("a"))
        server.pause()
        try:
            with pytest.raises(PublishUnknownError):
                await bus.publish(Happened("a", 1))
        finally:
            server.resume()
        await until_published(bus, Happened("a", 2))


@on_its_own_loop
async def test_a_bus_is_closed_soon_while_the_broker_is_away(server: Server) -> None:
    bus = await member(server, new_namespace(), timeout_s=5)
    handled: Collected[Happened] = Collected()
    collect(bus, handled)
    await bus.start()
    await bus.publish(Happened("a"))
    await handled.have(1)
    await bus.settled()
    server.pause()
    try:
        async with asyncio.timeout(4):
            await bus.close()
    finally:
        server.resume()


@on_its_own_loop
async def test_the_group_does_not_wait_for_members_that_left_while_they_joined(server: Server) -> None:
    namespace = new_namespace()
    for turns in range(40):
        passing = await member(server, namespace, redeliver_after_s=60)
        collect(passing, Collected())
        await passing.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await passing.close()
    handled: Collected[Happened] = Collected()
    bus = await member(server, namespace, redeliver_after_s=60)
    collect(bus, handled)
    async with bus:
        await bus.publish(Happened("a"))

        await handled.have(1)  # within the test's deadline, which is shorter than the session of a member that is gone


@on_its_own_loop
async def test_a_topic_that_is_deleted_is_made_anew_and_reading_goes_on(
    server: Server, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    namespace = new_namespace()
    handled: Collected[Happened] = Collected()
    bus = await member(server, namespace)
    collect(bus, handled)
    async with bus:
        await bus.publish_many(Happened("a", number) for number in range(5))
        await handled.have(5)
        await asyncio.to_thread(admin.delete_topics([Names(namespace).log])[Names(namespace).log].result)
        await until_gone(server, Names(namespace).log)
        await until_published(bus, Happened("a", 5))

        assert (await handled.have(6))[-1] == Happened("a", 5)
    assert "was made anew" in caplog.text


@on_its_own_loop
async def test_what_kafka_has_deleted_before_it_was_handled_is_said_and_the_rest_is_handled(
    server: Server, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    namespace = new_namespace()
    first = await member(server, namespace)
    collect(first, Collected())
    async with first:
        await first.publish(Happened("a", 0))
    async with await EventBus.connect(server.url, namespace=namespace, **SOON) as publisher:
        await publisher.publish_many(Happened("a", number) for number in range(1, 10))
    cut = TopicPartition(Names(namespace).log, lane_of(b"a", PARTITIONS), 7)
    await asyncio.to_thread(admin.delete_records([cut])[cut].result)
    handled: Collected[Happened] = Collected()
    second = await member(server, namespace)
    collect(second, handled)
    async with second:
        seen = await handled.have(3)

    assert [event.number for event in seen] == [7, 8, 9]
    assert " lost " in caplog.text


@on_its_own_loop
async def test_a_group_whose_position_is_deleted_goes_on_where_its_members_are(server: Server, admin: Any) -> None:
    namespace = new_namespace()
    handled: Collected[Happened] = Collected()
    bus = await member(server, namespace)
    collect(bus, handled)
    async with bus:
        await bus.publish_many(Happened("a", number) for number in range(5))
        await handled.have(5)
        group = Names(namespace).consumer("faults", "handler")
        await asyncio.to_thread(admin.delete_consumer_groups([group])[group].exception)
        await bus.publish(Happened("a", 5))

        assert [event.number for event in await handled.have(6)] == list(range(6))


@on_its_own_loop
async def test_an_event_that_is_too_large_for_the_broker_is_refused_and_the_next_is_not(
    server: Server, admin: Any
) -> None:
    namespace = new_namespace()
    log = Names(namespace).log
    small = cimpl.NewTopic(log, PARTITIONS, 1, config={"max.message.bytes": "2000"})
    await asyncio.to_thread(admin.create_topics([small])[log].result)
    handled: Collected[Happened] = Collected()
    bus = await member(server, namespace)
    collect(bus, handled)
    async with bus:
        with pytest.raises(EventTooLargeError, match="2,000"):
            await bus.publish(Happened("a", 0), headers={"long": "x" * 3000})
        await bus.publish_many(Happened("a", number) for number in range(1, 11))

        assert [event.number for event in await handled.have(10)] == list(range(1, 11))


@on_its_own_loop
async def test_a_topic_that_is_there_keeps_its_partitions(server: Server, admin: Any) -> None:
    namespace = new_namespace()
    log = Names(namespace).log
    await asyncio.to_thread(admin.create_topics([cimpl.NewTopic(log, 1, 1)])[log].result)
    handled: Collected[int] = Collected()
    bus = await member(server, namespace)

    @bus.on(Happened, key=lambda event: "all the same")  # which only one lane can keep
    async def handler(event: Happened) -> None:
        handled.add(event.number)

    async with bus:
        await bus.publish_many(Happened(str(number), number) for number in range(10))

        assert await handled.have(10) == list(range(10))


@on_its_own_loop
async def test_events_of_others_are_understood_and_tombstones_become_dead_letters(server: Server) -> None:
    namespace = new_namespace()
    handled: Collected[Happened] = Collected()
    bus = await member(server, namespace)
    collect(bus, handled)
    async with bus:
        produce_as_others_do(server.url, Names(namespace).log)

        assert await handled.have(2) == [Happened("a", 1), Happened("a", 2)]
        await until_letters(bus, 1)


class Question(Request[int], event_type="kafka.question"):
    """The request of the tests below."""

    number: int


def answer(bus: RequestReplyBus, answered: Collected[int]) -> None:
    """Respond with the number of the question."""

    @bus.respond(Question)
    async def respond(question: Question) -> int:
        answered.add(question.number)
        await asyncio.sleep(0)
        return question.number


async def is_unanswered(requester: RequestReplyBus) -> bool:
    """Tell whether nobody is known to respond any more."""
    try:
        await requester.request(Question(0), timeout_s=1)
    except NoResponderError:
        return True
    except RequestTimeoutError:
        return False
    return False


@pytest.mark.parametrize("away_s", [0, LIFE_S + 1])
@on_its_own_loop
async def test_requests_go_on_when_the_broker_is_back(server: Server, away_s: float) -> None:
    namespace = new_namespace()
    responder = await RequestReplyBus.connect(server.url, namespace=namespace, timeout_s=20)
    answer(responder, Collected())
    async with responder, await RequestReplyBus.connect(server.url, namespace=namespace, timeout_s=20) as requester:
        assert await requester.request(Question(1)) == 1
        await asyncio.to_thread(server.kill)
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(requester.request(Question(2), timeout_s=30))
            await asyncio.sleep(away_s)  # what is tested is that this much time goes by
            await asyncio.to_thread(server.start)

        assert asking.result() == 2
        assert await requester.request(Question(3), timeout_s=20) == 3


@on_its_own_loop
async def test_a_requester_is_told_that_the_broker_is_away(server: Server) -> None:
    async with await RequestReplyBus.connect(server.url, namespace=new_namespace(), timeout_s=1) as requester:
        await asyncio.to_thread(server.stop)
        try:
            with pytest.raises(TransportUnavailableError):
                await requester.request(Question(1))
        finally:
            await asyncio.to_thread(server.start)


@on_its_own_loop
async def test_a_question_that_is_written_after_its_requester_has_gone_is_not_answered(server: Server) -> None:
    namespace = new_namespace()
    answered: Collected[int] = Collected()
    responder = await RequestReplyBus.connect(server.url, namespace=namespace)
    answer(responder, answered)
    async with responder, await RequestReplyBus.connect(server.url, namespace=namespace) as requester:
        assert await requester.request(Question(1)) == 1
        server.pause()
        try:
            with pytest.raises(RequestTimeoutError):
                await requester.request(Question(2), timeout_s=0.5)
        finally:
            server.resume()

        assert await requester.request(Question(3), timeout_s=20) == 3
    assert answered.values == [1, 3]


@on_its_own_loop
async def test_a_question_that_is_read_after_its_requester_has_gone_is_not_answered(
    server: Server, proxied: tuple[int, int]
) -> None:
    namespace = new_namespace()
    answered: Collected[int] = Collected()
    outside, inside = proxied
    with Proxy(inside, port=outside) as proxy:
        responder = await RequestReplyBus.connect(f"kafka://127.0.0.1:{outside}", namespace=namespace)
        answer(responder, answered)
        async with responder, await RequestReplyBus.connect(server.url, namespace=namespace) as requester:
            assert await requester.request(Question(1)) == 1
            await asyncio.to_thread(proxy.hold)
            with pytest.raises(RequestTimeoutError):
                await requester.request(Question(2), timeout_s=0.5)
            await asyncio.to_thread(proxy.mend)

            assert await requester.request(Question(3), timeout_s=20) == 3
    assert answered.values == [1, 3]


@on_its_own_loop
async def test_a_responder_that_was_killed_is_asked_no_more(server: Server) -> None:
    namespace = new_namespace()
    program = (sys.executable, "-c", RESPONDER, server.url, namespace)
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    async with await RequestReplyBus.connect(server.url, namespace=namespace) as requester:
        assert await requester.request(Question(1)) == 1
        process.kill()
        await process.wait()

        await until(partial(is_unanswered, requester))


@on_its_own_loop
async def test_while_responders_come_and_go_no_question_is_lost_or_answered_twice(server: Server) -> None:
    namespace = new_namespace()
    answered: Collected[int] = Collected()
    numbers = count()
    are_done = False

    async def ask() -> None:
        while not are_done:
            number = next(numbers)
            assert await requester.request(Question(number), timeout_s=20) == number

    staying = await RequestReplyBus.connect(server.url, namespace=namespace)
    answer(staying, answered)
    requester = await RequestReplyBus.connect(server.url, namespace=namespace)
    async with staying, requester, asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(ask())
        for _ in range(10):
            passing = await RequestReplyBus.connect(server.url, namespace=namespace)
            answer(passing, answered)
            async with passing:
                await answered.have(len(answered) + 50)
        are_done = True

    assert sorted(answered.values) == list(range(next(numbers)))


@pytest.fixture(scope="module")
def secure_url(tmp_path_factory: pytest.TempPathFactory, kafka_url: str) -> Iterator[str]:
    """Run a server that knows jane, who may do nothing, beside the rest, who may do all."""
    del kafka_url
    port, inside = free_port(), free_port()
    users = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_jane="secret";'
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{inside},CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{free_port()}",
        "listener_security_protocol_map": "PLAINTEXT:PLAINTEXT,CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener_name_client_sasl_enabled_mechanisms": "PLAIN",
        "listener_name_client_plain_sasl_jaas_config": users,
        "authorizer_class_name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super_users": "User:ANONYMOUS",
    }
    controller = settings["listeners"].rpartition("//")[2]
    settings["controller_quorum_voters"] = f"1@{controller}"
    with kafka_in(tmp_path_factory.mktemp("kafka"), port=inside, **settings):
        yield f"127.0.0.1:{port}"


@on_its_own_loop
async def test_wrong_credentials_are_refused_at_once(secure_url: str) -> None:
    with pytest.raises(TransportRefusedError) as refused:
        await EventBus.connect(f"kafka://jane:wrong@{secure_url}")

    assert "wrong" not in str(refused.value)


@on_its_own_loop
async def test_a_topic_that_may_not_be_made_is_refused_and_the_error_says_what_to_do(secure_url: str) -> None:
    with pytest.raises(TransportRefusedError, match=r"'avx\.log'"):
        await EventBus.connect(f"kafka://jane:secret@{secure_url}")
