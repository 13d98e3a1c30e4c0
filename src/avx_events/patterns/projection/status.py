"""What a projection tells of itself: what it did here, and how far it is."""

from typing import Literal, TypeAlias

import msgspec

FollowerState: TypeAlias = Literal["following", "failed", "stopped"]
ProjectionState: TypeAlias = Literal["building", "live", "paused", "failed", "stopped"]


class ProjectionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one projection did since its projector was entered.

    Attributes:
        version: Its version.
        state: ``following``, ``failed`` or ``stopped``.
        position: The position in the log up to which it is done.
        handled: Events whose effects were committed here.
        transactions: Transactions that were committed here.
        failures: Attempts that failed and were undone.
        dead_lettered: Events that became dead letters here.
        failed_actions: Actions after a commit that failed; they are not repeated.
    """

    version: int
    state: FollowerState
    position: int
    handled: int
    transactions: int
    failures: int
    dead_lettered: int = 0
    failed_actions: int = 0


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far one projection is, whichever process has brought it there.

    Attributes:
        version: Its version.
        state: ``building`` until it has come to the end of the log for the first time, then ``live``; ``paused``
            while somebody has paused it; ``failed`` or ``stopped`` where this process does not follow the log for it
            any more.
        replaces: The older version that is read while this one is built beside it, 0 where that is this version as it
            was before it is built anew; None where there is none.
        position: The position in the log up to which it is done.
        last_position: The end of the log.
        lag_events: How many positions are between the two.
        lag_seconds: How long the first event after ``position`` has been in the log; 0.0 where there is none.
        events_per_second: How many positions a second it has moved here lately.
        seconds_left: How long it takes at that rate until it has caught up; 0.0 where it has, None where it stands.
        problem: Where it failed, and of what; empty unless it has.
    """

    version: int
    state: ProjectionState
    replaces: int | None
    position: int
    last_position: int
    lag_events: int
    lag_seconds: float
    events_per_second: float
    seconds_left: float | None
    problem: str
