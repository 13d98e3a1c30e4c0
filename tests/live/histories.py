"""Judges what a store did: what its callers were told, against what its log holds in the end.

Callers in any number of processes write down an ``Attempt`` for each append. ``violations`` compares them with the log
and says, in words, what no correct store could have done. It knows nothing of engines, processes or time zones.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec


class Kept(msgspec.Struct, frozen=True, tag=True):
    """The append returned: the place of its last event."""

    version: int
    position: int


class Conflict(msgspec.Struct, frozen=True, tag=True):
    """The append raised ConcurrencyError."""

    expected: int
    actual: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The append raised an error that says that nothing was written."""

    error_type: str


Outcome: TypeAlias = Kept | Conflict | Refused


class Attempt(msgspec.Struct, frozen=True):
    """One call of append. Those with the same event ids are repeats of one batch.

    Attributes:
        stream: Where the events were to go.
        event_ids: In order.
        began_ns: When it was called, on a clock that all callers share.
        expected_version: None for any.
        ended_ns: When it returned or raised; None where the caller was killed.
        outcome: None where nobody knows.
    """

    stream: str
    event_ids: tuple[str, ...]
    began_ns: int
    expected_version: int | None = None
    ended_ns: int | None = None
    outcome: Outcome | None = None


class Entry(msgspec.Struct, frozen=True):
    """One event of the log, in the log's order."""

    position: int
    stream: str
    version: int
    recorded_us: int
    event_id: str


class Batch(msgspec.Struct, frozen=True):
    """All attempts to append the same events, and what the log has of them."""

    attempts: tuple[Attempt, ...]
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Its first event id, for messages."""
        return self.attempts[0].event_ids[0]

    @property
    def began_ns(self) -> int:
        """When the first attempt began."""
        return min(attempt.began_ns for attempt in self.attempts)

    @property
    def returned_ns(self) -> float:
        """When a caller first knew that it is kept; infinity where none did."""
        ends = [attempt.ended_ns for attempt in self.attempts if isinstance(attempt.outcome, Kept)]
        return min((end for end in ends if end is not None), default=float("inf"))


def violations(attempts: Iterable[Attempt], log: Sequence[Entry]) -> list[str]:
    """Return what cannot be, in words; empty for a history that a correct store may have.

    Args:
        attempts: All of them, in any order.
        log: The whole log, as it is after the last of them.
    """
    batches = _batches(attempts, log)
    return [
        *_disorder(log),
        *_strangers(batches, log),
        *(problem for batch in batches for problem in _faults(batch)),
        *_overtaken(batches),
        *_stale_conflicts(batches),
    ]


def follower_violations(seen: Sequence[Entry], log: Sequence[Entry], *, after: int = 0) -> list[str]:
    """Return what a follower that began after a position, and saw ``seen`` so far, should not have seen."""
    expected = [entry for entry in log if entry.position > after][: len(seen)]
    if len(seen) > len(expected):
        return [f"saw {len(seen)} events where the log has {len(expected)}"]
    return [
        f"saw {got.event_id} at position {got.position} as number {number}, in the place of {wanted.event_id}"
        for number, (got, wanted) in enumerate(zip(seen, expected, strict=True), start=1)
        if got != wanted
    ]


def _batches(attempts: Iterable[Attempt], log: Sequence[Entry]) -> list[Batch]:
    grouped: dict[tuple[str, ...], list[Attempt]] = {}
    for attempt in attempts:
        grouped.setdefault(attempt.event_ids, []).append(attempt)
    found: dict[str, list[Entry]] = {}
    for entry in log:
        found.setdefault(entry.event_id, []).append(entry)
    return [
        Batch(tuple(repeats), tuple(entry for event_id in ids for entry in found.get(event_id, ())))
        for ids, repeats in grouped.items()
    ]


def _disorder(log: Sequence[Entry]) -> Iterator[str]:
    versions: dict[str, int] = {}
    for entry in log:
        before = versions.get(entry.stream, 0)
        if entry.version != before + 1:
            yield f"{entry.stream} goes from version {before} to {entry.version}"
        versions[entry.stream] = entry.version
    for one, other in pairwise(log):
        if other.position <= one.position:
            yield f"position {other.position} comes after {one.position}"
        if other.recorded_us < one.recorded_us:
            yield f"{other.event_id} was recorded before {one.event_id}, which it follows"


def _strangers(batches: Iterable[Batch], log: Sequence[Entry]) -> Iterator[str]:
    attempted = {event_id for batch in batches for event_id in batch.attempts[0].event_ids}
    for entry in log:
        if entry.event_id not in attempted:
            yield f"{entry.event_id} is in the log, and nobody appended it"


def _faults(batch: Batch) -> Iterator[str]:
    entries = batch.entries
    if entries:
        yield from _torn(batch)
        if not any(_may_have_put(attempt, entries[0]) for attempt in batch.attempts):
            yield f"{batch.name} is in the log, and no attempt can have put it there"
    for attempt in batch.attempts:
        if not isinstance(attempt.outcome, Kept):
            continue
        if not entries:
            yield f"{batch.name} is lost: its append returned"
        elif attempt.outcome != Kept(entries[-1].version, entries[-1].position):
            yield f"{batch.name} was told {attempt.outcome}, and is at {entries[-1]}"


def _torn(batch: Batch) -> Iterator[str]:
    first, ids, stream = batch.entries[0], batch.attempts[0].event_ids, batch.attempts[0].stream
    whole = [
        Entry(first.position + number, stream, first.version + number, first.recorded_us, event_id)
        for number, event_id in enumerate(ids)
    ]
    if list(batch.entries) != whole:
        yield f"{batch.name} is torn: of {len(ids)} events for {stream}, the log has {list(batch.entries)}"


def _may_have_put(attempt: Attempt, first: Entry) -> bool:
    return not isinstance(attempt.outcome, Conflict | Refused) and attempt.expected_version in {None, first.version - 1}


def _overtaken(batches: Iterable[Batch]) -> Iterator[str]:
    # What began after another had returned comes after it.
    earliest, by_whom = float("inf"), ""
    for batch in sorted((batch for batch in batches if batch.entries), key=_position, reverse=True):
        if earliest < batch.began_ns:
            yield f"{batch.name} began after {by_whom} had returned, and comes before it"
        if batch.returned_ns < earliest:
            earliest, by_whom = batch.returned_ns, batch.name


def _stale_conflicts(batches: Sequence[Batch]) -> Iterator[str]:
    ends = {(batch.attempts[0].stream, batch.entries[-1].version): batch for batch in batches if batch.entries}
    begins = {(batch.attempts[0].stream, batch.entries[0].version): batch for batch in batches if batch.entries}
    for batch in batches:
        for attempt in batch.attempts:
            if isinstance(attempt.outcome, Conflict):
                yield from _stale(attempt, attempt.outcome, ends, begins)


def _stale(
    attempt: Attempt,
    conflict: Conflict,
    ends: Mapping[tuple[str, int], Batch],
    begins: Mapping[tuple[str, int], Batch],
) -> Iterator[str]:
    name, actual = attempt.event_ids[0], conflict.actual
    if conflict.expected != attempt.expected_version or actual == conflict.expected:
        yield f"{name}, which expected {attempt.expected_version}, was told {conflict}"
    there, following = ends.get((attempt.stream, actual)), begins.get((attempt.stream, actual + 1))
    if actual and (there is None or (attempt.ended_ns is not None and there.began_ns > attempt.ended_ns)):
        yield f"{name} was told that {attempt.stream} is at version {actual}, where no append had ended"
    if following is not None and following.returned_ns < attempt.began_ns:
        yield f"{name} was told that {attempt.stream} is at version {actual}, which it was no more"


def _position(batch: Batch) -> int:
    return batch.entries[0].position
