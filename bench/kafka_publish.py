"""How fast does Kafka accept events that are published one by one, each awaited, by a hundred tasks?"""

from bench.brokers import published
from bench.rounds import Comparison, Contender
from bench.servers import KAFKA

RAW = "aiokafka, 100 tasks"
PEER = "FastStream, Kafka, 100 tasks"

COMPARISONS = (
    Comparison(
        "Kafka, files that are not synced, 200 bytes: 100 tasks, each awaits its `publish`",
        "events/s",
        (
            Contender("avx-events", published(KAFKA, "bench.remote_bus"), 10_000),
            Contender(RAW, published(KAFKA, "bench.limits.aiokafka_client"), 10_000, package="aiokafka"),
            Contender(PEER, published(KAFKA, "bench.peers.faststream_kafka"), 3_000, package="faststream"),
        ),
        (),  # a measure without a promise: how fast a group is told is promised
    ),
)
