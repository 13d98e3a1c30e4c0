"""How fast is a request answered through NATS, by a responder in another process?"""

from bench.remote_requests import answered, comparison
from bench.rounds import Comparison, Contender
from bench.servers import NATS

RAW = "nats-py, request and respond"


def by(callers: int, *, count: int, count_of_peer: int) -> Comparison:
    return comparison(
        NATS,
        "NATS",
        callers,
        Contender(RAW, answered(NATS, "bench.limits.nats_py_requests", callers), count, package="nats-py"),
        Contender(
            "FastStream, NATS",
            answered(NATS, "bench.peers.faststream_nats", callers),
            count_of_peer,
            package="faststream",
        ),
        raw=RAW,
        count=count,
    )


COMPARISONS = (by(1, count=2_000, count_of_peer=500), by(100, count=10_000, count_of_peer=1_000))
