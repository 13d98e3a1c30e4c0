"""What a transaction of a projection is at, for the projection's own methods: ``table``, ``after_commit`` and so on."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeAlias

from avx_events.core.metadata import EventMetadata
from avx_events.store.stored_event import StoredEvent

Action: TypeAlias = Callable[[], Awaitable[object]]
"""What a handler wants done after the commit."""


class FollowUp(NamedTuple):
    """An action after a commit.

    Attributes:
        cause: The metadata of the event whose handler wants it.
        action: What to do.
    """

    cause: EventMetadata
    action: Action


class Handled(NamedTuple):
    """What is, or was, handled.

    Attributes:
        stored: The event.
        method: The name of the method that has it.
    """

    stored: StoredEvent[Any]
    method: str


class Handling:
    """One transaction of one projection, as far as its handlers are concerned.

    Attributes:
        owner: The projection; an ``object``, as this module stands below it.
        is_beside: Whether its tables have names of their own.
        goal: Events up to this position are history.
        build: The number of this build, for the names of its indexes.
        stored: The event that is handled; None before the first.
        method: The name of the method that handles it.
        follow_ups: What to do after the commit.
        is_open: Whether handlers run.
    """

    __slots__ = ("build", "follow_ups", "goal", "is_beside", "is_open", "method", "owner", "stored")

    def __init__(self, owner: object, *, is_beside: bool, goal: int, build: int) -> None:
        """Begin for ``owner``."""
        self.owner: Final = owner
        self.is_beside: Final = is_beside
        self.goal: Final = goal
        self.build: Final = build
        self.stored: StoredEvent[Any] | None = None
        self.method = ""
        self.follow_ups: list[FollowUp] = []
        self.is_open = True

    @property
    def is_replaying(self) -> bool:
        """Whether the event that is handled is history."""
        return self.is_beside or (self.stored is not None and self.stored.position <= self.goal)

    @property
    def handled(self) -> Handled | None:
        """What it is at."""
        return None if self.stored is None else Handled(self.stored, self.method)

    def follow_up(self, action: Action) -> None:
        """Do ``action`` after the commit, unless the event is history."""
        if self.stored is not None and not self.is_replaying:
            self.follow_ups.append(FollowUp(self.stored.metadata, action))


current_handling: Final[ContextVar[Handling | None]] = ContextVar("avx_projection_handling", default=None)
"""Of the running task, and those that it started."""
