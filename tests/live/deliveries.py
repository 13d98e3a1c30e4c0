"""Judges what a group did with what was published: what publishers were told, against what its handlers wrote down.

Every event is a pair (publisher, counter) and has a key. Publishers record an ``Outcome`` for each; members append a
line to one shared file when a handler begins and when it ends, so that it has what a killed process did, in order.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["accepted", "refused", "unknown"]
Event: TypeAlias = tuple[str, int]
"""A publisher and its counter, from 0."""

_LARGEST_SAMPLE: Final = 10


class Step(msgspec.Struct, frozen=True):
    """A line of the shared file: a handler began or ended."""

    what: Literal["began", "ended"]
    member: str
    publisher: str
    number: int
    key: str

    @property
    def event(self) -> Event:
        """The event."""
        return self.publisher, self.number


class Steps:
    """The shared file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, step: Step) -> None:
        """Append a line, whole: it is there whatever happens to this process afterwards."""
        os.write(self._file, msgspec.json.encode(step) + b"\n")

    def read(self) -> list[Step]:
        """Return all lines, without one that is being written."""
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        return [msgspec.json.decode(line, type=Step) for line in whole.splitlines()]


def violations(outcomes: Mapping[Event, Outcome], steps: Sequence[Step], *, most_repeats: int) -> list[str]:
    """Return what cannot be, in words; empty for a history that the delivery contract allows.

    Args:
        outcomes: What publishers were told.
        steps: What members wrote down, when all is over.
        most_repeats: How many times an event may have been begun again: what was in flight when something was killed.
    """
    return [
        *_lost(outcomes, steps),
        *_invented(outcomes, steps),
        *_repeated(steps, most_repeats),
        *_disorder(steps),
        *_overlaps(steps),
    ]


def unfinished(outcomes: Mapping[Event, Outcome], steps: Iterable[Step]) -> set[Event]:
    """Return what was accepted and not handled to the end."""
    ended = {step.event for step in steps if step.what == "ended"}
    return {event for event, outcome in outcomes.items() if outcome == "accepted"} - ended


def _lost(outcomes: Mapping[Event, Outcome], steps: Sequence[Step]) -> Iterator[str]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for publisher, number in sorted(unfinished(outcomes, steps)):
        numbers[publisher].append(number)
    for publisher, lost in numbers.items():
        accepted = sorted(number for (by, number), told in outcomes.items() if by == publisher and told == "accepted")
        yield f"{publisher} lost {len(lost)} of {len(accepted)} accepted events, {_where(lost, accepted)}: {_few(lost)}"


def _where(lost: list[int], accepted: list[int]) -> str:
    if lost == accepted[: len(lost)]:
        return "a prefix"
    return "a suffix" if lost == accepted[-len(lost) :] else "in the middle"


def _few(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > _LARGEST_SAMPLE else ""
    return ", ".join(map(str, numbers[:_LARGEST_SAMPLE])) + more


def _invented(outcomes: Mapping[Event, Outcome], steps: Sequence[Step]) -> Iterator[str]:
    for event in sorted({step.event for step in steps}):
        outcome = outcomes.get(event)
        if outcome is None:
            yield f"{event} was handled, and nobody published it"
        elif outcome == "refused":
            yield f"{event} was handled, and its publisher was told that it was not sent"


def _repeated(steps: Sequence[Step], most: int) -> Iterator[str]:
    begun = Counter(step.event for step in steps if step.what == "began")
    repeats = begun.total() - len(begun)
    if repeats > most:
        worst = ", ".join(f"{event} {count} times" for event, count in begun.most_common(3))
        yield f"{repeats} events were begun again, where {most} may have been in flight: {worst}"


def _disorder(steps: Sequence[Step]) -> Iterator[str]:
    """Find keys whose events were first handled in another order than they were published in."""
    last: dict[tuple[str, str], int] = {}
    seen: set[Event] = set()
    for step in steps:
        if step.what != "began" or step.event in seen:
            continue
        seen.add(step.event)
        before = last.get((step.publisher, step.key), -1)
        if step.number < before:
            yield f"{step.event} of key {step.key} came after {before}, by {step.member}"
        last[step.publisher, step.key] = step.number


def _overlaps(steps: Sequence[Step]) -> Iterator[str]:
    """Find keys of which one member handled two events at once."""
    running: dict[tuple[str, str], Event] = {}
    for step in steps:
        place = (step.member, step.key)
        if step.what == "ended":
            running.pop(place, None)
        elif place in running:
            yield f"{step.member} began {step.event} of key {step.key} while {running[place]} ran"
        else:
            running[place] = step.event
