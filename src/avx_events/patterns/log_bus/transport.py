"""The log of a store as the transport of a bus: it gives what was appended, and takes nothing."""

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from avx_events.bus.dead_letters import DEFAULT_LETTERS, DeadLetterStore, MemoryDeadLetters, open_letters
from avx_events.bus.remote.ports import Consumer, Outgoing, RequestTransport, Source, Start, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, UnsupportedError
from avx_events.patterns.log_bus.rows import Rows, make_tables
from avx_events.patterns.log_bus.source import LogSource
from avx_events.store.event_store import EventStore

if TYPE_CHECKING:
    import asyncio


_of_stores_in_memory: Final[WeakKeyDictionary[EventStore, DeadLetterStore]] = WeakKeyDictionary()
"""The letters of all buses on a store whose database nobody else can open: they live as long as it."""


class LogTransport:
    """One bus on the log of one store, which is somebody else's to close."""

    def __init__(
        self, store: EventStore, *, group: str, start: Start | int, lanes: int, lease_s: float, clock: Clock
    ) -> None:
        """Give events of ``store``.

        Args:
            store: Whose log.
            group: The group of all its consumers.
            start: Where a handler begins that is new to the group; a number is the position that it begins after.
            lanes: How many lanes each has.
            lease_s: How long a lane is held after the last sign of life.
            clock: Time.
        """
        self.name: str = f"the log of the event store, as group {group!r}"
        self.lanes: int = lanes
        self.is_full: bool = False
        self._store: Final = store
        self._group: Final = group
        self._start: Final = start
        self._lease_s: Final = lease_s
        self._clock: Final = clock
        self._letters: DeadLetterStore | None = None

    async def open(self, *, with_letters: bool = True) -> None:
        """Have the tables in the store's database, and open the dead letters in it.

        Args:
            with_letters: Whether the dead letters are there too.

        Raises:
            TransactionError: The store is in memory, without a database.
            InvalidArgumentError: The store was given an engine: nobody knows where its database is.
            UnknownSchemeError: No dead letters are installed for its scheme.
            AvxEventsError: As ``EventStore.transaction`` and ``DeadLetterQueue.connect``.
        """
        async with self._store.transaction() as connection:
            await make_tables(connection)
        if with_letters:
            self._letters = await self._opened_letters()

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Refuse to publish; see ``Transport``.

        Raises:
            UnsupportedError: Always.
        """
        problem = f"it publishes nothing, and {outgoing.event_type!r} was to be published"
        raise UnsupportedError(self.name, problem, remedy="append it to the store: await store.append()")

    async def room(self) -> None:
        """Return at once: there is nothing to wait for."""

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        """Return the events of ``consumer``; see ``Transport``.

        Raises:
            LanesMismatchError: It has another number of lanes.
            AvxEventsError: As ``EventStore.transaction``.
        """
        rows = Rows(self._store, group=self._group, handler=consumer.name, lanes=self.lanes, clock=self._clock)
        await rows.begin(await self._first())
        source = LogSource(
            self._store._engine,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # records, and not events
            rows,
            consumer,
            lanes=self.lanes,
            lease_s=self._lease_s,
            clock=self._clock,
            withdrawal=withdrawal,
        )
        try:
            await source.begin()
        except BaseException:
            await source.close()
            raise
        return source

    def dead_letters(self) -> DeadLetterStore:
        """Return the dead letters in the store's database.

        Raises:
            UnsupportedError: They were not opened.
        """
        if self._letters is None:
            raise UnsupportedError(self.name, "its dead letters are elsewhere", remedy="use bus.dead_letter_queue")
        return self._letters

    def requests(self) -> RequestTransport:
        """Refuse: a log carries no requests.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(self.name, "it carries no requests", remedy="use RequestReplyBus")

    async def close(self) -> None:
        """Give up what is claimed; the store stays open for whoever opened it."""
        if self._letters is not None:
            await self._letters.close()

    async def _opened_letters(self) -> DeadLetterStore:
        store = self._store
        if store.url is None:
            expected = "given where the store was not opened with EventStore.connect(url)"
            raise InvalidArgumentError("dead_letter_queue", None, expected=expected)
        if _is_in_memory(store.url):
            return _of_stores_in_memory.setdefault(store, MemoryDeadLetters(DEFAULT_LETTERS))
        return await open_letters(store.url, clock=self._clock)

    async def _first(self) -> int:
        """Return the position that a new consumer begins after."""
        if self._start == "latest":
            return await self._store.last_position()
        return 0 if self._start == "earliest" else self._start


def _is_in_memory(url: str) -> bool:
    """Tell whether there is nothing behind the scheme, as in ``sqlite://``."""
    return not url.partition("://")[2].partition("?")[0]
