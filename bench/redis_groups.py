"""How fast do events get through Redis to the handler of a group in another process, and what do they cost?"""

from bench.brokers import handled
from bench.rounds import Comparison, Contender, Opening, Target
from bench.servers import REDIS

RAW = "redis-py, pipelines of 100, XREADGROUP, XACK"
PEER = "FastStream, stream group, 100 tasks"


def per_second(module: str) -> Opening:
    return handled(REDIS, module, lambda turn: turn.per_second)


def cpu_us(module: str) -> Opening:
    return handled(REDIS, module, lambda turn: turn.cpu_us)


COMPARISONS = (
    Comparison(
        "Redis without persistence, 200 bytes, 2 processes: `publish` by 100 tasks → handler in a group, acknowledged",
        "events/s",
        (
            Contender("avx-events", per_second("bench.remote_bus"), 20_000),
            Contender(RAW, per_second("bench.limits.redis_py"), 40_000, package="redis"),
            Contender(PEER, per_second("bench.peers.faststream_redis"), 2_000, package="faststream"),
        ),
        (
            Target(PEER, at_least=10.0),
            Target(RAW, at_least=0.7),
            Target(10_000.0, at_least=1.0, name="the original's published figure", in_every_round=True),
        ),
    ),
    Comparison(
        "Redis without persistence, 200 bytes: CPU time of both processes, for an event that is published and handled",
        "µs",
        (
            Contender("avx-events", cpu_us("bench.remote_bus"), 20_000),
            Contender(RAW, cpu_us("bench.limits.redis_py"), 40_000, package="redis"),
            Contender(PEER, cpu_us("bench.peers.faststream_redis"), 2_000, package="faststream"),
        ),
        (Target(RAW, at_most=2.0),),  # what is ours alone costs no more than the client
    ),
)
