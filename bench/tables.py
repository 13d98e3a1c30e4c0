"""Outcomes as text: a table for each comparison, or what the README keeps of all of them."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from bench.rounds import Outcome, Target, Verdict, verdicts

_PLACES: Final = 3  # the fourth digit is never the same twice


def rounded(figure: float) -> str:
    """Return ``figure`` with three digits that count, as ``"2,080,000"``, ``"4,430"`` or ``"0.752"``."""
    if figure == 0:
        return "0"
    digits = _PLACES - len(f"{abs(figure):.0f}") if abs(figure) >= 1 else _PLACES
    return f"{round(figure, digits):,.{max(digits, 0)}f}"


def table(outcome: Outcome) -> str:
    """Return one comparison: a line for each contender, then one for each target."""
    comparison = outcome.comparison
    first = comparison.contenders[0].name
    lines = [("", comparison.unit, "lowest", "highest", "first ÷ this")]
    for contender in comparison.contenders:
        figures = outcome.figures.get(contender.name)
        if figures is None:
            lines.append((contender.name, f"needs {outcome.missing[contender.name]}", "", "", ""))
        else:
            ratio = None if contender.name == first else outcome.ratio_to(contender.name)
            spread = (rounded(median(figures)), rounded(min(figures)), rounded(max(figures)))
            lines.append((contender.name, *spread, "" if ratio is None else rounded(ratio)))
    judged = verdicts(outcome)
    if judged:
        lines.append(("target", "", "", "measured", ""))
    lines += [(f"  {_goal(verdict.target)}", "", "", _ratio(verdict), _judgement(verdict)) for verdict in judged]
    text = _aligned(lines)
    return "\n".join([comparison.title, "─" * max(len(line) for line in text), *text])


def markdown(outcomes: Iterable[Outcome], surroundings: Iterable[str]) -> str:
    """Return one table for all targets, as the README keeps it, and what it was measured with."""
    lines = [
        "| what | avx-events | compared with | | ratio | target |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for outcome in outcomes:
        comparison = outcome.comparison
        unit = comparison.unit
        what, first = comparison.title, _median(outcome, comparison.contenders[0].name)
        for verdict in verdicts(outcome):
            other = verdict.target.against
            figure = _median(outcome, other) if isinstance(other, str) else _with_unit(other, unit)
            name = other if isinstance(other, str) else verdict.target.name
            bound = f"{_bound(verdict.target)}{_when(verdict.target)}"
            lines.append(f"| {what} | {first} | {name} | {figure} | {_ratio(verdict)} | {bound} |")
            what = first = ""
    return "\n".join([*lines, "", f"Medians of {'; '.join(surroundings)}."])


def _median(outcome: Outcome, name: str) -> str:
    figures = outcome.figures.get(name)
    return "-" if figures is None else _with_unit(median(figures), outcome.comparison.unit)


def _with_unit(figure: float, unit: str) -> str:
    return f"{rounded(figure)}/s" if unit.endswith("/s") else f"{rounded(figure)} {unit}"


def _name(target: Target) -> str:
    return target.against if isinstance(target.against, str) else f"{target.name}, {target.against:,.0f}"


def _bound(target: Target) -> str:
    if target.at_most is not None:
        return f"at most {target.at_most:g}"
    return f"at least {target.at_least:g}"


def _goal(target: Target) -> str:
    return f"{_bound(target)} times {_name(target)}{_when(target)}"


def _when(target: Target) -> str:
    return ", in every round" if target.in_every_round else ""


def _ratio(verdict: Verdict) -> str:
    return "-" if verdict.ratio is None else rounded(verdict.ratio)


def _judgement(verdict: Verdict) -> str:
    if verdict.is_met is None:
        return "not measured"
    return "ok" if verdict.is_met else "falls short"


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines with the first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
