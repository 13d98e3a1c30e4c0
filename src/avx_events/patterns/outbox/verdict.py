"""What the error of a publish says about the event, and about the bus."""

from typing import Literal, TypeAlias

from avx_events.core.errors import (
    EngineFailedError,
    InvalidArgumentError,
    InvalidTopicError,
    NotAnEventError,
    PermanentError,
    TransportRefusedError,
    UsageError,
)
from avx_events.core.policy import Reject

Verdict: TypeAlias = Literal["again", "never", "stop"]
"""Publish it again later; it can never be published; nothing can be published on this bus any more."""


def verdict_of(error: BaseException) -> Verdict:
    """Return what is to be done after a publish has failed of ``error``.

    What was refused, or sent and not confirmed, is published again, as is all that nobody has planned: an event that
    comes twice does less harm than one that never does. A broker that refuses everybody, as for want of a permission,
    says nothing of the event.
    """
    if isinstance(error, NotAnEventError | InvalidArgumentError | InvalidTopicError | Reject):
        return "never"
    if isinstance(error, UsageError | EngineFailedError):  # closed, not started, another loop
        return "stop"
    if isinstance(error, PermanentError) and not isinstance(error, TransportRefusedError):
        return "never"
    return "again"
