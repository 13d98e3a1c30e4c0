"""How fast do events get through Kafka to the handler of a group in another process, and what do they cost?"""

from bench.brokers import handled
from bench.rounds import Comparison, Contender, Opening, Target
from bench.servers import KAFKA

RAW = "aiokafka, 100 tasks, getmany(500), commit"
PEER = "FastStream, Kafka, 100 tasks, committed after each"


def per_second(module: str) -> Opening:
    return handled(KAFKA, module, lambda turn: turn.per_second)


def cpu_us(module: str) -> Opening:
    return handled(KAFKA, module, lambda turn: turn.cpu_us)


COMPARISONS = (
    Comparison(
        "Kafka, files that are not synced, 200 bytes, 2 processes: `publish` by 100 tasks → handler in a "
        "group, acknowledged",
        "events/s",
        (
            Contender("avx-events", per_second("bench.remote_bus"), 10_000),
            Contender(RAW, per_second("bench.limits.aiokafka_client"), 10_000, package="aiokafka"),
            Contender(PEER, per_second("bench.peers.faststream_kafka"), 2_000, package="faststream"),
        ),
        (Target(RAW, at_least=0.6), Target(PEER, at_least=2.0)),
    ),
    Comparison(
        "Kafka, files that are not synced, 200 bytes: CPU time of both processes, for an event that is "
        "published and handled",
        "µs",
        (
            Contender("avx-events", cpu_us("bench.remote_bus"), 10_000),
            Contender(RAW, cpu_us("bench.limits.aiokafka_client"), 10_000, package="aiokafka"),
            Contender(PEER, cpu_us("bench.peers.faststream_kafka"), 2_000, package="faststream"),
        ),
        (Target(RAW, at_most=2.0),),  # what is ours alone costs no more than the client
    ),
)
