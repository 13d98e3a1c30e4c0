"""Measures avx-events against limits and peers: ``python -m bench [question ...] [--rounds N] [--quick] [--markdown]``.

Every question is a file of this folder. Only ratios of one run mean anything: figures differ from machine to machine,
and on one machine from hour to hour. The median of the rounds' ratios is what counts.
"""

import argparse
import asyncio
import sys
from importlib import import_module
from typing import Final, cast

from bench.rounds import Comparison, Outcome, measure, verdicts
from bench.surroundings import described
from bench.tables import markdown, table

QUESTIONS: Final = (
    "publish_subscribe",
    "publish_batches",
    "handlers",
    "request_reply",
    "topic_matching",
    "store_append",
    "store_replay",
    "store_growth",
    "aggregate_load",
    "postgres_append",
    "postgres_replay",
    "projections",
    "redis_publish",
    "redis_groups",
    "redis_latency",
    "redis_requests",
    "nats_publish",
    "nats_groups",
    "nats_requests",
    "kafka_publish",
    "kafka_groups",
    "telemetry",
    "import_time",
    "memory",
)
ROUNDS: Final = 9
QUICK_ROUNDS: Final = 3
QUICK_SCALE: Final = 0.05


def comparisons_of(question: str) -> tuple[Comparison, ...]:
    """Return the comparisons of a question."""
    return cast("tuple[Comparison, ...]", import_module(f"bench.{question}").COMPARISONS)


def main() -> None:
    """Measure what was asked for, and print it as it comes."""
    options = _options()
    comparisons = [comparison for question in options.questions for comparison in comparisons_of(question)]
    packages = [each.package for comparison in comparisons for each in comparison.contenders if each.package]
    surroundings = described(packages)
    print(*surroundings, sep="\n", flush=True)
    if options.quick:
        print("quick: too few and too short rounds to judge by")
    outcomes: list[Outcome] = []
    for comparison in comparisons:
        outcome = asyncio.run(
            measure(comparison, rounds=options.rounds, scale=QUICK_SCALE if options.quick else 1.0),
        )
        outcomes.append(outcome)
        print("", table(outcome), sep="\n", flush=True)
    if options.markdown:
        print("", markdown(outcomes, surroundings), sep="\n")
    judged = [verdict.is_met for outcome in outcomes for verdict in verdicts(outcome)]
    print(f"\n{judged.count(True)} targets ok, {judged.count(False)} fall short, {judged.count(None)} not measured")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=sys.modules[__name__].__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="question", help=f"all if none is given: {', '.join(QUESTIONS)}"
    )
    parser.add_argument("--rounds", type=int, help=f"counted rounds of each contender, {ROUNDS} if not given")
    parser.add_argument("--quick", action="store_true", help="a minute in all: shows that everything runs")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README too")
    options = parser.parse_args()
    unknown = set(options.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    options.questions = options.questions or QUESTIONS
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    return options


if __name__ == "__main__":
    main()
