"""Every error this package raises, in one tree cut by what the catcher can do.

``UsageError``: the calling code is wrong, fix it. ``RetryableError``: the same call may succeed later.
``PermanentError``: it never will, park it. Middleware reads the branch, never a message.
"""

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

from avx_events.core.urls import without_password

# A message names the value, not ten megabytes of it.
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 120


def _shown(value: object) -> str:
    return _brief.repr(without_password(value) if isinstance(value, str) else value)


class AvxEventsError(Exception):
    """The root of all errors of this package."""


class UsageError(AvxEventsError):
    """The calling code is wrong; the message says what to change."""


class RetryableError(AvxEventsError):
    """The same call may succeed later."""


class PermanentError(AvxEventsError):
    """The same call never succeeds; keep the input and look at it."""


# Usage, of definitions


class InvalidArgumentError(UsageError, ValueError):
    """A value is outside what the parameter accepts."""

    def __init__(self, name: str, value: object, *, expected: str) -> None:
        """Keep ``name`` and ``value``; ``expected`` completes "must be ..."."""
        super().__init__(f"{name} must be {expected}, not {_shown(value)}")
        self.name, self.value, self.expected = name, value, expected


class NotAnEventError(UsageError, TypeError):
    """A class that is neither an ``Event`` nor decorated with ``@event``, or a message of another kind than wanted."""

    def __init__(self, value: object, *, problem: str | None = None) -> None:
        """Name the class of ``value``, or ``value`` itself if it is one, and what is wrong with it."""
        name = value.__qualname__ if isinstance(value, type) else f"{type(value).__qualname__} object"
        super().__init__(f"{name} {problem or _why_no_event(value)}")
        self.value, self.problem = value, problem


def _why_no_event(value: object) -> str:
    if isinstance(value, type) and "__avx_schema__" in value.__dict__:
        return f"is a class; give an instance of it, {value.__name__}(...)"
    return "is no event; derive the class from Event or decorate it with @event('its.type')"


class EventDefinitionError(UsageError, TypeError):
    """An event class cannot be made as it is written."""

    def __init__(self, class_name: str, problem: str) -> None:
        """Name the class and what is wrong with it."""
        super().__init__(f"{class_name}: {problem}")
        self.class_name, self.problem = class_name, problem


class AggregateDefinitionError(UsageError, TypeError):
    """An aggregate class cannot be made as it is written."""

    def __init__(self, class_name: str, problem: str) -> None:
        """Name the class and what is wrong with it."""
        super().__init__(f"{class_name}: {problem}")
        self.class_name, self.problem = class_name, problem


class HandlerDefinitionError(UsageError, TypeError):
    """A handler, or a middleware around handlers, cannot be used as it is written."""

    def __init__(self, handler_name: str, problem: str) -> None:
        """Name the function or class and what is wrong with it."""
        super().__init__(f"{handler_name}: {problem}")
        self.handler_name, self.problem = handler_name, problem


class ProjectionDefinitionError(UsageError, TypeError):
    """A projection class cannot be made as it is written."""

    def __init__(self, class_name: str, problem: str) -> None:
        """Name the class and what is wrong with it."""
        super().__init__(f"{class_name}: {problem}")
        self.class_name, self.problem = class_name, problem


class ProcessDefinitionError(UsageError, TypeError):
    """A process manager class cannot be made as it is written."""

    def __init__(self, class_name: str, problem: str) -> None:
        """Name the class and what is wrong with it."""
        super().__init__(f"{class_name}: {problem}")
        self.class_name, self.problem = class_name, problem


class DuplicateEventTypeError(UsageError):
    """Two classes claim one event type, as theirs or a former one: what is stored under it could not be read back."""

    def __init__(self, event_type: str, existing: str, new: str) -> None:
        """Name the type and both classes by module and qualified name."""
        super().__init__(
            f"event type {event_type!r} belongs to {existing} and {new} claims it too; "
            f"give one of them another event_type=, or take it out of formerly="
        )
        self.event_type, self.existing, self.new = event_type, existing, new


class InvalidTopicError(UsageError, ValueError):
    """A topic or a pattern is malformed."""

    def __init__(self, topic: object, problem: str) -> None:
        """Keep the text and what is wrong with it."""
        super().__init__(f"{_brief.repr(topic)} {problem}")
        self.topic, self.problem = topic, problem


# Usage, of life cycles


class ClosedError(UsageError):
    """The bus, store or subscriber is closed."""

    def __init__(self, what: str, action: str) -> None:
        """``what`` is closed, so ``action`` cannot be done."""
        super().__init__(f"{what} is closed: cannot {action}; make a new one")
        self.what, self.action = what, action


class NotStartedError(UsageError):
    """Handlers are registered on a bus that was never started: nobody would run them."""

    def __init__(self, what: str, action: str) -> None:
        """``what`` was not started, so ``action`` cannot be done."""
        super().__init__(
            f"{what} has handlers but was not started: cannot {action}; use 'async with bus:' or bus.start()"
        )
        self.what, self.action = what, action


class DeliveryError(UsageError):
    """A delivery's block is entered a second time."""

    def __init__(self, subscriber: str, event_id: str) -> None:
        """Name the subscriber and the event."""
        super().__init__(f"the delivery of {event_id} to {subscriber!r} was used already; take the next one")
        self.subscriber, self.event_id = subscriber, event_id


class ReplySentError(UsageError):
    """A request is answered a second time."""

    def __init__(self) -> None:
        """Say so; the requester has the first reply."""
        super().__init__("this request was answered already; reply.send() or reply.fail() once for each")


class HandlerWaitError(UsageError):
    """A handler waits for something that waits for the handler."""

    def __init__(self, what: str, action: str) -> None:
        """``what`` cannot do ``action`` inside of one of its handlers."""
        super().__init__(f"{what} cannot {action} inside of its own handler, which it would wait for; do it elsewhere")
        self.what, self.action = what, action


class NotRunningError(UsageError):
    """Something that runs only inside of its ``async with`` block is used outside of it."""

    def __init__(self, what: str, action: str) -> None:
        """``what`` does not run, so ``action`` cannot be done."""
        super().__init__(f"{what} is not running: cannot {action}; use it inside of one 'async with' block")
        self.what, self.action = what, action


class ProjectionReplacedError(UsageError):
    """The database has a newer version of a projection, so that this one applies nothing any more."""

    def __init__(self, projection: str, *, version: int) -> None:
        """Name the projection and the version that was replaced."""
        super().__init__(f"projection {projection!r} version {version} was replaced by another one; run the newer code")
        self.projection, self.version = projection, version


class ReplayedMessageError(UsageError):
    """Code that was given a message of the past would publish, append or dispatch, which is done already."""

    def __init__(self) -> None:
        """Say so; what it would have done was not done."""
        super().__init__(
            "a message of the past is being replayed: nothing is published, appended, dispatched or requested because "
            "of it a second time; leave that out where is_replaying(), or replay with allow_side_effects=True"
        )


class WrongLoopError(UsageError):
    """A call from a thread or an event loop that the object does not belong to."""

    def __init__(self, what: str, action: str) -> None:
        """``what`` belongs to another loop, so ``action`` cannot be done from here."""
        remedy = "; from other threads there is publish_threadsafe()" if action.startswith("publish") else ""
        super().__init__(
            f"{what} belongs to another event loop: cannot {action} from here; make one for each loop{remedy}"
        )
        self.what, self.action = what, action


class NoHandlerError(UsageError):
    """Nothing is registered for this command, query or dead letter."""

    def __init__(self, wanted: str, *, known: Iterable[str] = ()) -> None:
        """``wanted`` has no handler; ``known`` are those that have."""
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"no handler for {wanted}; registered: {names}")
        self.wanted = wanted


class DuplicateHandlerError(UsageError):
    """A second handler where exactly one is allowed."""

    def __init__(self, wanted: str, *, existing: str, new: str) -> None:
        """``existing`` already handles ``wanted``; ``new`` cannot."""
        super().__init__(f"{wanted} belongs to {existing} already; {new} cannot have it too")
        self.wanted, self.existing, self.new = wanted, existing, new


class NoDeadLetterQueueError(UsageError):
    """Dead letters are asked for of a bus that logs them."""

    def __init__(self, what: str) -> None:
        """Name the bus."""
        super().__init__(
            f"{what} has no dead letter queue, it logs dead letters; give it dead_letter_queue= when it is made"
        )
        self.what = what


class MissingExtraError(UsageError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        """``feature`` needs the packages of ``extra``."""
        super().__init__(f"{feature} needs the {extra} extra: pip install 'avx-events[{extra}]'")
        self.feature, self.extra = feature, extra


class UnknownSchemeError(UsageError, ValueError):
    """No engine is installed for the scheme of a URL."""

    def __init__(self, url: str, *, installed: Iterable[str], extra: str | None = None) -> None:
        """Name the URL, the schemes that have an engine, and the extra that brings the missing one, if there is one."""
        schemes = sorted(installed)
        names = ", ".join(f"{scheme}://" for scheme in schemes) or "none"
        remedy = f"; pip install 'avx-events[{extra}]'" if extra else ""
        super().__init__(f"no engine for {_shown(url)} is installed; those that are: {names}{remedy}")
        self.url, self.installed, self.extra = url, schemes, extra


class UnsupportedError(UsageError):
    """Something that this engine cannot do, said where it is asked for and not found out in production."""

    def __init__(self, what: str, problem: str, *, remedy: str) -> None:
        """``what`` cannot do it because of ``problem``; ``remedy`` says what to do instead."""
        super().__init__(f"{what}: {problem}; {remedy}")
        self.what, self.problem, self.remedy = what, problem, remedy


class PartitionsMismatchError(UsageError):
    """Members of one namespace must agree on how many lanes its log has, or the order by key would be lost."""

    def __init__(self, broker: str, namespace: str, *, here: int, there: int) -> None:
        """``here`` is what was given, ``there`` what the namespace was made with."""
        super().__init__(
            f"namespace {namespace!r} on {broker} has {there} partitions, not {here}; "
            f"connect with partitions={there}, or use another namespace"
        )
        self.broker, self.namespace, self.here, self.there = broker, namespace, here, there


class LanesMismatchError(UsageError):
    """Members of one group must agree on how many lanes a handler has, or the order by key would be lost."""

    def __init__(self, group: str, handler: str, *, here: int, there: int) -> None:
        """``here`` is what was given, ``there`` what the handler began with."""
        super().__init__(
            f"handler {handler!r} of group {group!r} has {there} lanes, not {here}; "
            f"connect with lanes={there}, or begin anew with another name or group"
        )
        self.group, self.handler, self.here, self.there = group, handler, here, there


class TransactionError(UsageError):
    """A transaction on the store's database is used where it cannot be."""

    def __init__(self, problem: str) -> None:
        """``problem`` says what cannot be done, and what to do instead."""
        super().__init__(problem)
        self.problem = problem


# Retryable


class SubscriptionFullError(RetryableError):
    """A subscription that refuses, or a publisher that cannot wait, met a full queue. Nobody got the event."""

    def __init__(self, subscription: str, capacity: int) -> None:
        """Name the subscription and how many events it holds at most."""
        super().__init__(
            f"subscription {subscription!r} is full, its capacity is {capacity}; "
            f"read faster, give it more capacity=, or let publishers wait: await publish() and overflow='wait'"
        )
        self.subscription, self.capacity = subscription, capacity


class HandlerTimeoutError(RetryableError, TimeoutError):
    """One attempt of a handler took longer than its ``timeout_s``."""

    def __init__(self, handler: str, timeout_s: float) -> None:
        """Name the handler and its limit in seconds."""
        super().__init__(f"{handler} did not finish within {timeout_s:g} s")
        self.handler, self.timeout_s = handler, timeout_s


class StoppedError(RetryableError):
    """The bus was closed before the handler was done with the event; it can be redriven."""

    def __init__(self, handler: str) -> None:
        """Name the handler."""
        super().__init__(f"the bus was closed before {handler} was done; try again on one that runs")
        self.handler = handler


class RequestTimeoutError(RetryableError, TimeoutError):
    """No reply within the deadline; the responder may still do its work."""

    def __init__(self, request: str, timeout_s: float) -> None:
        """Name the request type and the deadline in seconds."""
        super().__init__(f"no reply to {request} within {timeout_s:g} s; raise timeout_s= or look at the responder")
        self.request, self.timeout_s = request, timeout_s


class NoResponderError(RetryableError):
    """Nobody answers requests of this type."""

    def __init__(self, request: str) -> None:
        """Name the request type."""
        super().__init__(f"nobody responds to {request}; register one with @bus.respond or bus.listen()")
        self.request = request


class ProjectionLagError(RetryableError, TimeoutError):
    """A projection did not come as far as wanted within the time."""

    def __init__(self, projection: str, wanted: int, *, reached: int, timeout_s: float) -> None:
        """Name the projection, the position that was waited for, the one it is at, and the limit in seconds."""
        super().__init__(
            f"projection {projection!r} is at position {reached}, not yet at {wanted} after {timeout_s:g} s; "
            f"wait again, or look at what its handlers do"
        )
        self.projection, self.wanted, self.reached, self.timeout_s = projection, wanted, reached, timeout_s


class RelayLagError(RetryableError, TimeoutError):
    """A relay did not publish what was there within the time."""

    def __init__(self, relay: str, *, timeout_s: float) -> None:
        """Name the relay and the limit in seconds."""
        super().__init__(
            f"{relay} has not published everything after {timeout_s:g} s; wait again, or look at its log and its bus"
        )
        self.relay, self.timeout_s = relay, timeout_s


class ProcessLagError(RetryableError, TimeoutError):
    """A process manager has not done in time what there was to do."""

    def __init__(self, manager: str, *, timeout_s: float, problem: str) -> None:
        """Name the manager, the time it had, and what is left."""
        super().__init__(f"process manager {manager!r} was not done within {timeout_s:g} s: {problem}")
        self.manager, self.timeout_s, self.problem = manager, timeout_s, problem


class ConcurrencyError(RetryableError):
    """Another writer appended first. Reload the stream, decide again, append again."""

    def __init__(self, stream: str, *, expected: int, actual: int) -> None:
        """Keep the stream's name, the version the caller expected and the one it has."""
        super().__init__(f"{stream!r} is at version {actual}, not {expected}; reload and decide again")
        self.stream, self.expected, self.actual = stream, expected, actual


class TransportUnavailableError(RetryableError):
    """A broker cannot be reached, or does not answer. What was to be sent was not sent."""

    def __init__(self, broker: str, problem: str) -> None:
        """Name the broker and what went wrong."""
        super().__init__(f"{broker} is not available: {problem}; nothing was sent, try again later")
        self.broker, self.problem = broker, problem


class PublishUnknownError(RetryableError):
    """An event was sent, and the broker did not confirm it: it may be there or not.

    To publish its ``envelope`` again is safe where the broker or an inbox drops duplicates.

    Attributes:
        envelope: The event as it was sent, with its metadata; None as long as nobody has said.
    """

    envelope: object = None

    def __init__(self, broker: str, event_type: str, problem: str) -> None:
        """Name the broker, the event's type and what went wrong."""
        super().__init__(
            f"{broker} did not confirm {event_type!r}: {problem}; it may have been accepted, "
            f"publish the error's envelope again where duplicates are dropped"
        )
        self.broker, self.event_type, self.problem = broker, event_type, problem


class StoreUnavailableError(RetryableError):
    """The store did not accept the call: its disk is full, its file locked, its server away."""

    def __init__(self, url: str, problem: str) -> None:
        """Name the store and what it answered."""
        super().__init__(f"{url} is not available: {problem}; nothing was written, try again later")
        self.url, self.problem = url, problem


class AppendUnknownError(RetryableError):
    """An append was sent, and the store's server did not confirm it: the events may be there or not.

    To append its ``envelopes`` to the stream again is safe: those that are there change nothing.

    Attributes:
        stream: Where they were to go.
        envelopes: The events as they were sent, with their metadata; none as long as nobody has said.
    """

    stream: str = ""
    envelopes: Sequence[Any] = ()

    def __init__(self, url: str, problem: str) -> None:
        """Name the store and what went wrong."""
        super().__init__(
            f"{url} did not confirm an append: {problem}; it may have been written, append the error's envelopes again"
        )
        self.url, self.problem = url, problem


class CommitUnknownError(RetryableError):
    """A transaction was to be committed, and the store's server did not confirm it: all of it is there, or nothing."""

    def __init__(self, url: str, problem: str) -> None:
        """Name the store and what went wrong."""
        super().__init__(
            f"{url} did not confirm a commit: {problem}; all of the transaction was written or nothing, look before "
            "it is repeated"
        )
        self.url, self.problem = url, problem


# Permanent


class ValidationError(PermanentError):
    """A command, query or request is not acceptable as it is; the text says why to the person who sent it."""


class IdempotencyKeyReusedError(PermanentError):
    """An idempotency key stands for one command with one set of values, and came with others."""

    def __init__(self, event_type: str, key: str) -> None:
        """Name the command's type and the key."""
        super().__init__(
            f"idempotency key {_brief.repr(key)} was used for another {event_type!r}; "
            f"give each new command a key of its own, and repeat one only as it was"
        )
        self.event_type, self.key = event_type, key


class ResultNotKeptError(PermanentError):
    """A command was carried out, and its result could not be kept or read back: look before repeating."""

    def __init__(self, event_type: str, key: str, problem: str, *, result: object = None) -> None:
        """Name the command's type, the key and what went wrong; keep the ``result`` where it is known."""
        super().__init__(
            f"{event_type!r} was carried out, but its result could not be kept or read back under idempotency key "
            f"{_brief.repr(key)}: {problem}; do not repeat it without looking at what it did"
        )
        self.event_type, self.key, self.problem, self.result = event_type, key, problem, result


class EncodeError(PermanentError):
    """A payload cannot be written so that it reads back as it is."""

    def __init__(self, event_type: str, problem: str) -> None:
        """Name the event type and what cannot be written."""
        super().__init__(f"{event_type!r} cannot be encoded: {problem}")
        self.event_type, self.problem = event_type, problem


class DecodeError(PermanentError):
    """Bytes do not fit the type they claim to be."""

    def __init__(self, event_type: str, problem: str) -> None:
        """Name the event type as far as it is known, and what does not fit."""
        super().__init__(f"{event_type!r} cannot be decoded: {problem}")
        self.event_type, self.problem = event_type, problem


class EventTooLargeError(PermanentError):
    """An event is larger on the wire than the limit."""

    def __init__(self, event_type: str, *, size_bytes: int, max_bytes: int) -> None:
        """Name the event type, its size and the limit, both in bytes."""
        super().__init__(
            f"{event_type!r} takes {size_bytes:,} bytes, more than max_event_bytes={max_bytes:,}; "
            f"store the body elsewhere and publish a reference"
        )
        self.event_type, self.size_bytes, self.max_bytes = event_type, size_bytes, max_bytes


class UnknownEventTypeError(PermanentError):
    """No class of this process has the event type that was read."""

    def __init__(self, event_type: str) -> None:
        """Name the type."""
        super().__init__(
            f"no class for event type {event_type!r}; import the module that defines it, or read with unknown='keep'"
        )
        self.event_type = event_type


class ProjectionFailedError(PermanentError):
    """A projection stopped at an event that it cannot handle; ``__cause__`` is what its handler raised."""

    def __init__(self, projection: str, *, problem: str) -> None:
        """Name the projection, and where it stopped and why."""
        super().__init__(f"projection {projection!r} stopped {problem}; mend it and start its projector again")
        self.projection, self.problem = projection, problem


class RelayFailedError(PermanentError):
    """A relay stopped at an event that it cannot publish; ``__cause__`` is what the bus raised."""

    def __init__(self, relay: str, *, problem: str) -> None:
        """Name the relay, and where it stopped and why."""
        super().__init__(f"{relay} stopped {problem}; mend it and start the relay again")
        self.relay, self.problem = relay, problem


class ProcessFailedError(PermanentError):
    """A process manager has stopped at an event."""

    def __init__(self, manager: str, *, problem: str) -> None:
        """Name the manager, and what it stopped of."""
        super().__init__(f"process manager {manager!r} has stopped: {problem}")
        self.manager, self.problem = manager, problem


class TransportRefusedError(PermanentError):
    """A broker answers, and refuses: a password, a permission or TLS is missing, or something is not as it was."""

    def __init__(self, broker: str, problem: str, *, remedy: str) -> None:
        """Name the broker, what it said, and what to do."""
        super().__init__(f"{broker} refuses: {problem}; {remedy}")
        self.broker, self.problem, self.remedy = broker, problem, remedy


class StoreRefusedError(PermanentError):
    """A store's server answers, and refuses: a password, a permission or TLS is missing, or there is no such place."""

    def __init__(self, url: str, problem: str, *, remedy: str) -> None:
        """Name the store, what its server said, and what to do."""
        super().__init__(f"{url} refuses: {problem}; {remedy}")
        self.url, self.problem, self.remedy = url, problem, remedy


class HandlerKilledError(PermanentError):
    """An event whose handling ended its process, or left it without an answer, as often as it may be tried."""

    def __init__(self, handler: str, attempts: int) -> None:
        """Name the handler and how often it began."""
        super().__init__(
            f"{handler} began {attempts} times with this event and never ended: its process was killed or stood still; "
            f"look at what it does with the event before it is redriven"
        )
        self.handler, self.attempts = handler, attempts


class RemoteError(PermanentError):
    """The responder raised."""

    def __init__(self, error_type: str, message: str) -> None:
        """Keep the class name and the text of what the responder raised."""
        super().__init__(f"{error_type}: {message}")
        self.error_type, self.message = error_type, message


class DeadLetterNotFoundError(PermanentError):
    """The queue does not hold this letter: it was redriven, removed or evicted."""

    def __init__(self, letter_id: str) -> None:
        """Name the letter."""
        super().__init__(f"no dead letter {letter_id}; it was redriven, removed or evicted, list() shows what is there")
        self.letter_id = letter_id


class DuplicateEventIdError(PermanentError):
    """An event id stands for one event in the whole store, and another stream has it."""

    def __init__(self, event_id: str, *, stream: str, existing: str) -> None:
        """``existing`` has the event already, so that ``stream`` cannot get it too."""
        super().__init__(
            f"event id {event_id!r} is in stream {existing!r} already; "
            f"append the event without its envelope to give {stream!r} a new one"
        )
        self.event_id, self.stream, self.existing = event_id, stream, existing


class StatementError(PermanentError):
    """The store's database refused a statement."""

    def __init__(self, sql: str, problem: str) -> None:
        """Keep the statement and what the database answered."""
        super().__init__(f"{problem}: {_brief.repr(sql)}")
        self.sql, self.problem = sql, problem


class LaterStatementError(StatementError):
    """The store's database refused a statement that was put off; the transaction cannot be committed without it."""

    def __init__(self, sql: str, problem: str, count: int) -> None:
        """One of ``count`` statements with this text that were sent together."""
        which = "a statement" if count == 1 else f"one of {count} statements"
        super().__init__(sql, f"{which} of execute_later(), sent only now, was refused: {problem}")
        self.count = count


class EngineFailedError(PermanentError):
    """The delivery engine of a bus ended by an error that is no handler's: the bus delivers nothing any more."""

    def __init__(self, what: str, cause: str) -> None:
        """``what`` failed because of ``cause``."""
        super().__init__(f"{what} has failed and delivers nothing any more: {cause}; close it, and see the log")
        self.what, self.cause = what, cause


class StreamNotFoundError(PermanentError):
    """The stream has no events (at the version or instant asked for)."""

    def __init__(self, stream: str) -> None:
        """Name the stream."""
        super().__init__(f"stream {stream!r} has no events there; load_or_new() starts one")
        self.stream = stream


class StoreSchemaError(PermanentError):
    """A file or database is not one that this version can open."""

    def __init__(self, url: str, problem: str) -> None:
        """Name the store and what does not fit."""
        super().__init__(f"{url} cannot be opened: {problem}")
        self.url, self.problem = url, problem
