"""How fast do events get through NATS JetStream to the handler of a group in another process, and what do they cost?"""

from bench.brokers import handled
from bench.rounds import Comparison, Contender, Opening, Target
from bench.servers import NATS

RAW = "nats-py, 100 tasks, fetch(500), ack each"
PEER = "FastStream, JetStream pull, 100 tasks"


def per_second(module: str) -> Opening:
    return handled(NATS, module, lambda turn: turn.per_second)


def cpu_us(module: str) -> Opening:
    return handled(NATS, module, lambda turn: turn.cpu_us)


COMPARISONS = (
    Comparison(
        "NATS JetStream in files that are not synced, 200 bytes, 2 processes: `publish` by 100 tasks → handler in a "
        "group, acknowledged",
        "events/s",
        (
            Contender("avx-events", per_second("bench.remote_bus"), 10_000),
            Contender(RAW, per_second("bench.limits.nats_py"), 10_000, package="nats-py"),
            Contender(PEER, per_second("bench.peers.faststream_nats"), 2_000, package="faststream"),
        ),
        (Target(RAW, at_least=0.7), Target(PEER, at_least=3.0)),
    ),
    Comparison(
        "NATS JetStream in files that are not synced, 200 bytes: CPU time of both processes, for an event that is "
        "published and handled",
        "µs",
        (
            Contender("avx-events", cpu_us("bench.remote_bus"), 10_000),
            Contender(RAW, cpu_us("bench.limits.nats_py"), 10_000, package="nats-py"),
            Contender(PEER, cpu_us("bench.peers.faststream_nats"), 2_000, package="faststream"),
        ),
        (Target(RAW, at_most=2.0),),  # what is ours alone costs no more than the client
    ),
)
