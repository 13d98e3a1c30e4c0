"""Decides what an append is whose event ids are in the store already: a repeat, a conflict or a mistake."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from avx_events.core.errors import ConcurrencyError, DuplicateEventIdError
from avx_events.store.ports import AppendResult, NewRecordTuple

Place: TypeAlias = tuple[str, int, int]
"""Stream, version and position of an event that is in the store."""

Verdict: TypeAlias = AppendResult | ConcurrencyError | DuplicateEventIdError


def judge(
    stream: str,
    records: Sequence[NewRecordTuple],
    *,
    found: Mapping[str, Place],
    expected_version: int | None,
    version: int,
) -> Verdict | None:
    """Return what comes of an append that cannot go on, or None for one that can.

    Args:
        stream: Where it is to go.
        records: What is to be appended.
        found: Those of its event ids that the store has, with their places.
        expected_version: What the caller holds to be the stream's version, if it says so.
        version: The version that the stream is at.

    Returns:
        The place of the last event for a repeat, an error to raise, or None.
    """
    for event_id, (existing, _, _) in found.items():
        if existing != stream:
            return DuplicateEventIdError(event_id, stream=stream, existing=existing)
    if found and len(found) == len(records):
        _, last_version, last_position = max(found.values(), key=lambda place: place[1])
        return AppendResult(last_version, last_position)
    if found:
        before = min(place[1] for place in found.values()) - 1
        return ConcurrencyError(
            stream, expected=before if expected_version is None else expected_version, actual=version
        )
    if expected_version is not None and expected_version != version:
        return ConcurrencyError(stream, expected=expected_version, actual=version)
    return None
