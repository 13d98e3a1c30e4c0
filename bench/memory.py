"""Does a bus with a bounded subscription grow with the number of events that went through it?

Each figure is the most memory that a process of its own ever had: ``python -m bench.memory 10000``.
"""

import asyncio
import resource
import sys

from avx_events import EventBus
from bench.children import figure_of
from bench.rounds import Comparison, Contender, Target, each_round
from bench.workload import UserCreated, read


async def publish(count: int) -> None:
    async with EventBus() as bus, asyncio.TaskGroup() as readers:
        readers.create_task(read(await bus.subscribe(UserCreated), count))
        for _ in range(count):
            await bus.publish(UserCreated("123", "user@example.com", "John Doe"))


def peak_mib() -> float:
    """Return the most resident memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@each_round
async def peak_of(count: int) -> float:
    return await figure_of("-m", "bench.memory", str(count))


COMPARISONS = (
    Comparison(
        "memory of a process that sent so many events through a bus",
        "MiB",
        (
            Contender("avx-events, 1,000,000 events", peak_of, 1_000_000),
            Contender("avx-events, 10,000 events", peak_of, 10_000),
        ),
        # The allocator's own steps are about a hundredth.
        (Target("avx-events, 10,000 events", at_most=1.02),),
    ),
)


if __name__ == "__main__":
    asyncio.run(publish(int(sys.argv[1])))
    print(peak_mib())
