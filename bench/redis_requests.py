"""How fast is a request answered through Redis, by a responder in another process?"""

from bench.remote_requests import answered, comparison
from bench.rounds import Comparison, Contender
from bench.servers import REDIS

RAW = "redis-py, RPUSH, BLMPOP, pipelines of PUBLISH"


def by(callers: int, *, count: int, count_of_peer: int) -> Comparison:
    return comparison(
        REDIS,
        "Redis",
        callers,
        Contender(RAW, answered(REDIS, "bench.limits.redis_py_requests", callers), count, package="redis"),
        Contender(
            "FastStream, Redis",
            answered(REDIS, "bench.peers.faststream_redis", callers),
            count_of_peer,
            package="faststream",
        ),
        raw=RAW,
        count=count,
    )


COMPARISONS = (by(1, count=2_000, count_of_peer=500), by(100, count=10_000, count_of_peer=1_000))
