"""Event-driven Python: one envelope, one delivery contract, any engine."""

from avx_events.core.event import Command, Event, Query, Request, UnknownEvent, event
from avx_events.core.metadata import EventEnvelope, EventMetadata, context
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter

__all__ = [
    "Command",
    "Discard",
    "Event",
    "EventEnvelope",
    "EventMetadata",
    "Query",
    "Reject",
    "Request",
    "Retry",
    "RetryAfter",
    "UnknownEvent",
    "context",
    "event",
]
