"""The inbox: an event that comes again has its effect once, since the effect and its id are committed together."""

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

from avx_events.core.arguments import optional, seconds, text
from avx_events.core.callables import describe, is_async, required_positional
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import HandlerDefinitionError, TransactionError
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.outbox.connections import writer_now_on, writer_on
from avx_events.patterns.outbox.tables import ALONE, INBOX
from avx_events.patterns.tables import prepare
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection, Dialect

EventT = TypeVar("EventT")
Handler: TypeAlias = Callable[[EventT, EventEnvelope[EventT]], Awaitable[None]]
"""What a bus calls."""

DEFAULT_KEEP_S: Final = 14 * 86_400.0
"""Twice as long as a broker keeps an event unless told otherwise: as long as one may come again, its id is known."""

_ADD: Final = (
    "INSERT INTO avx_inbox (name, event_id, handled_us) VALUES (?, ?, ?) ON CONFLICT (name, event_id) DO NOTHING"
)
# What another transaction deletes now is its business: to wait for it would make handlers wait for each other.
_PRUNE: Final[dict[Dialect, str]] = {
    "sqlite": (
        "DELETE FROM avx_inbox WHERE rowid IN"
        " (SELECT rowid FROM avx_inbox WHERE name = ? AND handled_us < ? ORDER BY handled_us LIMIT 200)"
    ),
    "postgresql": (
        "DELETE FROM avx_inbox WHERE ctid IN"
        " (SELECT ctid FROM avx_inbox WHERE name = ? AND handled_us < ?"
        " ORDER BY handled_us LIMIT 200 FOR UPDATE SKIP LOCKED)"
    ),
}
# Of events that are new: twenty times as many entries may go then, so that they go faster than they come.
_PRUNE_EVERY: Final = 10
_EVENT_AND_CONNECTION: Final = 2
_AND_ENVELOPE: Final = 3


class Inbox:
    """Remembers in the table ``avx_inbox`` which events were handled, in the transaction of what handling them changed.

    ``async with inbox.once(envelope.metadata.event_id) as connection`` gives a transaction of the store the first time,
    and None once a delivery of that event was committed. Of two deliveries at once one waits for the other: it gives
    None if that is committed, and a transaction of its own if that is undone.

    What a handler does besides, a mail or a call, is not undone with the transaction: it happens at least once.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        *,
        name: str,
        keep_s: float = DEFAULT_KEEP_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Remember events for one handler.

        Args:
            store: Whose database has the table and the handler's own; None where ``first_time`` is given connections.
            name: Of the handler, or of several that share their effect: an event counts once for each name.
            keep_s: How many seconds an id is remembered at least. Longer than a broker keeps an event, 7 days unless
                ``retention_s`` says otherwise, and than a dead letter waits for its redrive.
            clock: Says when an id was remembered.

        Raises:
            InvalidArgumentError: The name is empty, the store is none, or the time is no number of seconds above 0.
        """
        optional("store", store, EventStore)
        self._store: Final = store
        self._name: Final = text("name", name)
        self._keep_us: Final = int(seconds("keep_s", keep_s) * 1_000_000)
        self._clock: Final = clock
        self._is_prepared = False
        self._until_prune = _PRUNE_EVERY

    @property
    def name(self) -> str:
        """Whose events it remembers."""
        return self._name

    async def prepare(self, place: object) -> None:
        """Make the table where it is not there; ``inbox_ddl`` shows its SQL. ``once`` does it by itself.

        Args:
            place: An ``EventStore``, or any connection that ``first_time`` takes, inside of a transaction that is
                yours to commit.

        Raises:
            InvalidArgumentError: It is neither.
            TransactionError: The connection is in no transaction, or the store is in memory without a database.
            StoreUnavailableError: The store cannot be written now.
            StoreSchemaError: The database has such a table of a newer version.
            Exception: What the client library of the connection raises.
        """
        if isinstance(place, EventStore):
            async with place.transaction() as connection:
                await _prepare(connection)
            return
        writer = writer_on(place)
        for statement in (*ALONE[writer.dialect], *INBOX):
            await writer.execute(statement)

    @asynccontextmanager
    async def once(self, event_id: str) -> AsyncGenerator[Connection | None, None]:
        """Give a transaction of the store if the event was not handled yet, and None if it was.

        The transaction is committed with the id when the block ends, and undone when it raises: the next delivery is
        a first one again.

        Args:
            event_id: The event's id, ``envelope.metadata.event_id``.

        Raises:
            InvalidArgumentError: The id is empty.
            TransactionError: The inbox was given no store, or the caller has a transaction of it open, whose connection
                ``first_time`` takes.
            StoreUnavailableError: On entering or leaving: nothing was written.
            StoreSchemaError: The database has such a table of a newer version, or is damaged.
            ClosedError: The store is closed.
            WrongLoopError: The store belongs to another loop.
        """
        text("event_id", event_id)
        if self._store is None:
            problem = f"inbox {self._name!r} has no store to begin a transaction on; give it one, or use first_time()"
            raise TransactionError(problem)
        async with self._store.transaction() as connection:
            if not self._is_prepared:
                await _prepare(connection)
            if await self.first_time(event_id, connection):
                yield connection
                is_first = True
            else:
                is_first = False
        self._is_prepared = True
        if not is_first:  # outside of the transaction, which held others up
            yield None

    def handler(self, function: Callable[..., Awaitable[None]]) -> Handler[Any]:
        """Decorate a handler, below ``@bus.on(...)``, so that its effect happens once for each event.

        It takes the event and the connection, and the envelope if it has a third parameter, and is passed over for
        events that were handled.

        Raises:
            HandlerDefinitionError: It is not ``async def``, or cannot be called with these.
        """
        takes_envelope = _takes_envelope(function)

        async def handle_once(event: Any, envelope: EventEnvelope[Any]) -> None:
            async with self.once(envelope.metadata.event_id) as connection:
                if connection is not None:
                    await function(event, connection, *((envelope,) if takes_envelope else ()))

        # Without __wrapped__: a bus would count the parameters of the function inside.
        functools.update_wrapper(handle_once, function)
        del handle_once.__wrapped__  # type: ignore[attr-defined]
        handle_once.__annotations__ = {}
        return handle_once

    async def first_time(self, event_id: str, connection: object) -> bool:
        """Remember an event in the transaction that ``connection`` is in; False where it was handled before.

        Where another transaction has just remembered it, this waits for the end of that one.

        Args:
            event_id: The event's id.
            connection: The one of ``store.transaction()``, or a connection of asyncpg, aiosqlite or sqlite3.

        Raises:
            InvalidArgumentError: The id is empty, or the connection none that is known.
            TransactionError: The connection is in no transaction.
            StatementError: The store's database refused it, as where the table is not there.
            Exception: What the client library of the connection raises.
        """
        text("event_id", event_id)
        writer = writer_on(connection)
        now_us = self._clock.time_ns() // 1000
        is_first = await writer.execute(_ADD, self._name, event_id, now_us) == 1
        if is_first and self._is_time_to_prune():
            await writer.execute(_PRUNE[writer.dialect], self._name, now_us - self._keep_us)
        return is_first

    def first_time_nowait(self, event_id: str, connection: object) -> bool:
        """Do as ``first_time`` on a connection of sqlite3, from code that is not async, in any thread.

        Args:
            event_id: The event's id.
            connection: A connection of sqlite3.

        Raises:
            InvalidArgumentError: The id is empty, or the connection is another one.
            TransactionError: The connection commits each statement by itself, and is in no transaction.
            Exception: What sqlite3 raises.
        """
        text("event_id", event_id)
        writer = writer_now_on(connection)
        now_us = self._clock.time_ns() // 1000
        is_first = writer.execute_now(_ADD, self._name, event_id, now_us) == 1
        if is_first and self._is_time_to_prune():
            writer.execute_now(_PRUNE[writer.dialect], self._name, now_us - self._keep_us)
        return is_first

    def _is_time_to_prune(self) -> bool:
        self._until_prune -= 1
        if self._until_prune > 0:
            return False
        self._until_prune = _PRUNE_EVERY
        return True


async def _prepare(connection: Connection) -> None:
    await prepare(connection, "inbox", [INBOX])


def _takes_envelope(function: Callable[..., object]) -> bool:
    name = describe(function)
    if not is_async(function):
        raise HandlerDefinitionError(name, "an inbox's handler is async def: its connection is awaited")
    try:
        count = len(required_positional(function))
    except (TypeError, ValueError) as exc:
        raise HandlerDefinitionError(name, f"it cannot be called with an event and a connection: {exc}") from exc
    if count in {_EVENT_AND_CONNECTION, _AND_ENVELOPE}:
        return count == _AND_ENVELOPE
    problem = f"it must take the event and the connection, and may take the envelope, not {count} arguments by position"
    raise HandlerDefinitionError(name, problem)
