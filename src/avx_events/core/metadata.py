"""The envelope: an event with what is known about it, and the context that new messages inherit."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from itertools import repeat
from operator import countOf
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, cast

import msgspec

from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, NotAnEventError, ReplayedMessageError
from avx_events.core.event import UnknownEvent, schema_of, text_of
from avx_events.core.ids import IdBlock, new_id

EventT_co = TypeVar("EventT_co", covariant=True)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Headers(dict[str, str]):
    """Headers of a published message: a dict that refuses to be changed, since every subscriber shares it."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        message = "the headers of a published message cannot be changed; copy them with dict(headers)"
        raise TypeError(message)

    def __reduce__(self) -> tuple[type["Headers"], tuple[dict[str, str]]]:
        """Copy by the constructor: as a dict it would be copied item by item, which it refuses."""
        return Headers, (dict(self),)

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]


NO_HEADERS = Headers()


class EventMetadata(msgspec.Struct, frozen=True, gc=False):
    """What is known about a message besides its own fields.

    Attributes:
        event_id: UUIDv7 text, unique, sortable by time.
        event_type: The type's name on the wire. What was recorded or sent under a name that its class had formerly has
            the name of today here: code that looks at it would otherwise have to know both, for as long as there are
            old records.
        aggregate_id: What the message is about and what order is kept by; empty where it has no key.
        timestamp: When it was made, in Unix microseconds.
        correlation_id: The event id of the first message of the chain; the first is its own.
        causation_id: The event id of the message whose handling made this one; None for the first.
        user_id: On whose behalf, if known.
        headers: Text by name, as given to ``publish``; not to be changed.
    """

    event_id: str
    event_type: str
    aggregate_id: str
    timestamp: int
    correlation_id: str
    causation_id: str | None = None
    user_id: str | None = None
    headers: Mapping[str, str] = NO_HEADERS

    @property
    def time(self) -> datetime:
        """``timestamp`` as an aware UTC datetime."""
        return EPOCH + self.timestamp * _MICROSECOND


class EventEnvelope(msgspec.Struct, Generic[EventT_co], frozen=True, gc=False):
    """An event, its metadata, and the topic it was published to (its event type where no other was given)."""

    event: EventT_co
    metadata: EventMetadata
    topic: str


class MessageContext(msgspec.Struct, frozen=True, gc=False):
    """What the messages made here inherit. ``event_id`` becomes their causation id."""

    correlation_id: str | None = None
    event_id: str | None = None
    user_id: str | None = None


class ReplayedMessage:
    """Stands for a message of the past while it is replayed: it can be looked at, and nothing inherits from it.

    Whoever makes a message reads these three fields, as those of the message that is being handled, and is refused by
    that. So nobody has to ask on every publish and append whether there is a replay.

    Attributes:
        ids: What a message made here would inherit if it could be made.
    """

    __slots__ = ("ids",)

    def __init__(self, ids: MessageContext) -> None:
        """Stand for the message with these ``ids``."""
        self.ids = ids

    @property
    def correlation_id(self) -> str | None:
        """Nobody's.

        Raises:
            ReplayedMessageError: Always.
        """
        raise ReplayedMessageError

    event_id = user_id = correlation_id


# While a message is handled this holds its metadata, which has the three fields of a MessageContext and more.
Handled: TypeAlias = MessageContext | EventMetadata | ReplayedMessage | None
current_message: ContextVar[Handled] = ContextVar("avx_current_message", default=None)


def refuse_in_replay() -> None:
    """Raise where a message of the past is being replayed; for what makes an effect without making a message.

    Raises:
        ReplayedMessageError: One is.
    """
    if isinstance(current_message.get(), ReplayedMessage):
        raise ReplayedMessageError


@contextmanager
def context(
    *, correlation_id: str | None = None, user_id: str | None = None, causation_id: str | None = None
) -> Generator[None, None, None]:
    """Give every message made inside the block these ids; what is not given stays as it is outside.

    Args:
        correlation_id: The chain that the messages belong to, as from an HTTP header.
        user_id: On whose behalf they are made.
        causation_id: The id of what caused them.
    """
    outer = current_context()
    inner = MessageContext(
        correlation_id if correlation_id is not None else outer.correlation_id,
        causation_id if causation_id is not None else outer.event_id,
        user_id if user_id is not None else outer.user_id,
    )
    is_replayed = isinstance(current_message.get(), ReplayedMessage)
    token = current_message.set(ReplayedMessage(inner) if is_replayed else inner)
    try:
        yield
    finally:
        current_message.reset(token)


def current_context() -> MessageContext:
    """Return what a message made here would inherit; every field is None outside of any context."""
    outer = current_message.get()
    if outer is None:
        return MessageContext()
    if isinstance(outer, ReplayedMessage):
        return outer.ids
    return MessageContext(outer.correlation_id, outer.event_id, outer.user_id)


def checked_headers(headers: Mapping[str, str] | None) -> Headers:
    """Return ``headers`` as an unchangeable copy.

    Raises:
        InvalidArgumentError: It is no mapping of text to text, or a name is empty.
    """
    if not headers:
        return NO_HEADERS
    given: Any = headers
    if not isinstance(given, Mapping):
        raise InvalidArgumentError("headers", given, expected="a mapping of text to text")
    for name, value in cast("Mapping[object, object]", headers).items():
        if not (isinstance(name, str) and name and isinstance(value, str)):
            raise InvalidArgumentError("headers", {name: value}, expected="a mapping of text to text, no empty name")
    return Headers(headers)


def stamp(
    message: object,
    *,
    clock: Clock,
    headers: Mapping[str, str] | None = None,
    topic: str | None = None,
    new_id: Callable[[int], str] = new_id,
) -> EventEnvelope[Any]:
    """Put ``message`` into an envelope with new metadata that inherits the current context.

    An ``EventEnvelope`` keeps its metadata as it is; ``topic`` replaces its topic if given. ``new_id`` gives the event
    id at an instant in nanoseconds; the one of this process is safe from every thread.

    Raises:
        NotAnEventError: The message's class is no message class, or the class is given instead of an instance.
        InvalidArgumentError: The headers are no mapping of text to text, or an envelope is given headers.
        ReplayedMessageError: A message of the past is being replayed.
    """
    if isinstance(message, EventEnvelope):
        refuse_in_replay()
        return readdressed(message, headers=headers, topic=topic)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(message, type):
        raise NotAnEventError(message)
    schema = schema_of(message)
    now_ns = clock.time_ns()
    event_id = new_id(now_ns)
    outer = current_message.get()
    metadata = EventMetadata(
        event_id,
        schema.event_type,
        schema.aggregate_id(message),
        now_ns // 1000,
        event_id if outer is None or outer.correlation_id is None else outer.correlation_id,
        None if outer is None else outer.event_id,
        None if outer is None else outer.user_id,
        NO_HEADERS if headers is None else checked_headers(headers),
    )
    return EventEnvelope(message, metadata, schema.event_type if topic is None else topic)


def stamp_one(
    event: object, event_type: str, key_of: Callable[[Any], object] | None, ids: IdBlock, now_ns: int
) -> EventEnvelope[Any]:
    """Put an event into an envelope as ``stamp`` does, where its class is known and the bus has ids of its own.

    Args:
        event: The event.
        event_type: Of its class.
        key_of: Gives its aggregate id; None where it has none.
        ids: Where the event id is taken; not safe between threads.
        now_ns: The instant, in Unix nanoseconds.
    """
    event_id = ids.take(now_ns)
    key: Any = ""
    if key_of is not None:
        key = key_of(event)
        if type(key) is not str:
            key = text_of(key)
    outer = current_message.get()
    if outer is None:
        metadata = EventMetadata(event_id, event_type, key, now_ns // 1000, event_id)
    else:
        correlation_id = event_id if outer.correlation_id is None else outer.correlation_id
        metadata = EventMetadata(
            event_id, event_type, key, now_ns // 1000, correlation_id, outer.event_id, outer.user_id
        )
    return EventEnvelope(event, metadata, event_type)


def stamp_run(
    events: Sequence[Any],
    event_type: str,
    keys_of: Callable[[Sequence[Any]], list[Any]] | None,
    *,
    event_ids: Sequence[str],
    timestamp: int,
    headers: Mapping[str, str] = NO_HEADERS,
) -> tuple[list[EventMetadata], list[EventEnvelope[Any]]]:
    """Put events of one class into envelopes as ``stamp`` does each; what is the same for all is done once.

    Args:
        events: The events.
        event_type: Of all of them.
        keys_of: Gives their aggregate ids; None where they have none.
        event_ids: An id for each.
        timestamp: Of all of them, in Unix microseconds.
        headers: Of all of them; unchangeable.

    Returns:
        The metadata, and the envelopes that hold it.
    """
    keys: Sequence[Any] = [""] * len(events) if keys_of is None else keys_of(events)
    if countOf(map(type, keys), str) != len(keys):
        keys = list(map(text_of, keys))
    same_type = repeat(event_type)
    outer = current_message.get()
    if outer is None and headers is NO_HEADERS:
        stamped = list(map(EventMetadata, event_ids, same_type, keys, repeat(timestamp), event_ids))
    else:
        inherited = outer or MessageContext()
        correlation_id = inherited.correlation_id
        correlation_ids = event_ids if correlation_id is None else repeat(correlation_id)
        stamped = list(
            map(
                EventMetadata,
                event_ids,
                same_type,
                keys,
                repeat(timestamp),
                correlation_ids,
                repeat(inherited.event_id),
                repeat(inherited.user_id),
                repeat(headers),
            )
        )
    return stamped, list(map(EventEnvelope, events, stamped, same_type))


def readdressed(
    envelope: EventEnvelope[Any], *, headers: Mapping[str, str] | None, topic: str | None
) -> EventEnvelope[Any]:
    """Return an envelope that is published again, to ``topic`` if given; its metadata stays as it is.

    Raises:
        NotAnEventError: What it holds is no event.
        InvalidArgumentError: It is given headers, which its metadata already has.
    """
    event: object = envelope.event
    if isinstance(event, type):
        raise NotAnEventError(event)
    if not isinstance(event, UnknownEvent):  # what was kept of another process can be passed on
        schema_of(event)
    if headers is not None:
        raise InvalidArgumentError("headers", headers, expected="left out: an EventEnvelope has its own")
    if topic is None or topic == envelope.topic:
        return envelope
    return EventEnvelope(envelope.event, envelope.metadata, topic)
