"""What a broker has to give so that a bus can run on it; adapters implement ``Transport`` and ``Source``.

A namespace of a broker holds one log of events, split into lanes: everything of one key (the aggregate id) goes through
one lane, in order. A consumer is one named handler or subscriber of one group; its position in the log is kept by the
broker. Each of its lanes is held by one member (a process that runs the handler) at a time.
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from avx_events.bus.remote.redrives import RedriveRequest
from avx_events.core.arguments import seconds, text, whole
from avx_events.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    import asyncio

    from avx_events.bus.dead_letters import DeadLetterStore
    from avx_events.core.clock import Clock

Start: TypeAlias = Literal["latest", "earliest"]
STARTS: Final[tuple[Start, ...]] = ("latest", "earliest")

ContentMode: TypeAlias = Literal["structured", "binary"]
CONTENT_MODES: Final[tuple[ContentMode, ...]] = ("structured", "binary")

ENTRY_POINT_GROUP: Final = "avx_events.transports"

DEFAULT_RETENTION_S: Final = 7 * 86_400.0

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MOST_PARTITIONS: Final = 1024


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """An event on its way to the broker.

    Attributes:
        event_type: Its type.
        topic: Where it is published to; the event type where nothing else was said.
        key: What its order is kept by; empty where it has none.
        document: The event with its metadata, as a structured CloudEvents document; its data alone in binary mode.
        event_id: Its id, by which a broker may tell that it has it already.
        attributes: Its CloudEvents attributes in binary mode, which stand beside the data; None in structured mode.
    """

    event_type: str
    topic: str
    key: str
    document: bytes
    event_id: str
    attributes: Mapping[str, str] | None = None


class Lane:
    """A share of the keys of one consumer, held by this member until it is given up or lost.

    Attributes:
        number: Which, counted from 0.
        held_until: Until when, in the clock's monotonic seconds; infinite where the broker says so when it is lost.
        is_lost: Whether this member holds it no more.
    """

    __slots__ = ("held_until", "is_lost", "number")

    def __init__(self, number: int, *, held_until: float = math.inf) -> None:
        """Begin as held."""
        self.number = number
        self.held_until = held_until
        self.is_lost = False


class Incoming(msgspec.Struct, gc=False):
    """An event as it came from the broker, not yet decoded.

    Attributes:
        lane: Through which lane; None for a broadcast listener, which acknowledges nothing.
        receipt: What the adapter knows it by.
        document: What was published, in structured mode; anything at all where somebody else wrote it. What cannot be
            read becomes a dead letter with these bytes.
        event_type: Its type, where the broker's entry says so beside the document.
        topic: Its topic, likewise.
        attempts: How many attempts have begun before, as far as they were counted.
        is_redelivered: Whether it was given out before, and whoever had it did not say whether its handler has begun.
        key: What its order is kept by; None is the aggregate id.
    """

    lane: Lane | None
    receipt: Any
    document: bytes
    event_type: str | None = None
    topic: str | None = None
    attempts: int = 0
    is_redelivered: bool = False
    key: str | None = None


class Withdrawal(Protocol):
    """What an adapter calls when a lane moves to another member."""

    def lose(self, lane: Lane) -> None:
        """Forget what waits here of ``lane``, which another member may hold already; what runs, runs on."""
        ...

    async def give_up(self, lane: Lane) -> None:
        """Forget what waits here of ``lane``, and return when nothing of it runs any more."""
        ...


OnRedrive: TypeAlias = Callable[[RedriveRequest], None]
"""Told that somebody asks to have a dead letter redriven."""


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """Whose events a source gives.

    Attributes:
        name: The handler's name.
        group: The group; None for a broadcast listener, which gets everything from now on.
        start: Where a group that is new begins.
        event_classes: The classes that it wants, each with those derived from it: a source that knows them need give
            no others. None where topics say what it wants.
        on_redrive: Called for each request to redrive one of its dead letters that comes while its source is open,
            soon, and more than once where a broker likes; None where nobody is to be asked here.
    """

    name: str
    group: str | None
    start: Start
    event_classes: tuple[type, ...] | None = None
    on_redrive: OnRedrive | None = None


class Source(Protocol):
    """The events of one consumer, as far as this member gets them."""

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for events, and return up to ``most``, those of a lane in order; none where it is to be asked again.

        A broker that is away is waited for. Cancelled, it loses no event.
        """
        ...

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Tell the broker that these are done, so that nobody gets them again.

        Raises:
            TransportUnavailableError: The broker is away; call again.
        """
        ...

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Keep how many attempts have begun, for the member that gets the event after this one.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        ...

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Know it no more: whoever holds its lane next gets it, and is told where its handler has not begun here."""
        ...

    async def close(self) -> None:
        """Give back what this member holds, so that others need not wait for it."""
        ...


class Transport(Protocol):
    """A broker as one bus uses it.

    Attributes:
        name: What errors and logs call it: scheme and place, never a password.
        lanes: How many lanes its log has.
    """

    @property
    def name(self) -> str:
        """Return what errors call it."""
        ...

    @property
    def lanes(self) -> int:
        """Return how many lanes there are."""
        ...

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Send an event, in the order of the calls; the future tells when the broker has accepted it.

        It fails with ``TransportUnavailableError`` (it was not sent), ``PublishUnknownError`` (sent, not confirmed) or
        ``EventTooLargeError`` (the broker's own limit).
        """
        ...

    @property
    def is_full(self) -> bool:
        """Tell whether as much is on its way as may be; ``submit`` only where it is not, after ``room``."""
        ...

    async def room(self) -> None:
        """Wait until there is room for another event on its way; at once where there is."""
        ...

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        """Return the events of ``consumer``, which exists in the broker when this returns.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        ...

    def dead_letters(self) -> "DeadLetterStore":
        """Return the dead letters of the namespace, in the broker."""
        ...

    def requests(self) -> "RequestTransport":
        """Return the same broker for requests and replies; to close that closes this.

        Raises:
            UnsupportedError: It cannot do that.
        """
        ...

    async def close(self) -> None:
        """Send what was submitted, and leave no connection. Harmless when repeated."""
        ...


Address: TypeAlias = str
"""Where a reply goes, as the adapter writes it."""

OnFailed: TypeAlias = Callable[[Exception], None]
"""Told why a request gets no reply."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """A request as it came from the broker, not yet decoded.

    Attributes:
        document: The request with its metadata, as a structured CloudEvents document; anything at all from a stranger.
        reply_to: Where its reply goes.
        timeout_s: How many seconds its requester waits, at most.
    """

    document: bytes
    reply_to: Address
    timeout_s: float


class RequestTransport(Protocol):
    """A broker as one request-reply bus uses it. Requests and replies are not kept: who is away misses them."""

    @property
    def name(self) -> str:
        """Return what errors call it."""
        ...

    async def open(self, on_reply: Callable[[bytes], None]) -> None:
        """Have a place where replies come to, each of which is given to ``on_reply``.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        ...

    async def respond(self, event_type: str, on_question: Callable[[Question], None] | None) -> None:
        """Be one of those who are asked requests of ``event_type``, each once; None ends that.

        Raises:
            TransportUnavailableError: The broker is away.
        """
        ...

    def ask(
        self,
        event_type: str,
        document: bytes,
        *,
        event_id: str,
        timeout_s: float,
        on_failed: OnFailed,
    ) -> None:
        """Give a request to one of those who respond to its type, soon.

        Args:
            event_type: Its type.
            document: The request.
            event_id: Its id, by which the reply says what it answers.
            timeout_s: How many seconds its requester waits, at most.
            on_failed: Called where that fails: with ``NoResponderError`` or ``TransportUnavailableError``.

        Raises:
            EventTooLargeError: It is larger than what the broker takes.
        """
        ...

    def reply(self, to: Address, document: bytes) -> None:
        """Send a reply; where that fails its requester waits in vain, which ends by its deadline."""
        ...

    async def close(self) -> None:
        """Send what was replied, and leave no connection. Harmless when repeated."""
        ...


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a transport is opened; what a broker has no use for, it ignores.

    Attributes:
        namespace: The prefix of every name in the broker.
        partitions: How many lanes the log has, 1 to 1,024, where the broker has none of its own; None where no log is
            used, for requests alone.
        redeliver_after_s: How many seconds the work of a dead member waits for another.
        timeout_s: How many seconds a broker may be away before a call fails.
        retention_s: How many seconds events are kept at least, whoever has handled them; None is for ever.
        max_events: How many events are kept, about; None is no limit.
        client: Options of the client library: credentials, TLS.
    """

    namespace: str = "avx"
    partitions: int | None = 16
    redeliver_after_s: float = 30.0
    timeout_s: float = 10.0
    retention_s: float | None = DEFAULT_RETENTION_S
    max_events: int | None = None
    client: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Refuse what no transport can do.

        Raises:
            InvalidArgumentError: A value is outside its range.
        """
        if not _NAMESPACE.fullmatch(text("namespace", self.namespace)):
            expected = "1 to 100 letters, digits, '-' and '_'"
            raise InvalidArgumentError("namespace", self.namespace, expected=expected)
        if self.partitions is not None:
            whole("partitions", self.partitions, least=1, most=_MOST_PARTITIONS)
        seconds("redeliver_after_s", self.redeliver_after_s)
        seconds("timeout_s", self.timeout_s)
        if self.retention_s is not None:
            seconds("retention_s", self.retention_s)
        if self.max_events is not None:
            whole("max_events", self.max_events, least=1)


class TransportFactory(Protocol):
    """What an entry point of ``avx_events.transports`` names: opens the transport of a URL."""

    def __call__(self, url: str, options: TransportOptions, *, clock: "Clock") -> Awaitable[Transport]:
        """Return a transport that has reached its broker.

        Raises:
            TransportUnavailableError: The broker does not answer.
            InvalidArgumentError: The URL or an option is wrong.
            MissingExtraError: The client library is not installed.
        """
        ...
