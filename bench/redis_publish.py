"""How fast does Redis accept events that are published one by one, each awaited, by a hundred tasks?"""

from bench.brokers import published
from bench.rounds import Comparison, Contender, Target
from bench.servers import REDIS

RAW = "redis-py, pipelines of 100"
PEER = "FastStream, stream, 100 tasks"

COMPARISONS = (
    Comparison(
        "Redis without persistence, 200 bytes: 100 tasks, each awaits its `publish`",
        "events/s",
        (
            Contender("avx-events", published(REDIS, "bench.remote_bus"), 20_000),
            Contender(RAW, published(REDIS, "bench.limits.redis_py"), 20_000, package="redis"),
            Contender(PEER, published(REDIS, "bench.peers.faststream_redis"), 2_000, package="faststream"),
        ),
        (Target(PEER, at_least=8.0), Target(RAW, at_least=0.8)),
    ),
)
