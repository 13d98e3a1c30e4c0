"""What happens when a handler fails or a queue is full: values that decide, and never wait."""

import math
import sys
from typing import Literal, TypeAlias

import msgspec

from avx_events.core.arguments import is_whole
from avx_events.core.errors import InvalidArgumentError

Overflow: TypeAlias = Literal["wait", "drop_oldest", "drop_newest", "raise"]
OVERFLOWS: tuple[Overflow, ...] = ("wait", "drop_oldest", "drop_newest", "raise")


def _is_number(value: object, *, least: float) -> bool:
    return isinstance(value, int | float) and least <= value <= sys.float_info.max


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a failed attempt is repeated, and after which pauses: exponential with full jitter.

    Attributes:
        attempts: Attempts in total, the first included; at least 1.
        initial_s: Upper bound of the first pause, in seconds.
        max_s: Upper bound of every pause, in seconds.
        multiplier: Growth of the upper bound from one pause to the next; at least 1.

    Source:
        "Exponential Backoff And Jitter", M. Brooker, AWS Architecture Blog, 2015: full jitter.
    """

    attempts: int = 5
    initial_s: float = 0.1
    max_s: float = 30.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what could never end or never wait.

        Raises:
            InvalidArgumentError: A value is outside its range.
        """
        # Infinity would never end, and neither would NaN, which is not less than 1 either.
        if not is_whole(self.attempts) or self.attempts < 1:
            expected = "a whole number, 1 or more (the first attempt counts)"
            raise InvalidArgumentError("attempts", self.attempts, expected=expected)
        for name, value in (("initial_s", self.initial_s), ("max_s", self.max_s)):
            if not _is_number(value, least=0):
                raise InvalidArgumentError(name, value, expected="a number of seconds, 0 or more")
        if not _is_number(self.multiplier, least=1):
            raise InvalidArgumentError("multiplier", self.multiplier, expected="a number, 1 or more")

    def delay_before(self, attempt: int, *, jitter: float) -> float | None:
        """Return the seconds to wait before ``attempt``, or None when there is no such attempt.

        Args:
            attempt: The attempt that would come next, counted from 1: the first retry is 2.
            jitter: 0 to 1, drawn by the caller; the pause is this share of its upper bound.
        """
        if attempt > self.attempts:
            return None
        try:
            bound_s = self.initial_s * float(self.multiplier) ** max(attempt - 2, 0)
        except OverflowError:  # past any cap, unless it is a multiple of nothing
            bound_s = math.inf if self.initial_s else 0.0
        return min(self.max_s, bound_s) * jitter


ONE_ATTEMPT = Retry(attempts=1)


class Discard(Exception):  # noqa: N818 - an instruction to the engine, not an error
    """Raised by a handler: this event is of no use to it; drop it, no retry and no dead letter."""


class Reject(Exception):  # noqa: N818 - an instruction to the engine, not an error
    """Raised by a handler: this event will never succeed; make it a dead letter at once."""


class RetryAfter(Exception):  # noqa: N818 - an instruction to the engine, not an error
    """Raised by a handler: this attempt failed, and the next one may start after ``delay_s`` seconds."""

    delay_s: float = 0.0  # of a derived class that says nothing of it

    def __init__(self, delay_s: float, reason: str = "") -> None:
        """Keep the delay, 0 or more seconds.

        Raises:
            InvalidArgumentError: The delay is negative or not a number.
        """
        if not _is_number(delay_s, least=0):
            raise InvalidArgumentError("delay_s", delay_s, expected="a number of seconds, 0 or more")
        super().__init__(reason or f"retry after {delay_s:g} s")
        self.delay_s = delay_s
