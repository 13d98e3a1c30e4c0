"""FastStream on Kafka by aiokafka, as its pages on acknowledgement show it: one subscriber, one publish a call.

Chosen in its favour: no logging of each message, which it does by default. Chosen so that it does what ours does:
offsets are committed after the handler (``AckPolicy.ACK``; by default they are before it), and all replicas, which is
one here, acknowledge. Left as it comes: pydantic models, one worker. Its batch subscribers are left out, as ours
handles one event at a time, too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.peers.faststream_models import OrderPlaced, nothing_more, order_placed
from bench.servers import kafka_address, make_kafka_topic

TOPIC: Final = "faststream"


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    await make_kafka_topic(url, TOPIC)
    async with KafkaBroker(kafka_address(url), logger=None, acks="all") as broker:
        await broker.start()

        async def one(number: int) -> None:
            event = order_placed(number)
            await broker.publish(event, TOPIC, key=event.order_id.encode())

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    await make_kafka_topic(url, TOPIC)
    async with KafkaBroker(kafka_address(url), logger=None) as broker:

        @broker.subscriber(TOPIC, group_id="faststream", ack_policy=AckPolicy.ACK, auto_offset_reset="earliest")
        async def handle(event: OrderPlaced) -> None:
            take(event.number, event.sent_at_ns)

        await broker.start()
        yield nothing_more
