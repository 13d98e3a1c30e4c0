"""One event on its way through one handler, and what a failed attempt leads to."""

from typing import TYPE_CHECKING, ClassVar, TypeAlias

import msgspec

from avx_events.bus.dead_letters import DeadLetter, Reason
from avx_events.bus.subscription import AnyEnvelope
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter

if TYPE_CHECKING:
    from collections.abc import Hashable
    from datetime import datetime


class Work:
    """An event that has a history with a handler, or is about to get one.

    Attributes:
        envelope: The event and its metadata.
        key: What its order is kept by; None for events without order.
        attempts: How many attempts have begun, this time round.
        first_failed_at: When the first of them failed, aware UTC.
        letter: The dead letter that is being redriven, if it is one.
        burial: The dead letter that it became, as long as the queue has not taken it.
        key_error: What the handler's key function raised for it.
        pause_s: How many seconds its next attempt has to wait, where others of its key come before it.
        is_kept_elsewhere: Whether a broker gives it out again where this process does not settle it.
        own_key: What its order is kept by where the handler has no key function; None is the aggregate id.
        must_count: Whether each attempt is to be counted where it is kept, before it begins.
    """

    __slots__ = ("attempts", "burial", "envelope", "first_failed_at", "key", "key_error", "letter", "pause_s")

    is_kept_elsewhere: ClassVar[bool] = False
    own_key: str | None = None
    must_count: bool = False

    def __init__(self, envelope: AnyEnvelope, *, letter: DeadLetter | None = None) -> None:
        """Begin without attempts; ``letter`` is given where a dead letter is redriven."""
        self.envelope = envelope
        self.key: Hashable = None
        self.attempts = 0
        self.first_failed_at: datetime | None = None
        self.letter = letter
        self.burial: DeadLetter | None = None
        self.key_error: BaseException | None = None
        self.pause_s: float | None = None

    @property
    def has_failed(self) -> bool:
        """Whether an attempt failed, this time round or before it became the dead letter that is redriven."""
        return self.first_failed_at is not None or self.letter is not None

    def may_begin(self) -> bool:
        """Tell whether it is still this process that should handle it."""
        return True

    async def count(self, *, may_wait: bool) -> bool:  # noqa: ARG002 - here there is nothing to wait for
        """Have the attempt that begins next counted where the event is kept; False where it is no longer ours.

        It may first wait for others to end, where the caller ``may_wait`` for them: it handles none of them itself.
        """
        return True

    def paused(self) -> None:
        """Take note that the attempt failed, and that another one follows later."""

    def done(self) -> None:
        """Take note that nothing is left to do with the event."""

    def dropped(self) -> None:
        """Take note that the event is left to whoever is given it next."""

    def raise_key_error(self) -> None:
        """Raise what the key function raised, if it did: such an attempt fails before its handler is called."""
        if self.key_error is not None:
            raise self.key_error


class TryAgain(msgspec.Struct, frozen=True):
    """The next attempt may start after ``delay_s`` seconds."""

    delay_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """There is no further attempt; the event becomes a dead letter for ``reason``."""

    reason: Reason


class Drop(msgspec.Struct, frozen=True):
    """The handler has no use for the event."""


Decision: TypeAlias = TryAgain | GiveUp | Drop


def decide(retry: Retry, *, attempts: int, error: BaseException, jitter: float) -> Decision:
    """Return what a failed attempt leads to.

    Args:
        retry: The handler's policy.
        attempts: How many attempts have been made, this one included.
        error: What it raised.
        jitter: 0 to 1, drawn by the caller.
    """
    if isinstance(error, Discard):
        return Drop()
    if isinstance(error, Reject):
        return GiveUp("rejected")
    delay_s = retry.delay_before(attempts + 1, jitter=jitter)
    if delay_s is None:
        return GiveUp("failed")
    return TryAgain(error.delay_s if isinstance(error, RetryAfter) else delay_s)
