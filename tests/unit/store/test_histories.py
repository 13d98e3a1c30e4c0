"""The checker of the live tests knows a good history from each kind of bad one."""

from typing import Any

import msgspec
import pytest

from tests.live.histories import Attempt, Conflict, Entry, Kept, Outcome, Refused, follower_violations, violations


def attempt(
    stream: str,
    *event_ids: str,
    at: tuple[int, int | None],
    outcome: Outcome | None = None,
    expected: int | None = None,
) -> Attempt:
    began_ns, ended_ns = at
    return Attempt(stream, event_ids, began_ns, expected, ended_ns, outcome)


def entry(position: int, stream: str, version: int, event_id: str, *, recorded_us: int | None = None) -> Entry:
    return Entry(position, stream, version, position * 10 if recorded_us is None else recorded_us, event_id)


# "a" gets x1 x2 and then x3; "b" gets y1 at the same time as "a" gets its first; y2 expects the wrong version; z is
# killed and is not there, w is killed and is there.
ATTEMPTS = [
    attempt("a", "x1", "x2", at=(0, 10), outcome=Kept(2, 2), expected=0),
    attempt("b", "y1", at=(5, 12), outcome=Kept(1, 3)),
    attempt("b", "y2", at=(6, 14), outcome=Conflict(0, 1), expected=0),
    attempt("a", "x3", at=(20, 30), outcome=Kept(3, 4), expected=2),
    attempt("b", "z", at=(20, None)),
    attempt("b", "w1", "w2", at=(20, None)),
    attempt("b", "v", at=(20, 40), outcome=Refused("StoreUnavailableError")),
]
LOG = [
    entry(1, "a", 1, "x1", recorded_us=10),
    entry(2, "a", 2, "x2", recorded_us=10),
    entry(3, "b", 1, "y1", recorded_us=20),
    entry(4, "a", 3, "x3", recorded_us=30),
    entry(7, "b", 2, "w1", recorded_us=40),
    entry(8, "b", 3, "w2", recorded_us=40),
]


def test_what_a_correct_store_may_do_is_no_violation() -> None:
    assert violations(ATTEMPTS, LOG) == []
    assert violations([], []) == []


def test_a_repeat_that_is_told_the_first_place_is_no_violation() -> None:
    repeats = [
        attempt("b", "w1", "w2", at=(50, 60), outcome=Kept(3, 8), expected=99),
        attempt("a", "x3", at=(50, 60), outcome=Kept(3, 4), expected=0),
    ]

    assert violations([*ATTEMPTS, *repeats], LOG) == []


def changed(log: list[Entry], position: int, /, **changes: Any) -> list[Entry]:
    return [msgspec.structs.replace(one, **changes) if one.position == position else one for one in log]


def without(log: list[Entry], *positions: int) -> list[Entry]:
    return [one for one in log if one.position not in positions]


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        (without(LOG, 4), "x3 is lost"),
        (without(LOG, 1, 2), "x1 is lost"),
        (without(LOG, 8), "w1 is torn"),
        (without(LOG, 7), "w1 is torn"),
        (changed(LOG, 8, position=9), "w1 is torn"),
        (changed(LOG, 8, recorded_us=41), "w1 is torn"),
        (changed(LOG, 4, stream="c", version=1), "x3 is torn"),
        (changed(changed(LOG, 7, event_id="w2"), 8, event_id="w1"), "w1 is torn"),
        (changed(LOG, 3, version=2), "b goes from version 0 to 2"),
        (changed(LOG, 4, version=2), "a goes from version 2 to 2"),
        (changed(LOG, 4, position=3), "position 3 comes after 3"),
        (changed(LOG, 4, recorded_us=19), "x3 was recorded before y1"),
        (changed(LOG, 4, position=5), "x3 was told Kept"),
        ([*LOG, entry(9, "b", 4, "y1")], "y1 is torn"),
        ([*LOG, entry(9, "b", 4, "q")], "q is in the log, and nobody appended it"),
        ([*LOG, entry(9, "b", 4, "y2")], "y2 is in the log, and no attempt can have put it there"),
        ([*LOG, entry(9, "b", 4, "v")], "v is in the log, and no attempt can have put it there"),
    ],
)
def test_a_log_that_does_not_fit_what_its_callers_were_told_is_a_violation(log: list[Entry], problem: str) -> None:
    assert any(problem in found for found in violations(ATTEMPTS, log))


@pytest.mark.parametrize(
    ("more", "log"),
    [
        (attempt("b", "no", at=(50, 60), outcome=Conflict(5, 3), expected=5), LOG),
        (attempt("a", "no", at=(25, 60), outcome=Conflict(5, 2), expected=5), LOG),
        (
            attempt("c", "late", at=(50, 60), outcome=Kept(1, 5)),
            [*LOG[:4], entry(5, "c", 1, "late", recorded_us=35), *LOG[4:]],
        ),
    ],
)
def test_what_overlaps_may_come_in_any_order(more: Attempt, log: list[Entry]) -> None:
    assert violations([*ATTEMPTS, more], log) == []


@pytest.mark.parametrize(
    ("wrong", "log", "problem"),
    [
        (
            attempt("b", "new", at=(50, 60), outcome=Kept(4, 9), expected=2),
            [*LOG, entry(9, "b", 4, "new")],
            "new is in the log, and no attempt can have put it there",
        ),
        (
            attempt("c", "late", at=(31, 60), outcome=Kept(1, 1)),
            [entry(1, "c", 1, "late"), *(msgspec.structs.replace(one, position=one.position + 1) for one in LOG)],
            "late began after x1 had returned, and comes before it",
        ),
        (attempt("b", "no", at=(50, 60), outcome=Conflict(3, 3), expected=3), LOG, "was told Conflict"),
        (attempt("b", "no", at=(50, 60), outcome=Conflict(6, 3), expected=5), LOG, "was told Conflict"),
        (attempt("b", "no", at=(50, 60), outcome=Conflict(5, 2), expected=5), LOG, "where no append had ended"),
        (attempt("b", "no", at=(50, 60), outcome=Conflict(5, 4), expected=5), LOG, "where no append had ended"),
        (attempt("b", "no", at=(1, 4), outcome=Conflict(5, 1), expected=5), LOG, "where no append had ended"),
        (attempt("a", "no", at=(50, 60), outcome=Conflict(5, 2), expected=5), LOG, "which it was no more"),
    ],
)
def test_each_attempt_is_judged_by_when_it_was_made(wrong: Attempt, log: list[Entry], problem: str) -> None:
    assert any(problem in found for found in violations([*ATTEMPTS, wrong], log))


def test_a_follower_sees_the_log_from_where_it_began() -> None:
    assert follower_violations(LOG, LOG) == []
    assert follower_violations(LOG[:3], LOG) == []
    assert follower_violations([], LOG) == []
    assert follower_violations(LOG[2:], LOG, after=2) == []


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (LOG[1:], "saw x2 at position 2 as number 1, in the place of x1"),
        ([*LOG[:2], *LOG[3:]], "saw x3 at position 4 as number 3, in the place of y1"),
        ([*LOG[:2], *LOG[1:]], "saw 7 events where the log has 6"),
        ([*LOG[:2], LOG[1]], "saw x2 at position 2 as number 3, in the place of y1"),
        ([LOG[1], LOG[0]], "saw x2 at position 2 as number 1, in the place of x1"),
    ],
)
def test_a_follower_that_skips_repeats_or_reorders_is_a_violation(seen: list[Entry], problem: str) -> None:
    assert problem in follower_violations(seen, LOG)[0]
