"""Judges what a relay did: what was committed, against what came out of the bus."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

Move: TypeAlias = tuple[str, int]
"""A key and a number; those of one key were committed in the order of their numbers."""


def violations(committed: Collection[Move], published: Sequence[Move], *, most_repeats: int) -> list[str]:
    """Return what cannot be, in words; empty for a history that a relay may have.

    Args:
        committed: What the database has.
        published: What came out of the bus, in the order of each key.
        most_repeats: How many events may have been published again: what was in flight when something was killed.
    """
    return [
        *_lost(committed, published),
        *_invented(committed, published),
        *_disorder(published),
        *_repeated(published, most_repeats),
    ]


def _lost(committed: Collection[Move], published: Sequence[Move]) -> Iterator[str]:
    lost = sorted(set(committed) - set(published))
    if lost:
        yield f"{len(lost)} of {len(committed)} committed events were not published: {lost[:5]}"


def _invented(committed: Collection[Move], published: Sequence[Move]) -> Iterator[str]:
    invented = sorted(set(published) - set(committed))
    if invented:
        yield f"{len(invented)} events were published that nobody committed: {invented[:5]}"


def _disorder(published: Sequence[Move]) -> Iterator[str]:
    last: dict[str, int] = {}
    for key, number in dict.fromkeys(published):  # the first time that each came
        if number < last.get(key, -1):
            yield f"{number} of {key} came after {last[key]}"
        last[key] = number


def _repeated(published: Sequence[Move], most: int) -> Iterator[str]:
    repeats = Counter(published)
    count = repeats.total() - len(repeats)
    if count > most:
        yield f"{count} events were published again, where {most} may have been in flight"
