"""The benchmarks: that their arithmetic is right, and that every question can be asked."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, cast

import pytest

from bench.__main__ import QUESTIONS, comparisons_of
from bench.brokers import TASKS, Broker, by_tasks, running
from bench.consumer import Tally, percentile_us
from bench.rounds import Comparison, Contender, Opening, Outcome, Round, Target, each_round, measure, peer, verdicts
from bench.tables import markdown, rounded, table

if TYPE_CHECKING:
    from tests.servers.process import Server

LIVE = ("redis_", "nats_", "kafka_")
WITH_MARKS = [pytest.param(name, marks=[pytest.mark.live] if name.startswith(LIVE) else []) for name in QUESTIONS]


def giving(*figures: float) -> Opening:
    """Return a contender's opening whose rounds give these figures, the warm-up's first."""

    @asynccontextmanager
    async def opening(_: int) -> AsyncGenerator[Round, None]:
        left = iter(figures)

        async def measure_once() -> float:
            return next(left)

        yield measure_once

    return opening


def comparison(*contenders: Contender, targets: tuple[Target, ...] = ()) -> Comparison:
    return Comparison("count to a thousand", "events/s", contenders, targets)


def outcome_of(ours: list[float], theirs: list[float], *targets: Target) -> Outcome:
    compared = comparison(
        Contender("ours", giving(), 1), Contender("theirs", giving(), 1, package="them"), targets=targets
    )
    return Outcome(compared, {"ours": ours, "theirs": theirs}, {})


async def test_the_warm_up_is_not_counted() -> None:
    outcome = await measure(comparison(Contender("ours", giving(1, 20, 30), 1)), rounds=2)

    assert outcome.figures == {"ours": [20, 30]}


async def test_every_contender_has_its_turn_in_each_round_and_another_begins() -> None:
    turns: list[str] = []

    def noting(name: str) -> Opening:
        @each_round
        async def measure_once(_: int) -> float:
            turns.append(name)
            return 1.0

        return measure_once

    await measure(comparison(*(Contender(name, noting(name), 1) for name in "abc")), rounds=3)

    assert turns == [*"abc", *"abc", *"bca", *"cab"]


async def test_a_contender_does_its_count_times_the_scale_and_at_least_one() -> None:
    @each_round
    async def count_of(count: int) -> float:
        return count

    outcome = await measure(
        comparison(Contender("many", count_of, 1_000), Contender("few", count_of, 2)), rounds=1, scale=0.05
    )

    assert outcome.figures == {"many": [50], "few": [1]}


async def test_a_contender_that_is_not_installed_is_missing_and_the_others_are_measured() -> None:
    absent = Contender("theirs", peer("no_such_module:opening"), 1, package="no-such-package")

    outcome = await measure(
        comparison(Contender("ours", giving(1, 2), 1), absent, targets=(Target("theirs", at_least=1),)), rounds=1
    )

    assert outcome.figures == {"ours": [2]}
    assert outcome.missing == {"theirs": "no_such_module"}
    assert [verdict.is_met for verdict in verdicts(outcome)] == [None]
    assert "needs no_such_module" in table(outcome)
    assert "not measured" in table(outcome)


async def test_a_round_that_hangs_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rounds.ROUND_DEADLINE_S", 0.01)

    @each_round
    async def hang(_: int) -> float:
        await asyncio.Event().wait()
        return 1.0

    with pytest.raises(TimeoutError):
        await measure(comparison(Contender("ours", hang, 1)), rounds=1)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # The second round was slow for both: the ratio of the medians would be 20 / 10.
    outcome = outcome_of([20, 3, 90], [10, 1, 30])

    assert outcome.ratio_to("theirs") == 3.0


def test_a_ratio_to_a_figure_is_that_of_the_median() -> None:
    assert outcome_of([20, 3, 90], [1, 1, 1]).ratio_to(10.0) == 2.0


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (Target("theirs", at_least=2), True),
        (Target("theirs", at_least=2.1), False),
        (Target("theirs", at_most=2), True),
        (Target("theirs", at_most=1.9), False),
        (Target(10.0, at_least=2, name="a figure"), True),
    ],
)
def test_a_target_is_met_from_its_bound_on(target: Target, *, is_met: bool) -> None:
    outcome = outcome_of([20], [10], target)

    assert [verdict.is_met for verdict in verdicts(outcome)] == [is_met]


@pytest.mark.parametrize(
    ("target", "ratio"),
    [
        (Target("theirs", at_least=1, in_every_round=True), 2.0),
        (Target("theirs", at_most=1, in_every_round=True), 9.0),
        (Target(10.0, at_least=1, in_every_round=True), 2.0),
    ],
)
def test_a_target_of_every_round_is_judged_by_the_worst(target: Target, ratio: float) -> None:
    outcome = outcome_of([20, 90, 40], [10, 10, 10], target)

    assert [verdict.ratio for verdict in verdicts(outcome)] == [ratio]
    assert "in every round" in table(outcome)


@pytest.mark.parametrize("count", [1, TASKS - 1, TASKS, 3 * TASKS + 7])
async def test_tasks_publish_each_number_once(count: int) -> None:
    published: list[int] = []

    async def publish(number: int) -> None:
        await asyncio.sleep(0)
        published.append(number)

    await by_tasks(publish)(range(count))

    assert sorted(published) == list(range(count))


class NotingServer:
    """Does nothing but note that it is run and ended."""

    url = "noting://here"

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        self._notes.append("runs")

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._notes.append("ended")


@pytest.mark.parametrize(
    ("is_shared", "seen"), [(True, ["runs", "ended"]), (False, ["runs", "runs", "ended", "ended"])]
)
async def test_a_shared_server_runs_from_its_first_contender_to_its_last(*, is_shared: bool, seen: list[str]) -> None:
    notes: list[str] = []

    async def none(_: str) -> int:
        return 0

    broker = Broker("noting", lambda _: cast("Server", NotingServer(notes)), none, none, is_shared=is_shared)

    async with running(broker) as first, running(broker) as second:
        urls = (first, second)

    assert urls == (NotingServer.url, NotingServer.url)
    assert notes == seen


def test_a_round_is_complete_when_every_event_was_handled_once_at_least() -> None:
    tally = Tally(2)

    tally.take(1, sent_at_ns=0)
    tally.take(1, sent_at_ns=0)
    is_complete_too_early = tally.is_complete.is_set()
    tally.take(0, sent_at_ns=0)

    assert not is_complete_too_early
    assert tally.is_complete.is_set()
    assert (tally.report().handled, tally.report().again) == (2, 1)


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile_us([1_000 * n for n in range(1, 101)], percent) for percent in (50, 99)] == [50.0, 99.0]
    assert percentile_us([3_000], 99) == 3.0


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (2_076_543, "2,080,000"),
        (999_999, "1,000,000"),
        (4_434, "4,430"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.0, "1.00"),
        (0.7518, "0.752"),
        (0.0, "0"),
    ],
)
def test_a_figure_has_three_digits_that_count(figure: float, text: str) -> None:
    assert rounded(figure) == text


def test_a_table_has_a_line_for_each_contender_and_target() -> None:
    outcome = outcome_of([2_000, 1_000, 3_000], [1_000, 1_000, 1_000], Target("theirs", at_least=2.5))

    lines = [line.split() for line in table(outcome).splitlines()]

    assert ["ours", "2,000", "1,000", "3,000"] in lines
    assert ["theirs", "1,000", "1,000", "1,000", "2.00"] in lines
    assert ["at", "least", "2.5", "times", "theirs", "2.00", "falls", "short"] in lines


def test_the_readme_keeps_a_line_for_each_target() -> None:
    outcome = outcome_of(
        [2_000], [1_000], Target("theirs", at_least=1.5), Target(500.0, at_least=3, name="the old one")
    )

    assert markdown([outcome], ["this commit", "that machine"]).splitlines()[2:] == [
        "| count to a thousand | 2,000/s | theirs | 1,000/s | 2.00 | at least 1.5 |",
        "|  |  | the old one | 500/s | 4.00 | at least 3 |",
        "",
        "Medians of this commit; that machine.",
    ]


@pytest.mark.parametrize("question", WITH_MARKS)
async def test_every_question_can_be_asked_of_us(question: str) -> None:
    for compared in comparisons_of(question):
        ours = [contender for contender in compared.contenders if contender.package is None]

        outcome = await measure(Comparison(compared.title, compared.unit, tuple(ours), ()), rounds=1, scale=0.0001)

        if outcome.missing and os.environ.get("CI") != "true":
            pytest.skip(f"needs {', '.join(outcome.missing.values())}")
        assert set(outcome.figures) == {contender.name for contender in ours}
        assert all(figure > 0 for figures in outcome.figures.values() for figure in figures)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_target_is_about_a_contender_of_its_comparison(question: str) -> None:
    for compared in comparisons_of(question):
        names = [contender.name for contender in compared.contenders]
        against = [target.against for target in compared.targets if isinstance(target.against, str)]

        assert len(names) == len(set(names))
        assert set(against) <= set(names[1:])
