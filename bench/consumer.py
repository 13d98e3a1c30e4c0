"""The process that handles what another one publishes: ``python -m bench.consumer MODULE URL``.

For each line of its input, the number of events of a round, it says ``ready`` and then, when all of them were handled
and acknowledged, what it saw, as a ``Report`` in JSON. It ends with its input.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from time import perf_counter_ns, process_time
from typing import Final, TypeAlias

import msgspec

DEADLINE_S: Final = 100.0

Take: TypeAlias = Callable[[int, int], None]
"""What a handler calls with an order's number, and the nanosecond at which it was sent."""

Settled: TypeAlias = Callable[[], Awaitable[object]]
"""Returns when the broker knows of all that was handled."""

Handling: TypeAlias = Callable[[str, Take], AbstractAsyncContextManager[Settled]]
"""Has the orders of the broker at a URL handled by the one member of a new group, from when it is entered on."""


class Report(msgspec.Struct, frozen=True):
    """What became of a round.

    Attributes:
        handled: How many different events were handled.
        again: How often one was that had been handled before.
        cpu_s: Seconds of CPU time in this process, from when it was ready until all was acknowledged.
        p50_us: Microseconds from before an event was made until its handler had it, the median.
        p99_us: The same, of which 99 in 100 are no greater.
    """

    handled: int
    again: int
    cpu_s: float
    p50_us: float
    p99_us: float


class Tally:
    """What the handler of a round counts."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: set[int] = set()
        self._latencies_ns: list[int] = []
        self._began_at = process_time()
        self.is_complete = asyncio.Event()

    def take(self, number: int, sent_at_ns: int) -> None:
        self._latencies_ns.append(perf_counter_ns() - sent_at_ns)
        self._seen.add(number)
        if len(self._seen) == self._count:
            self.is_complete.set()

    def report(self) -> Report:
        cpu_s = process_time() - self._began_at
        ordered = sorted(self._latencies_ns)
        again = len(ordered) - len(self._seen)
        return Report(len(self._seen), again, cpu_s, percentile_us(ordered, 50), percentile_us(ordered, 99))


def percentile_us(ordered_ns: Sequence[int], percent: int) -> float:
    """Return the microseconds of the one that ``percent`` of all do not exceed."""
    return ordered_ns[(len(ordered_ns) - 1) * percent // 100] / 1_000


async def main(module: str, url: str) -> None:
    """Handle rounds until there are no more."""
    handling: Handling = import_module(module).handling
    tally = Tally(0)

    def take(number: int, sent_at_ns: int) -> None:
        tally.take(number, sent_at_ns)

    async with handling(url, take) as settled:
        gc.collect()
        gc.freeze()
        while line := await asyncio.to_thread(sys.stdin.readline):
            tally = Tally(int(line))
            print("ready", flush=True)
            async with asyncio.timeout(DEADLINE_S):
                await tally.is_complete.wait()
                await settled()
            print(msgspec.json.encode(tally.report()).decode(), flush=True)
            gc.collect()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
