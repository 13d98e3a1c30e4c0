"""Event-driven Python: one envelope, one delivery contract, any engine."""

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.event import Command, Event, Query, Request, UnknownEvent, event
from avx_events.core.metadata import EventEnvelope, EventMetadata, context
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter

__all__ = [
    "Command",
    "DeadLetter",
    "DeadLetterQueue",
    "Discard",
    "Event",
    "EventBus",
    "EventEnvelope",
    "EventMetadata",
    "Query",
    "Reject",
    "Request",
    "RequestReplyBus",
    "Retry",
    "RetryAfter",
    "TopicBus",
    "UnknownEvent",
    "context",
    "event",
]
