"""The raw client, aiokafka: a hundred sends outstanding, and up to 500 events a poll, with one commit after them.

It is the least that a program does which speaks to Kafka by itself: one topic, events written and read by msgspec, no
metadata, no retry, and what fails is lost. All replicas, which is one here, acknowledge (``acks="all"``).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.brokers import Publisher, by_tasks
from bench.consumer import Settled, Take
from bench.orders import PlainOrderPlaced, order
from bench.servers import kafka_address, make_kafka_topic

TOPIC: Final = "aiokafka"
GROUP: Final = "aiokafka"
MOST_AT_ONCE: Final = 500
POLL_MS: Final = 1_000

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(PlainOrderPlaced).decode


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher, None]:
    await make_kafka_topic(url, TOPIC)
    async with AIOKafkaProducer(bootstrap_servers=kafka_address(url), acks="all") as producer:

        async def one(number: int) -> None:
            event = PlainOrderPlaced(*order(number))
            await producer.send_and_wait(TOPIC, encode(event), key=event.order_id.encode())

        yield Publisher(one, by_tasks(one))


@asynccontextmanager
async def handling(url: str, take: Take) -> AsyncGenerator[Settled, None]:
    await make_kafka_topic(url, TOPIC)
    committed = asyncio.Event()
    consumer: Any = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=kafka_address(url),
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )

    async def handle(event: PlainOrderPlaced) -> None:
        take(event.number, event.sent_at_ns)

    async def read() -> None:
        while True:
            polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=MOST_AT_ONCE)
            committed.clear()
            for records in polled.values():
                for record in records:
                    await handle(decode(record.value))
            if polled:
                await consumer.commit()
            committed.set()

    async with consumer, asyncio.TaskGroup() as reading:
        reader = reading.create_task(read())
        yield committed.wait
        reader.cancel()
