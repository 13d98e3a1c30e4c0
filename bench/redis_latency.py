"""How long does an event take through Redis to the handler of a group in another process, when there is no hurry?"""

from collections.abc import Callable

from bench.brokers import Turn, paced
from bench.rounds import Comparison, Contender, Target
from bench.servers import REDIS

RAW = "redis-py, XADD, XREADGROUP, XACK"
PEER = "FastStream, stream group"
EVENTS = 1_000


def latency(percentile: str, figure: Callable[[Turn], float]) -> Comparison:
    return Comparison(
        f"Redis without persistence, 200 bytes, 2 processes, 500 events/s: {percentile} from `publish` to the handler",
        "µs",
        (
            Contender("avx-events", paced(REDIS, "bench.remote_bus", figure), EVENTS),
            Contender(RAW, paced(REDIS, "bench.limits.redis_py", figure), EVENTS, package="redis"),
            Contender(PEER, paced(REDIS, "bench.peers.faststream_redis", figure), EVENTS, package="faststream"),
        ),
        (Target(PEER, at_most=1.0),),
    )


COMPARISONS = (
    latency("median", lambda turn: turn.report.p50_us),
    latency("99th percentile", lambda turn: turn.report.p99_us),
)
