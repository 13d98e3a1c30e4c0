"""Middleware for both buses: logging, timing, validation, and retry where another writer was first.

The order that works: ``[log_dispatch(), time_dispatch(record), idempotency_key(store), validate(rules),
retry_on_conflict()]``. What is named first stands outside: it sees the message first and the result last. So the log
and the timing count a repeated command once, the key is looked at before anything is decided, and the retry runs
nothing but the handler again.
"""

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from avx_events.core.callables import describe
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import AvxEventsError, ConcurrencyError, InvalidArgumentError, ValidationError
from avx_events.core.event import Command, Query
from avx_events.core.metadata import EventEnvelope
from avx_events.core.policy import Retry
from avx_events.patterns.cqrs.routes import CallNext, Middleware
from avx_events.patterns.pause import pause

ClassT = TypeVar("ClassT", bound=type)

Outcome: TypeAlias = Literal["done", "failed", "cancelled"]
"""How a dispatch ended: with a result, with an exception, or cancelled by its caller."""

Rule: TypeAlias = Callable[[Any], str | None]
"""A pure function of a message: returns what is wrong with it, or None; it may raise ``ValidationError`` itself."""

Record: TypeAlias = Callable[[str, float, Outcome], object]
"""Takes a message's event type, the seconds that it took, and how it ended."""

LOGGER: Final = logging.getLogger("avx_events.cqrs")
DEFAULT_CONFLICT_RETRY: Final = Retry(attempts=5, initial_s=0.01, max_s=1.0)

_EXPECTED_RULES: Final = "a mapping of command and query classes to rules"
_EXPECTED_RULE: Final = "plain functions of the message, not async ones"


def log_dispatch(logger: logging.Logger = LOGGER, *, clock: Clock = SYSTEM_CLOCK) -> Middleware:
    """Log one line for each message when it is over: its type, its event id, how it ended and after how long.

    A result is ``INFO``; so is a cancellation by the caller. An error of our tree is an answer to the one who
    dispatched: ``WARNING`` with its text. Any other exception is ``ERROR`` with its traceback. All of them carry on.

    Args:
        logger: Where to.
        clock: Measures how long it took.
    """

    async def log_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        metadata, started_at = envelope.metadata, clock.monotonic()

        def line(level: int, ending: str, *args: object, **options: Any) -> None:
            elapsed_ms = (clock.monotonic() - started_at) * 1000
            text = f"%s %s {ending}"
            logger.log(level, text, metadata.event_type, metadata.event_id, elapsed_ms, *args, **options)

        try:
            result = await call_next(envelope)
        except asyncio.CancelledError:
            line(logging.INFO, "was cancelled after %.1f ms")
            raise
        except AvxEventsError as exc:
            line(logging.WARNING, "failed after %.1f ms: %s: %s", type(exc).__name__, exc)
            raise
        except BaseException as exc:
            line(logging.ERROR, "failed after %.1f ms: %s", type(exc).__name__, exc_info=True)
            raise
        line(logging.INFO, "is done after %.1f ms")
        return result

    return log_it


def time_dispatch(record: Record, *, clock: Clock = SYSTEM_CLOCK) -> Middleware:
    """Give ``record`` the event type, the seconds and the outcome of each message when it is over.

    Args:
        record: Called once for each message, on the loop; what it raises reaches the one who dispatched.
        clock: Measures.
    """

    async def time_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        started_at = clock.monotonic()
        outcome: Outcome = "failed"
        try:
            result = await call_next(envelope)
            outcome = "done"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            record(envelope.metadata.event_type, clock.monotonic() - started_at, outcome)
        return result

    return time_it


def validate(rules: Mapping[ClassT, Rule | Iterable[Rule]]) -> Middleware:
    """Refuse a message that breaks a rule, before its handler sees it.

    All rules of the message's class and of its bases are asked, and the ``ValidationError`` says all that is wrong, in
    the order of ``rules``, with ``"; "`` in between. A rule looks at the message alone; what must be looked up belongs
    into the handler.

    Args:
        rules: For each command or query class (a base counts for all derived from it) one rule or several.

    Raises:
        InvalidArgumentError: ``rules`` is no mapping, a class is no command or query class, or a rule is no plain
            function.
    """
    if not isinstance(cast("object", rules), Mapping):
        raise InvalidArgumentError("rules", rules, expected=_EXPECTED_RULES)
    checked = [(message_class, _rules_of(message_class, given)) for message_class, given in rules.items()]

    async def validate_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        message = envelope.event
        problems = [
            problem
            for message_class, asked in checked
            if isinstance(message, message_class)
            for rule in asked
            if (problem := _problem(rule, message)) is not None
        ]
        if problems:
            raise ValidationError("; ".join(problems))
        return await call_next(envelope)

    return validate_it


def retry_on_conflict(retry: Retry = DEFAULT_CONFLICT_RETRY, *, clock: Clock = SYSTEM_CLOCK) -> Middleware:
    """Call again after a ``ConcurrencyError``: another writer was first, so the handler must load and decide again.

    Nothing else is repeated: whether another failure may be, only the handler knows. After the last attempt the
    error reaches the one who dispatched. The pauses are drawn at random up to their bounds, so that two writers who
    met once do not meet again.

    Args:
        retry: How often and after which pauses; 5 attempts after pauses of up to 10, 20, 40 and 80 ms if not given.
        clock: Measures the pauses.
    """

    async def retry_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        attempt = 1
        while True:
            try:
                return await call_next(envelope)
            except ConcurrencyError:
                attempt += 1
                delay_s = retry.delay_before(attempt, jitter=random.random())  # noqa: S311 - spreads load
                if delay_s is None:
                    raise
            await pause(clock, delay_s)

    return retry_it


def _rules_of(message_class: object, given: Rule | Iterable[Rule]) -> tuple[Rule, ...]:
    if not inspect.isclass(message_class) or not issubclass(message_class, Command | Query):
        raise InvalidArgumentError("rules", message_class, expected=_EXPECTED_RULES)
    if not callable(given) and not isinstance(cast("object", given), Iterable):
        raise InvalidArgumentError("rules", given, expected=_EXPECTED_RULE)
    asked: tuple[Rule, ...] = (given,) if callable(given) else tuple(given)
    for rule in asked:
        if not _is_plain(rule):
            raise InvalidArgumentError("rules", rule, expected=_EXPECTED_RULE)
    return asked


def _is_plain(rule: object) -> bool:
    return callable(rule) and not inspect.iscoroutinefunction(rule)


def _problem(rule: Callable[[Any], object], message: object) -> str | None:
    try:
        problem = rule(message)
    except ValidationError as exc:
        return str(exc)
    if problem is None or isinstance(problem, str):
        return problem
    # True or False would be read as the one thing by some and as the other by others.
    raise InvalidArgumentError(describe(rule), problem, expected="a rule that returns what is wrong as text, or None")
