"""Contenders measured side by side: a warm-up, then rounds in which each has its turn, so that drift hits all alike."""

import asyncio
import gc
import pkgutil
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial, wraps
from statistics import median
from typing import Final, TypeAlias, cast

import msgspec

ROUND_DEADLINE_S: Final = 120.0
"""A round that takes longer than this hangs, and ends the run."""

Round: TypeAlias = Callable[[], Coroutine[object, object, float]]
"""Measures once, and returns the figure in its comparison's unit."""

Opening: TypeAlias = Callable[[int], AbstractAsyncContextManager[Round]]
"""Sets up what all rounds of a contender share, for rounds of about so many operations."""


class MissingError(Exception):
    """A program that a contender needs is not on this machine."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Contender(msgspec.Struct, frozen=True):
    """Who is measured.

    Attributes:
        name: What it is called in the table, once in its comparison.
        opening: How its rounds are made; see ``each_round`` and ``peer``.
        count: Operations in a round; such that a round takes a few tenths of a second.
        package: The distribution it needs, where it is not ours.
    """

    name: str
    opening: Opening
    count: int
    package: str | None = None


class Target(msgspec.Struct, frozen=True):
    """How the first contender of a comparison must stand against another, or against a figure, in the same run.

    Attributes:
        against: A contender's name, or a figure in the comparison's unit.
        at_least: The least ratio that is good, where more is better.
        at_most: The greatest ratio that is good, where less is better.
        name: What to call it where it is a figure.
        in_every_round: Whether the worst round counts instead of the median.
    """

    against: str | float
    at_least: float | None = None
    at_most: float | None = None
    name: str = ""
    in_every_round: bool = False

    def judged(self, ratios: Sequence[float]) -> float:
        """Return which of the rounds' ratios counts."""
        if not self.in_every_round:
            return median(ratios)
        return max(ratios) if self.at_least is None else min(ratios)


class Comparison(msgspec.Struct, frozen=True):
    """One table.

    Attributes:
        title: What every contender does.
        unit: Of the figures, as ``"events/s"``.
        contenders: The first one is ours; the others are compared with it.
        targets: What the first one must reach.
    """

    title: str
    unit: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]


class Outcome(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        comparison: What was compared.
        figures: By contender, one for each round; all of one length.
        missing: By contender that could not run, which module or program it lacks.
    """

    comparison: Comparison
    figures: dict[str, list[float]]
    missing: dict[str, str]

    def ratio_to(self, other: str | float) -> float | None:
        """Return the first contender's figure over another's: the median of the rounds' ratios.

        Taken round by round, so that a slow moment of the machine is in both figures or in few of the ratios.

        Returns:
            None where one of the two was not measured.
        """
        ratios = self.ratios_to(other)
        return None if ratios is None else median(ratios)

    def ratios_to(self, other: str | float) -> list[float] | None:
        """Return the first contender's figure over another's, round by round; None where one was not measured."""
        first = self.figures.get(self.comparison.contenders[0].name)
        if first is None:
            return None
        if not isinstance(other, str):
            return [figure / other for figure in first]
        others = self.figures.get(other)
        return None if others is None else [a / b for a, b in zip(first, others, strict=True)]


class Verdict(msgspec.Struct, frozen=True):
    """A target and what became of it; the ratio is None where it was not measured."""

    target: Target
    ratio: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the ratio is good enough; None where there is none."""
        if self.ratio is None:
            return None
        enough = self.target.at_least is None or self.ratio >= self.target.at_least
        return enough and (self.target.at_most is None or self.ratio <= self.target.at_most)


def verdicts(outcome: Outcome) -> list[Verdict]:
    """Return a verdict for each target, in order."""
    targets = outcome.comparison.targets
    ratios = ((target, outcome.ratios_to(target.against)) for target in targets)
    return [Verdict(target, None if found is None else target.judged(found)) for target, found in ratios]


def each_round(measure: Callable[[int], Coroutine[object, object, float]]) -> Opening:
    """Decorate a function that takes a count, sets up, measures and cleans up, all in one round."""

    @wraps(measure)
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        yield partial(measure, count)

    return opening


def peer(reference: str) -> Opening:
    """Return the opening at ``reference`` (``"module:name"``), imported when it is used: a peer may be missing."""

    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        found = cast("Opening", pkgutil.resolve_name(reference))
        async with found(count) as measure_once:
            yield measure_once

    return opening


async def measure(comparison: Comparison, *, rounds: int, scale: float = 1.0) -> Outcome:
    """Run every contender once to warm up, then ``rounds`` times, in an order that turns by one each round.

    The collector runs as it does for users, from an empty start in each round; what is there before the first round,
    all that was imported and set up, it does not look at.

    Args:
        comparison: Who and what.
        rounds: How many are counted, 1 or more.
        scale: Part of each contender's operations to do in a round, more than 0.

    Raises:
        TimeoutError: A round took longer than ``ROUND_DEADLINE_S``.
    """
    missing: dict[str, str] = {}
    async with AsyncExitStack() as open_contenders:
        runs: dict[str, Round] = {}
        for contender in comparison.contenders:
            count = max(1, round(contender.count * scale))
            try:
                runs[contender.name] = await open_contenders.enter_async_context(contender.opening(count))
            except (ModuleNotFoundError, MissingError) as exc:
                missing[contender.name] = str(exc.name)
        with _frozen():
            figures = await _figures(runs, rounds)
    return Outcome(comparison, figures, missing)


@contextmanager
def _frozen() -> Generator[None, None, None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _figures(runs: dict[str, Round], rounds: int) -> dict[str, list[float]]:
    for run in runs.values():
        await _once(run)
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in _turned(list(runs), number):
            figures[name].append(await _once(runs[name]))
    return figures


async def _once(run: Round) -> float:
    gc.collect()
    async with asyncio.timeout(ROUND_DEADLINE_S):
        return await run()


def _turned(names: Sequence[str], number: int) -> list[str]:
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]
