"""Requests and replies over Kafka with another client, as docs/reference/kafka.md says."""

import asyncio
import json
import time
from typing import Any, Final

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from avx_events import Request, RequestReplyBus
from avx_events.distributed.kafka.names import Names
from avx_events.testing.bus_contract import new_namespace

pytestmark = pytest.mark.live

ADDRESS: Final = "1.others"
BUSY_S: Final = 30


class GetLength(Request[int], event_type="kafka.get.length"):
    """The request of the tests below."""

    text: str


class Others:
    """A program with another client: what it reads of the topic, and what it writes."""

    def __init__(self, url: str, topic: str) -> None:
        place = {"bootstrap.servers": url.removeprefix("kafka://")}
        self._topic = topic
        self._producer = Producer(place)
        self._consumer = Consumer({**place, "group.id": "others", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in (0, 1)])

    def read(self, **headers: str) -> tuple[dict[str, str], str, Any]:
        """Return headers, key and value of the next record that has these headers."""
        while True:
            message = self._consumer.poll(10)
            assert message is not None
            assert message.error() is None
            pairs: Any = message.headers() or []
            found: dict[str, str] = {name: value.decode() for name, value in pairs}
            if headers.items() <= found.items():
                return found, (message.key() or b"").decode(), json.loads(message.value() or b"null")

    def write(self, partition: int, key: str, value: dict[str, Any], headers: dict[str, str]) -> None:
        """Write a record."""
        given: dict[str, str | bytes | None] = {**headers}
        self._producer.produce(self._topic, json.dumps(value), key, partition=partition, headers=given)
        assert self._producer.flush(10) == 0

    def close(self) -> None:
        """Leave nothing open."""
        self._consumer.close()


def ask(others: Others) -> dict[str, Any]:
    """Ask who responds, and return the reply."""
    sign, _, said = others.read(avx_kind="sign-of-life")
    while "kafka.get.length" not in said["types"]:
        sign, _, said = others.read(avx_kind="sign-of-life")
    request = {"specversion": "1.0", "id": "1", "source": "/o", "type": "kafka.get.length", "data": {"text": "seven"}}
    expires_ms = int((time.time() + BUSY_S) * 1000)
    headers = {"avx_kind": "question", "avx_type": "kafka.get.length", "avx_reply_to": ADDRESS}
    others.write(0, sign["avx_from"], request, {**headers, "avx_expires_ms": str(expires_ms)})
    _, key, value = others.read(avx_kind="reply")
    assert key == ADDRESS
    reply: dict[str, Any] = value
    return reply


def respond(others: Others) -> None:
    """Say that this program responds, and answer one question."""
    by = {"avx_kind": "sign-of-life", "avx_from": ADDRESS, "avx_number": "1"}
    others.write(0, "", {"types": ["kafka.get.length"], "seconds": BUSY_S}, by)
    question, key, request = others.read(avx_kind="question")
    assert key == ADDRESS
    reply = {"id": request["id"], "result": len(request["data"]["text"])}
    to = question["avx_reply_to"]
    others.write(int(to.partition(".")[0]), to, reply, {"avx_kind": "reply"})


async def test_another_client_may_ask(kafka_url: str) -> None:
    namespace = new_namespace()
    bus = await RequestReplyBus.connect(kafka_url, namespace=namespace)

    @bus.respond(GetLength)
    async def get_length(request: GetLength) -> int:
        return len(request.text)

    async with bus:
        others = Others(kafka_url, Names(namespace).requests)
        reply = await asyncio.to_thread(ask, others)
        others.close()

    assert reply == {"id": "1", "result": 5}


async def test_another_client_may_respond(kafka_url: str) -> None:
    namespace = new_namespace()
    async with await RequestReplyBus.connect(kafka_url, namespace=namespace) as bus, asyncio.TaskGroup() as tasks:
        others, seeing = (Others(kafka_url, Names(namespace).requests) for _ in range(2))
        responding = tasks.create_task(asyncio.to_thread(respond, others))
        await asyncio.to_thread(seeing.read, avx_from=ADDRESS)

        assert await bus.request(GetLength("eight"), timeout_s=20) == 5
        await responding
        others.close()
        seeing.close()
