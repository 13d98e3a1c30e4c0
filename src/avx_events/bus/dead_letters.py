"""Dead letters: what one handler could not process, kept with everything needed to give it back."""

import logging
from bisect import bisect_right
from collections import OrderedDict
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast, runtime_checkable

import msgspec

from avx_events.core.arguments import text, whole
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    ClosedError,
    DeadLetterNotFoundError,
    InvalidArgumentError,
    UnsupportedError,
    WrongLoopError,
)
from avx_events.core.event import current_type, types_alike
from avx_events.core.metadata import EventEnvelope
from avx_events.core.schemes import serving

log = logging.getLogger("avx_events")

Reason: TypeAlias = Literal["failed", "rejected", "stopped", "undecodable"]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that one handler could not process.

    Attributes:
        id: The letter's own id.
        handler: The handler that failed: its ``name=`` or qualified name.
        group: The group that the handler belongs to, on a connected bus; empty where there is none.
        reason: ``failed`` (attempts used up), ``rejected`` (``Reject``), ``stopped`` (the bus was closed first),
            ``undecodable`` (see ``raw``).
        envelope: The event and its metadata; None where the bytes could not be decoded.
        raw: The bytes as they came, where they could not be decoded.
        error: The last error as ``"Type: message"``.
        error_type: Its class name.
        traceback: Its traceback as text; empty where there was none.
        attempts: How often the handler ran, over all redrives; 0 if it never did.
        redrives: How often the letter was given back and failed again.
        first_failed_at: When the first attempt failed, aware UTC.
        dead_at: When it became (or again became) a dead letter, aware UTC.
    """

    id: str
    handler: str
    reason: Reason
    error: str
    error_type: str
    attempts: int
    first_failed_at: datetime
    dead_at: datetime
    envelope: EventEnvelope[Any] | None = None
    raw: bytes | None = None
    traceback: str = ""
    redrives: int = 0
    group: str = ""

    @property
    def event(self) -> Any:
        """The event; None where the bytes could not be decoded."""
        return None if self.envelope is None else self.envelope.event

    @property
    def event_type(self) -> str | None:
        """The event's type, also where only that much of ``raw`` can be read; None where not even that can.

        It is that of today, where the class of the event had another one when it was published.
        """
        if self.envelope is not None:
            return self.envelope.metadata.event_type
        found = None if self.raw is None else _type_in(self.raw)
        return None if found is None else current_type(found)


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: those that match all that is given, all letters where nothing is.

    Attributes:
        handler: Of this handler.
        event_type: With an event of this type.
        error_type: Whose last error was of this class name.
        since: Dead at this instant or later; aware.
        until: Dead at this instant or earlier; aware.
    """

    handler: str | None = None
    event_type: str | None = None
    error_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what can match nothing.

        Raises:
            InvalidArgumentError: A name is no text, or an instant has no time zone.
        """
        texts: dict[str, object] = {
            "handler": self.handler,
            "event_type": self.event_type,
            "error_type": self.error_type,
        }
        for name, value in texts.items():
            if value is not None:
                text(name, value)
        instants: dict[str, object] = {"since": self.since, "until": self.until}
        for name, instant in instants.items():
            if instant is not None and not (isinstance(instant, datetime) and instant.tzinfo is not None):
                raise InvalidArgumentError(name, instant, expected="an aware datetime, as datetime.now(UTC)")

    def matches(self, letter: DeadLetter) -> bool:
        """Tell whether ``letter`` is meant."""
        return (
            self.handler in (None, letter.handler)
            and (self.event_type is None or self.event_type == letter.event_type)
            and self.error_type in (None, letter.error_type)
            and (self.since is None or letter.dead_at >= self.since)
            and (self.until is None or letter.dead_at <= self.until)
        )


DEFAULT_LETTERS: Final = 10_000

ENTRY_POINT_GROUP: Final = "avx_events.dead_letters"
"""The group of entry points by which stores are found: the name is a URL scheme, the object a ``StoreFactory``."""

_id = attrgetter("id")
_HAVE_THE_HANDLER: Final = "call republish() of the bus that has the handler"


class DeadLetterStore(Protocol):
    """Keeps dead letters, in the order of their ids: those that a bus gives them sort by time.

    All calls are safe to repeat. ``StoreUnavailableError``, or ``TransportUnavailableError`` where they are in a
    broker, says that one may not have been done.
    """

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id, which ends a claim of this store's own."""
        ...

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        ...

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven, for as long as this process lives; False where it is, or is not there."""
        ...

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own; harmless where there is none."""
        ...

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first.

        Args:
            letter_filter: Which.
            after: Only those past this id, whether or not its letter is still there.
            limit: At most so many, 1 or more; None for all.
        """
        ...

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        ...

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, also those that are being redriven, in one step; return how many went."""
        ...

    async def count(self) -> int:
        """Return how many letters there are."""
        ...

    async def close(self) -> None:
        """Give up the claims, and what is open; harmless when repeated. No other call follows."""
        ...


@runtime_checkable
class BrokerDeadLetterStore(DeadLetterStore, Protocol):
    """Keeps dead letters in a broker, through which the members of groups can be asked to redrive them."""

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        """Have all members of the letter's group that have its handler asked, those that are there now."""
        ...


class StoreFactory(Protocol):
    """Opens a store; what an entry point of ``ENTRY_POINT_GROUP`` names."""

    async def __call__(self, url: str, *, clock: Clock) -> DeadLetterStore:
        """Open the store at ``url``.

        Args:
            url: The whole URL, with the store's own options as its query.
            clock: Says when a claim is over.

        Raises:
            InvalidArgumentError: The URL or an option is malformed.
            StoreSchemaError: There is something else at that place, or a store of a newer version.
            StoreUnavailableError: It cannot be opened now.
            TransportUnavailableError: It cannot be opened now, where it is in a broker.
            TransportRefusedError: The broker refuses.
        """
        ...


class MemoryDeadLetters:
    """Keeps up to ``capacity`` letters in this process; when it is full the oldest goes."""

    def __init__(self, capacity: int) -> None:
        """Begin empty."""
        self._letters: OrderedDict[str, DeadLetter] = OrderedDict()
        self._claimed: set[str] = set()
        self._capacity = capacity
        self.evicted = 0

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id."""
        self._claimed.discard(letter.id)
        self._letters[letter.id] = letter
        while len(self._letters) > self._capacity:
            oldest, lost = self._letters.popitem(last=False)
            self._claimed.discard(oldest)
            self.evicted += 1
            log.error(
                "dead letter queue is full (%d): lost %s of %s: %s", self._capacity, oldest, lost.handler, lost.error
            )

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        return self._letters.get(letter_id)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven."""
        if letter_id in self._claimed or letter_id not in self._letters:
            return False
        self._claimed.add(letter_id)
        return True

    async def release(self, letter_id: str) -> None:
        """Undo a claim."""
        self._claimed.discard(letter_id)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        found = [letter for letter in self._letters.values() if letter_filter.matches(letter)]
        found.sort(key=_id)
        begin = 0 if after is None else bisect_right(found, after, key=_id)
        return found[begin : None if limit is None else begin + limit]

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter."""
        self._claimed.discard(letter_id)
        return self._letters.pop(letter_id, None) is not None

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match."""
        gone = [letter.id for letter in self._letters.values() if letter_filter.matches(letter)]
        for letter_id in gone:
            del self._letters[letter_id]
        self._claimed.difference_update(gone)
        return len(gone)

    async def count(self) -> int:
        """Return how many letters there are."""
        return len(self._letters)

    async def close(self) -> None:
        """Keep the letters: there is nothing to give up."""


async def open_letters(url: str, *, clock: Clock) -> DeadLetterStore:
    """Open the letters at ``url`` with what is installed for its scheme; see ``DeadLetterQueue.connect``.

    Raises:
        AvxEventsError: As there.
    """
    open_store = cast("StoreFactory", serving(url, ENTRY_POINT_GROUP, example="sqlite:///dead_letters.db"))
    return await open_store(url, clock=clock)


class DeadLetterQueue:
    """The dead letters of one or several buses: look at them, give them back, remove them.

    ``DeadLetterQueue()`` is in memory and bounded; ``await DeadLetterQueue.connect(url)`` keeps them in a database,
    without a bound. Who makes it closes it, after the buses that use it: ``async with queue``, or ``queue.close()``.
    """

    def __init__(self, *, capacity: int = DEFAULT_LETTERS, store: DeadLetterStore | None = None) -> None:
        """Keep letters in ``store``, or up to ``capacity`` of them (1 or more) in memory.

        When the memory is full the oldest letter goes; that is counted (``evicted``) and logged as an error.

        Raises:
            InvalidArgumentError: The capacity is below 1, or it is given for a store, which has its own.
        """
        capacity = whole("capacity", capacity, least=1)
        if store is not None and capacity != DEFAULT_LETTERS:
            raise InvalidArgumentError("capacity", capacity, expected="left out where there is a store")
        self._store: DeadLetterStore = MemoryDeadLetters(capacity) if store is None else store
        self._is_closed = False

    @classmethod
    async def connect(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Open the letters at ``url``, which several processes may share.

        In SQLite, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for memory, a letter that was
        added is on disk, and in PostgreSQL, ``postgresql://user:password@host:5432/database``, it is committed; the
        file or database may be an event store's. In a broker, ``redis://localhost:6379?namespace=avx`` and so with NATS
        and Kafka, they are those of the buses of that namespace.

        Args:
            url: Where they are; the store's own options are its query.
            clock: Says when the claim of a process that died is over, where the store has no clock of its own.

        Raises:
            InvalidArgumentError: The URL is malformed.
            UnknownSchemeError: No store is installed for the URL's scheme.
            StoreSchemaError: There is something else at that place, or a store of a newer version.
            StoreUnavailableError: It cannot be opened now.
            StoreRefusedError: The database wants other credentials or TLS, is not there, or permits too little.
            TransportUnavailableError: The broker does not answer.
            TransportRefusedError: It asks for a password, or the namespace has another layout.
            MissingExtraError: The client library of the broker or database is not installed.
        """
        return cls(store=await open_letters(url, clock=clock))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Free the letters that are being redriven, and close what is open. Harmless when repeated, and in memory.

        Raises:
            WrongLoopError: It is called on another loop than the one that the queue was opened on; it stays open.
        """
        self._is_closed = True
        try:
            await self._store.close()
        except WrongLoopError:
            self._is_closed = False
            raise

    @property
    def evicted(self) -> int:
        """How many letters were lost because the memory was full."""
        return self._store.evicted if isinstance(self._store, MemoryDeadLetters) else 0

    @property
    def reaches_members(self) -> bool:
        """Whether the letters are in a broker, so that members of their groups can be asked to redrive them."""
        return isinstance(self._store, BrokerDeadLetterStore)

    async def list(
        self,
        *,
        handler: str | None = None,
        event_type: str | None = None,
        error_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        after: DeadLetter | str | None = None,
    ) -> "list[DeadLetter]":
        """Return the letters that match all the filters given, oldest first.

        Args:
            handler: Of this handler.
            event_type: With an event of this type, also where its class had another one then or has another one today.
            error_type: Whose last error was of this class name.
            since: Dead at this instant or later; aware.
            until: Dead at this instant or earlier; aware.
            limit: At most this many, 1 or more.
            after: Only those that come after this letter, given itself or its id, whether or not it is still there: the
                last one of the page before.

        Raises:
            InvalidArgumentError: A name is no text, an instant has no time zone, the limit is below 1, or ``after`` is
                no letter.
        """
        wanted = LetterFilter(handler=handler, event_type=event_type, error_type=error_type, since=since, until=until)
        if limit is not None:
            whole("limit", limit, least=1)
        store, last_id = self._open("list dead letters"), None if after is None else id_of(after)
        found: dict[str, DeadLetter] = {}
        filters = _one_for_each_name(wanted)
        for letter_filter in filters:
            found |= {letter.id: letter for letter in await store.select(letter_filter, after=last_id, limit=limit)}
        return [*found.values()] if len(filters) == 1 else sorted(found.values(), key=_id)[:limit]

    async def get(self, letter_id: str) -> DeadLetter:
        """Return one letter as it is now.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
        """
        letter = await self._open("read a dead letter").get(letter_id)
        if letter is None:
            raise DeadLetterNotFoundError(letter_id)
        return letter

    async def remove(self, letter: DeadLetter | str) -> None:
        """Forget one letter, given itself or its id.

        Raises:
            InvalidArgumentError: It is neither.
            DeadLetterNotFoundError: The queue does not hold it.
        """
        letter_id = id_of(letter)
        if not await self._open("remove a dead letter").discard(letter_id):
            raise DeadLetterNotFoundError(letter_id)

    async def purge(
        self,
        *,
        handler: str | None = None,
        event_type: str | None = None,
        error_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Forget the letters that match all the filters given, all letters without any; return how many went.

        Raises:
            InvalidArgumentError: A name is no text, or an instant has no time zone.
        """
        wanted = LetterFilter(handler=handler, event_type=event_type, error_type=error_type, since=since, until=until)
        store = self._open("remove dead letters")
        return sum([await store.purge(letter_filter) for letter_filter in _one_for_each_name(wanted)])

    async def ask_for_redrive(self, letter: DeadLetter | str) -> DeadLetter:
        """Ask the running members of a letter's group to give it back to its handler, whose code is not needed here.

        Returns once the request is with the broker, which keeps it for nobody. Of the members that have the handler one
        redrives the letter, however many hear of it and however often; it leaves the queue when the handler succeeds,
        and is updated when it fails. Where no member has the handler the letter stays as it is.

        Returns:
            The letter as it was when that was asked.

        Raises:
            InvalidArgumentError: It is no letter, or its bytes could not be decoded: there is no event to handle.
            DeadLetterNotFoundError: The queue does not hold it.
            UnsupportedError: The letters are in no broker, or the letter's handler is in no group.
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user ask.
            PublishUnknownError: Kafka did not confirm; to ask again does no harm.
        """
        store = self._open("ask for a redrive")
        if not isinstance(store, BrokerDeadLetterStore):
            problem = "it is in no broker, where running members could be asked"
            raise UnsupportedError("the dead letter queue", problem, remedy=_HAVE_THE_HANDLER)
        current = await self.get(id_of(letter))
        if not current.group:
            problem = "its handler is on a bus without a group, which nobody can ask"
            raise UnsupportedError(f"dead letter {current.id}", problem, remedy=_HAVE_THE_HANDLER)
        if current.envelope is None:
            raise InvalidArgumentError("letter", current.id, expected="one with an envelope, this one is undecodable")
        await store.ask_for_redrive(current)
        return current

    async def count(self) -> int:
        """Return how many letters there are."""
        return await self._open("count dead letters").count()

    async def add(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id. The delivery engine calls this."""
        await self._open("keep a dead letter").put(letter)

    async def claim(self, letter_id: str) -> DeadLetter | None:
        """Return the letter for its redrive, None where it is already being redriven. The bus calls this.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
        """
        is_claimed = await self._open("claim a dead letter").claim(letter_id)
        try:
            letter = await self.get(letter_id)  # now, as nobody else redrives it any more
        except BaseException:
            if is_claimed:
                await self._store.release(letter_id)
            raise
        return letter if is_claimed else None

    async def release(self, letter_id: str) -> None:
        """Let the letter be redriven again. The bus calls this."""
        await self._open("release a dead letter").release(letter_id)

    async def resolve(self, letter_id: str) -> None:
        """Forget a letter whose redrive succeeded, if it is still there. The delivery engine calls this."""
        await self._open("remove a dead letter").discard(letter_id)

    def _open(self, action: str) -> DeadLetterStore:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        return self._store


def _one_for_each_name(wanted: LetterFilter) -> list[LetterFilter]:
    """Return what to ask a store for: it knows an event by the name that its class had when the letter was written.

    The name of today is the last one: a letter that is written again while the store is asked changes to it.
    """
    if wanted.event_type is None:
        return [wanted]
    return [msgspec.structs.replace(wanted, event_type=name) for name in reversed(types_alike(wanted.event_type))]


def id_of(letter: object) -> str:
    """Return the id of a letter, given itself or its id.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if isinstance(letter, DeadLetter):
        return letter.id
    if not isinstance(letter, str):
        raise InvalidArgumentError("letter", letter, expected="a DeadLetter or its id")
    return letter


class _Typed(msgspec.Struct):
    type: str


_read_type = msgspec.json.Decoder(_Typed).decode


def _type_in(raw: bytes) -> str | None:
    try:
        return _read_type(raw).type
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
