"""Commands and queries: one handler each, typed results, middleware around them."""

from avx_events.patterns.cqrs.buses import CommandBus, QueryBus
from avx_events.patterns.cqrs.handlers import CommandHandler, QueryHandler
from avx_events.patterns.cqrs.idempotency import idempotency_key
from avx_events.patterns.cqrs.middleware import (
    Outcome,
    Rule,
    log_dispatch,
    retry_on_conflict,
    time_dispatch,
    validate,
)
from avx_events.patterns.cqrs.routes import CallNext, Middleware

__all__ = [
    "CallNext",
    "CommandBus",
    "CommandHandler",
    "Middleware",
    "Outcome",
    "QueryBus",
    "QueryHandler",
    "Rule",
    "idempotency_key",
    "log_dispatch",
    "retry_on_conflict",
    "time_dispatch",
    "validate",
]
