"""How fast does NATS JetStream accept events that are published one by one, each awaited, by a hundred tasks?"""

from bench.brokers import published
from bench.rounds import Comparison, Contender, Target
from bench.servers import NATS

RAW = "nats-py, JetStream, 100 tasks"
PEER = "FastStream, JetStream, 100 tasks"

COMPARISONS = (
    Comparison(
        "NATS JetStream in files that are not synced, 200 bytes: 100 tasks, each awaits its `publish`",
        "events/s",
        (
            Contender("avx-events", published(NATS, "bench.remote_bus"), 10_000),
            Contender(RAW, published(NATS, "bench.limits.nats_py"), 10_000, package="nats-py"),
            Contender(PEER, published(NATS, "bench.peers.faststream_nats"), 3_000, package="faststream"),
        ),
        (Target(PEER, at_least=3.0), Target(RAW, at_least=0.7)),
    ),
)
