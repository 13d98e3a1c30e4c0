"""How long does ``import avx_events`` take, each time in a new interpreter?"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from bench.children import figure_of
from bench.rounds import Comparison, Contender, Opening, Round, Target

PROGRAM = """
from time import perf_counter
started = perf_counter()
import {modules}
print((perf_counter() - started) * 1e3)
"""


def importing(modules: str) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        for module in modules.split(", "):
            package = module.partition(".")[0]
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)

        async def measure() -> float:
            # The fastest of a few: what else the machine does only makes it slower.
            return min([await figure_of("-c", PROGRAM.format(modules=modules)) for _ in range(count)])

        yield measure

    return opening


COMPARISONS = (
    Comparison(
        "import in a new interpreter, its own start not counted",
        "ms",
        (
            Contender("import avx_events", importing("avx_events"), 4),
            Contender("import asyncio, msgspec", importing("asyncio, msgspec"), 4),
            Contender("import broadcaster", importing("broadcaster"), 2, package="broadcaster"),
            Contender("import eventsourcing.sqlite", importing("eventsourcing.sqlite"), 2, package="eventsourcing"),
            Contender("import cqrs", importing("cqrs"), 1, package="python-cqrs"),
            Contender("import bubus", importing("bubus"), 1, package="bubus"),
        ),
        (Target("import asyncio, msgspec", at_most=2.0),),
    ),
)
