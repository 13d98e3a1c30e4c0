"""The brokers, each with a server that has the same options for all contenders."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import nats
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

from bench.brokers import Broker
from tests.servers.kafka import kafka_in
from tests.servers.nats import nats_in
from tests.servers.redis import redis_in

OURS: Final = "avx"
"""Our namespace, which no other contender's names begin with."""
LANES: Final = 16
"""How many lanes ours has in NATS, as it comes."""
PARTITIONS: Final = 16
"""How many a topic of any contender has in Kafka: those of ours come so."""

_OF_A_BUCKET: Final = "KV_"


async def _stored_in_redis(url: str) -> int:
    async with Redis.from_url(url, protocol=2) as client:
        return sum([await client.xlen(stream) async for stream in client.scan_iter(_type="stream")])


async def _unacknowledged_in_redis(url: str) -> int:
    async with Redis.from_url(url, protocol=2) as client:
        groups: list[Any] = []
        async for stream in client.scan_iter(_type="stream"):
            groups += await client.xinfo_groups(stream)
        return sum(group["pending"] + group["lag"] for group in groups)


REDIS: Final = Broker("redis-server", redis_in, stored=_stored_in_redis, unacknowledged=_unacknowledged_in_redis)
"""Without persistence: ``--save ''``, no append-only file."""


@asynccontextmanager
async def _jetstream(url: str) -> AsyncGenerator[JetStreamContext, None]:
    client = await nats.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def _streams_of_events(context: JetStreamContext) -> list[Any]:
    """Return what the server says of its streams, but for those of key-value buckets."""
    return [stream for stream in await context.streams_info() if not str(stream.config.name).startswith(_OF_A_BUCKET)]


async def _stored_in_nats(url: str) -> int:
    async with _jetstream(url) as context:
        return sum(stream.state.messages for stream in await _streams_of_events(context))


async def _unacknowledged_in_nats(url: str) -> int:
    """Count by the consumers of streams, as raw clients have them, or by the positions of ours."""
    async with _jetstream(url) as context:
        streams = [str(stream.config.name) for stream in await _streams_of_events(context)]
        if OURS in streams:
            return await _lanes_behind(context)
        consumers: list[Any] = []
        for stream in streams:
            consumers += await context.consumers_info(stream)
        return sum(consumer.num_pending + consumer.num_ack_pending for consumer in consumers)


class _Position(msgspec.Struct):
    """How far a group is in a lane: docs/reference/nats.md."""

    done: int = 0
    open: tuple[int, ...] = ()


async def _lanes_behind(context: JetStreamContext) -> int:
    """Count the lanes whose last event is not done, and what is not done before that."""
    positions = await context.key_value(f"{OURS}-groups")
    behind = 0
    for key in await positions.keys():
        _, _, kind, lane = key.split(".")
        if kind != "position":
            continue
        kept = await positions.get(key)
        position = msgspec.json.decode(kept.value or b"{}", type=_Position)
        last = await _last_in_lane(context, lane)
        behind += len(position.open) + (last > position.done)
    return behind


async def _last_in_lane(context: JetStreamContext, lane: str) -> int:
    with suppress(NotFoundError):
        return int((await context.get_last_msg(OURS, f"{OURS}.log.{LANES}.{lane}")).seq or 0)
    return 0


NATS: Final = Broker("nats-server", nats_in, stored=_stored_in_nats, unacknowledged=_unacknowledged_in_nats)
"""Streams in files, which nats-server syncs to the disk every two minutes, as it does by default."""


def kafka_address(url: str) -> str:
    """Return what Kafka's clients call the server at ``url``."""
    return url.removeprefix("kafka://")


@asynccontextmanager
async def _kafka_admin(url: str) -> AsyncGenerator[Any, None]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka_address(url))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def make_kafka_topic(url: str, name: str) -> None:
    """Make a topic where it is missing, as ours makes its own."""
    async with _kafka_admin(url) as admin:
        await admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)])


async def _ends_in_kafka(url: str, admin: Any) -> dict[TopicPartition, int]:
    topics = [topic for topic in await admin.describe_topics() if not topic["is_internal"]]
    partitions = [TopicPartition(topic["topic"], each["partition"]) for topic in topics for each in topic["partitions"]]
    if not partitions:
        return {}
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=kafka_address(url))
    async with consumer:
        return dict(await consumer.end_offsets(partitions))


async def _stored_in_kafka(url: str) -> int:
    async with _kafka_admin(url) as admin:
        return sum((await _ends_in_kafka(url, admin)).values())


async def _unacknowledged_in_kafka(url: str) -> int:
    async with _kafka_admin(url) as admin:
        ends = await _ends_in_kafka(url, admin)
        groups = [await admin.list_consumer_group_offsets(group) for group, _ in await admin.list_consumer_groups()]
    behind = 0
    for committed in groups:
        topics = {partition.topic for partition in committed}
        offsets = {partition: at.offset for partition, at in committed.items()}
        behind += sum(end - offsets.get(at, 0) for at, end in ends.items() if at.topic in topics)
    return behind


KAFKA: Final = Broker(
    "java",
    kafka_in,
    stored=_stored_in_kafka,
    unacknowledged=_unacknowledged_in_kafka,
    is_shared=True,
)
"""Topics in files, which Kafka leaves to the system to sync, as it does by default.

One server for all: a virtual machine compiles what it does often, and then each has the same one.
"""
