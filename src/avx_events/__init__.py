"""Event-driven Python: one envelope, one delivery contract, any engine.

What is not in ``core`` is loaded when it is first used, so that a program pays for the parts that it has.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from avx_events.core.clock import Clock
from avx_events.core.errors import (
    AggregateDefinitionError,
    AvxEventsError,
    ClosedError,
    ConcurrencyError,
    DeadLetterNotFoundError,
    DecodeError,
    DeliveryError,
    DuplicateEventIdError,
    DuplicateEventTypeError,
    DuplicateHandlerError,
    EncodeError,
    EngineFailedError,
    EventDefinitionError,
    EventTooLargeError,
    HandlerDefinitionError,
    HandlerKilledError,
    HandlerTimeoutError,
    HandlerWaitError,
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    InvalidTopicError,
    MissingExtraError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NoResponderError,
    NotAnEventError,
    NotRunningError,
    NotStartedError,
    PartitionsMismatchError,
    PermanentError,
    ProjectionDefinitionError,
    ProjectionFailedError,
    ProjectionLagError,
    ProjectionReplacedError,
    PublishUnknownError,
    RemoteError,
    ReplySentError,
    RequestTimeoutError,
    ResultNotKeptError,
    RetryableError,
    StatementError,
    StoppedError,
    StoreSchemaError,
    StoreUnavailableError,
    StreamNotFoundError,
    SubscriptionFullError,
    TransactionError,
    TransportRefusedError,
    TransportUnavailableError,
    UnknownEventTypeError,
    UnknownSchemeError,
    UnsupportedError,
    UsageError,
    ValidationError,
    WrongLoopError,
)
from avx_events.core.event import Command, Event, Query, Request, UnknownEvent, event, upcast
from avx_events.core.metadata import EventEnvelope, EventMetadata, MessageContext, context, current_context
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter

if TYPE_CHECKING:
    from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, DeadLetterStore, LetterFilter
    from avx_events.bus.deliveries import Delivery
    from avx_events.bus.event_bus import EventBus
    from avx_events.bus.request_reply import RequestReplyBus, RequestStatistics
    from avx_events.bus.responders import Listener, Reply
    from avx_events.bus.statistics import BusStatistics, SubscriptionStatistics
    from avx_events.bus.subscriber import Subscriber
    from avx_events.bus.topic_bus import TopicBus
    from avx_events.patterns.aggregate import AggregateRoot
    from avx_events.patterns.cqrs import (
        CommandBus,
        CommandHandler,
        QueryBus,
        QueryHandler,
        idempotency_key,
        log_dispatch,
        retry_on_conflict,
        time_dispatch,
        validate,
    )
    from avx_events.patterns.projection import Projection, Projector, handles
    from avx_events.store.causal_tree import CausalTree, CorrelatedEvent
    from avx_events.store.event_store import EventStore
    from avx_events.store.history import Change, HistoryEntry
    from avx_events.store.ports import AppendResult, Connection
    from avx_events.store.stored_event import StoredEvent

__all__ = [
    "AggregateDefinitionError",
    "AggregateRoot",
    "AppendResult",
    "AvxEventsError",
    "BusStatistics",
    "CausalTree",
    "Change",
    "Clock",
    "ClosedError",
    "Command",
    "CommandBus",
    "CommandHandler",
    "ConcurrencyError",
    "Connection",
    "CorrelatedEvent",
    "DeadLetter",
    "DeadLetterNotFoundError",
    "DeadLetterQueue",
    "DeadLetterStore",
    "DecodeError",
    "Delivery",
    "DeliveryError",
    "Discard",
    "DuplicateEventIdError",
    "DuplicateEventTypeError",
    "DuplicateHandlerError",
    "EncodeError",
    "EngineFailedError",
    "Event",
    "EventBus",
    "EventDefinitionError",
    "EventEnvelope",
    "EventMetadata",
    "EventStore",
    "EventTooLargeError",
    "HandlerDefinitionError",
    "HandlerKilledError",
    "HandlerTimeoutError",
    "HandlerWaitError",
    "HistoryEntry",
    "IdempotencyKeyReusedError",
    "InvalidArgumentError",
    "InvalidTopicError",
    "LetterFilter",
    "Listener",
    "MessageContext",
    "MissingExtraError",
    "NoDeadLetterQueueError",
    "NoHandlerError",
    "NoResponderError",
    "NotAnEventError",
    "NotRunningError",
    "NotStartedError",
    "PartitionsMismatchError",
    "PermanentError",
    "Projection",
    "ProjectionDefinitionError",
    "ProjectionFailedError",
    "ProjectionLagError",
    "ProjectionReplacedError",
    "Projector",
    "PublishUnknownError",
    "Query",
    "QueryBus",
    "QueryHandler",
    "Reject",
    "RemoteError",
    "Reply",
    "ReplySentError",
    "Request",
    "RequestReplyBus",
    "RequestStatistics",
    "RequestTimeoutError",
    "ResultNotKeptError",
    "Retry",
    "RetryAfter",
    "RetryableError",
    "StatementError",
    "StoppedError",
    "StoreSchemaError",
    "StoreUnavailableError",
    "StoredEvent",
    "StreamNotFoundError",
    "Subscriber",
    "SubscriptionFullError",
    "SubscriptionStatistics",
    "TopicBus",
    "TransactionError",
    "TransportRefusedError",
    "TransportUnavailableError",
    "UnknownEvent",
    "UnknownEventTypeError",
    "UnknownSchemeError",
    "UnsupportedError",
    "UsageError",
    "ValidationError",
    "WrongLoopError",
    "context",
    "current_context",
    "event",
    "handles",
    "idempotency_key",
    "log_dispatch",
    "retry_on_conflict",
    "time_dispatch",
    "upcast",
    "validate",
]

_PLACES: Final = {
    "AggregateRoot": "avx_events.patterns.aggregate",
    "AppendResult": "avx_events.store.ports",
    "BusStatistics": "avx_events.bus.statistics",
    "CausalTree": "avx_events.store.causal_tree",
    "Change": "avx_events.store.history",
    "CommandBus": "avx_events.patterns.cqrs",
    "CommandHandler": "avx_events.patterns.cqrs",
    "Connection": "avx_events.store.ports",
    "CorrelatedEvent": "avx_events.store.causal_tree",
    "DeadLetter": "avx_events.bus.dead_letters",
    "DeadLetterQueue": "avx_events.bus.dead_letters",
    "DeadLetterStore": "avx_events.bus.dead_letters",
    "Delivery": "avx_events.bus.deliveries",
    "EventBus": "avx_events.bus.event_bus",
    "EventStore": "avx_events.store.event_store",
    "HistoryEntry": "avx_events.store.history",
    "LetterFilter": "avx_events.bus.dead_letters",
    "Listener": "avx_events.bus.responders",
    "Projection": "avx_events.patterns.projection",
    "Projector": "avx_events.patterns.projection",
    "QueryBus": "avx_events.patterns.cqrs",
    "QueryHandler": "avx_events.patterns.cqrs",
    "Reply": "avx_events.bus.responders",
    "RequestReplyBus": "avx_events.bus.request_reply",
    "RequestStatistics": "avx_events.bus.request_reply",
    "StoredEvent": "avx_events.store.stored_event",
    "Subscriber": "avx_events.bus.subscriber",
    "SubscriptionStatistics": "avx_events.bus.statistics",
    "TopicBus": "avx_events.bus.topic_bus",
    "handles": "avx_events.patterns.projection",
    "idempotency_key": "avx_events.patterns.cqrs",
    "log_dispatch": "avx_events.patterns.cqrs",
    "retry_on_conflict": "avx_events.patterns.cqrs",
    "time_dispatch": "avx_events.patterns.cqrs",
    "validate": "avx_events.patterns.cqrs",
}


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found: object = getattr(import_module(place), name)
    globals()[name] = found  # the next time it is there
    return found


def __dir__() -> list[str]:
    return __all__
