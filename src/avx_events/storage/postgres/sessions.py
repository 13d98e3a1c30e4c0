"""Connections to one database: opened when they are needed, and again when they were lost."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg

from avx_events.core.errors import ClosedError, InvalidArgumentError
from avx_events.core.tasks import TaskScope
from avx_events.storage.postgres.failures import FAILURES, is_lost, said_by, store_error
from avx_events.storage.postgres.location import Location

ResultT = TypeVar("ResultT")

log = logging.getLogger("avx_events")

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# Each of our own queries has an index in whose order it reads. Before the tables have statistics PostgreSQL may think
# that a stream is short, and sort all of it for each page; to compile a page's query takes longer than the query.
_BY_INDEX: Final = {"enable_bitmapscan": "off", "enable_seqscan": "off", "enable_sort": "off", "jit": "off"}

# An append that has waited for its turn has to see what was committed meanwhile, whatever the user's default is.
_FRESH: Final = {"default_transaction_isolation": "read committed"}

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_IDLE_S: Final = 300.0
_GIVE_BACK_S: Final = 1.0


class Patience:
    """How long a call tries again while the server is away: up to a number of seconds from its beginning."""

    __slots__ = ("_deadline", "_loop", "_pause_s")

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._pause_s = _FIRST_PAUSE_S

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._loop.time() >= self._deadline

    @property
    def left_s(self) -> float:
        """How many seconds are left, some even where the time is up."""
        return max(self._deadline - self._loop.time(), _FIRST_PAUSE_S)

    async def pause(self) -> None:
        """Wait before the next attempt, longer each time."""
        await asyncio.sleep(min(self._pause_s, self.left_s))
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)


class Sessions:
    """Opens connections in one place, and keeps pools: for our own reads and writes, a user's, and transactions."""

    def __init__(self, location: Location, *, whose: str = "the event store", writers: int = 1) -> None:
        """Open nothing yet.

        Args:
            location: Where, and how many.
            whose: What a ``ClosedError`` calls the one who has closed them.
            writers: The most connections for our own writes.
        """
        self._location: Final = location
        self._whose: Final = whose
        size = location.pool_size
        own = location.own_settings(default_transaction_read_only="on", **_BY_INDEX)
        self._own: Final = self._pool(size, reset=_leave, settings=own)
        # Not one of those that are lent: who has the last of them may load an aggregate, which waits for its snapshot.
        self._own_writes: Final = self._pool(writers, reset=_leave, settings=location.own_settings(**_FRESH))
        readers = location.settings(default_transaction_read_only="on")
        self._readers: Final = self._pool(size, reset=_leave, settings=readers)
        self._transactions: Final = self._pool(size, reset=_reset, settings=location.settings())
        self._pools: Final = (self._transactions, self._readers, self._own_writes, self._own)
        self._lent: Final[set[PooledConnection]] = set()
        self._connecting: Final = TaskScope()
        self._watching: Final = TaskScope()
        self._is_closed = False

    async def connect(self, *, timeout_s: float) -> Connection:
        """Open a connection that belongs to the caller.

        Raises:
            asyncpg.PostgresError: The server refuses.
            OSError: It cannot be reached.
        """
        settings = self._location.own_settings(**_BY_INDEX, **_FRESH)
        # The log is not locked for longer by a process that stands still.
        settings["idle_in_transaction_session_timeout"] = f"{math.ceil(self._location.timeout_s * 1000)}"
        return await self._connect(self._location.dsn, timeout=timeout_s, server_settings=settings)

    async def open_first(self) -> Connection:
        """Open the first connection of a store, which tells what is wrong with its URL.

        Raises:
            InvalidArgumentError: It is malformed.
            StoreRefusedError: The server wants other credentials or TLS, or has no such database.
            StoreUnavailableError: It cannot be reached within the time of the URL.
        """
        patience = Patience(self._location.timeout_s)
        while True:
            try:
                connection = await self.connect(timeout_s=patience.left_s)
                for pool in self._pools:
                    await pool
            except asyncpg.ClientConfigurationError as exc:  # before FAILURES, whose kind it is, too
                raise self._no_url(exc) from exc
            except FAILURES as exc:
                if patience.is_over or not is_lost(exc):
                    raise store_error(exc, self._location.name) from exc
            except (ValueError, TypeError) as exc:
                raise self._no_url(exc) from exc
            else:
                return connection
            await patience.pause()

    async def read_own(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        """Return what one of our own queries reads; where its connection is lost, it is asked again on another one.

        Raises:
            ClosedError: The store is closed.
            StoreUnavailableError: The server cannot be reached, or does not answer, within the time of the URL.
            StoreSchemaError: Something is wrong with the tables.
        """
        try:
            return await self._answered(self._own, query)
        except FAILURES as exc:
            raise store_error(exc, self._location.name) from exc

    async def write_own(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        """Return what comes of a statement of our own that may write, and may be repeated where its fate is not known.

        Raises:
            AvxEventsError: As ``read_own``.
        """
        try:
            return await self._answered(self._own_writes, query)
        except FAILURES as exc:
            raise store_error(exc, self._location.name) from exc

    async def write_at_length(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        """Return what ``write_own`` does, of a statement that may take as long as it likes while the server is there.

        Raises:
            AvxEventsError: As ``read_own``.
        """
        try:
            return await self._answered_at_length(self._own_writes, query)
        except FAILURES as exc:
            raise store_error(exc, self._location.name) from exc

    async def read(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        """Return what a user's query reads; where its connection is lost, it is asked again on another one.

        It may take as long as it likes while the server answers others.

        Raises:
            ClosedError: The store is closed.
            asyncpg.PostgresError: What the server answered, or the connection stays away.
            asyncpg.InterfaceError: Likewise.
            OSError: Likewise.
        """
        return await self._answered_at_length(self._readers, query)

    async def read_and_forget(self, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        """Return what ``read`` does, on a connection that nobody else gets afterwards: of what may change it.

        Raises:
            Exception: As ``read``.
        """

        async def read(connection: PooledConnection) -> ResultT:
            try:
                return await query(connection)
            finally:
                end(connection)

        return await self.read(read)

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[PooledConnection, None]:
        """Lend a connection with a new transaction; what is not committed is undone when it is given back.

        Raises:
            ClosedError: The store is closed.
            StoreRefusedError: The server refuses.
            StoreUnavailableError: It cannot be reached within the time of the URL.
        """
        try:
            connection = await self._begun()
        except FAILURES as exc:
            raise store_error(exc, self._location.name) from exc
        self._lent.add(connection)
        try:
            yield connection
        finally:
            self._lent.discard(connection)
            await self._undo(connection)
            await self._give_back(self._transactions, connection)

    @contextmanager
    def watched(self, connection: PooledConnection) -> Generator[None]:
        """End ``connection`` where a statement on it takes longer than the time of the URL, and nobody gets an answer.

        Such a statement of the store's user is work for a server that answers others, and lost on one that does not.
        """
        watching: list[asyncio.Task[None]] = []

        def watch() -> None:
            watching.append(self._watching.spawn(self._watch(connection), name="avx-events: look after PostgreSQL"))

        timer = asyncio.get_running_loop().call_later(self._location.timeout_s, watch)
        try:
            yield
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()

    async def close(self) -> None:
        """End what is lent, wait a moment for what is read, close all connections."""
        self._is_closed = True
        for connection in [*self._lent]:
            end(connection)
        patience = Patience(self._location.timeout_s)
        try:
            await self._watching.cancel()
            for pool in self._pools:
                with suppress(*FAILURES):
                    async with asyncio.timeout(patience.left_s):
                        await pool.close()
        finally:
            for pool in self._pools:
                pool.terminate()
            await self._connecting.finish()

    async def _answered(self, pool: Pool, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        patience = Patience(self._location.timeout_s)

        async def in_time() -> ResultT:
            async with asyncio.timeout(patience.left_s):
                return await self._once(pool, query)

        return await self._repeated(patience, in_time)

    async def _answered_at_length(self, pool: Pool, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        async def watched(connection: PooledConnection) -> ResultT:
            with self.watched(connection):
                return await query(connection)

        return await self._repeated(Patience(self._location.timeout_s), lambda: self._once(pool, watched))

    async def _repeated(
        self, patience: Patience, work: Callable[[], Awaitable[ResultT]], *, action: str = "read"
    ) -> ResultT:
        while True:
            self._check(action)
            try:
                return await work()
            except FAILURES as exc:
                self._check(action)
                if patience.is_over or not is_lost(exc):
                    raise
            await patience.pause()

    async def _once(self, pool: Pool, query: Callable[[PooledConnection], Awaitable[ResultT]]) -> ResultT:
        connection = await pool.acquire()
        try:
            return await query(connection)
        finally:
            await self._give_back(pool, connection)

    async def _begun(self) -> PooledConnection:
        patience = Patience(self._location.timeout_s)

        async def begin() -> PooledConnection:
            connection = await self._transactions.acquire()
            try:
                await connection.execute("BEGIN", timeout=patience.left_s)
            except BaseException:
                end(connection)
                raise
            return connection

        return await self._repeated(patience, begin, action="begin a transaction")

    async def _undo(self, connection: PooledConnection) -> None:
        if not is_open(connection) or not connection.is_in_transaction():
            return
        try:
            await connection.execute("ROLLBACK", timeout=_GIVE_BACK_S)
        except BaseException as exc:
            end(connection)
            if not isinstance(exc, FAILURES):
                raise

    async def _give_back(self, pool: Pool, connection: PooledConnection) -> None:
        # What was cut off is ended on the server, too, and what was changed in the session changed back. A connection
        # on which that cannot be done is closed, and the next one opened when it is needed.
        with suppress(*FAILURES):
            await pool.release(connection, timeout=_GIVE_BACK_S)

    async def _watch(self, connection: PooledConnection) -> None:
        while True:
            try:
                await self._answered(self._own, lambda own: own.execute("SELECT 1"))
            except asyncpg.PostgresError as exc:  # an answer, if not the one that was wanted
                log.debug("a long statement goes on though the server says: %s", exc)
            except (*FAILURES, ClosedError):
                end(connection)
                return
            await asyncio.sleep(self._location.timeout_s)

    async def _connect(self, *args: Any, **options: Any) -> Connection:
        # To its end, though the caller is cancelled: asyncpg leaves errors to nobody where a half-made connection ends.
        outcome: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

        async def connect() -> None:
            try:
                connection = await asyncpg.connect(*args, **options)
            except Exception as exc:  # noqa: BLE001 - raised where it is awaited
                if not outcome.done():
                    outcome.set_exception(exc)
            except asyncio.CancelledError:
                if not outcome.done():
                    outcome.set_exception(ConnectionAbortedError("the store was closed meanwhile"))
                raise
            else:
                if outcome.done():
                    connection.terminate()
                else:
                    outcome.set_result(connection)

        self._connecting.spawn(connect(), name="avx-events: connect to PostgreSQL")
        try:
            return await outcome
        except asyncio.CancelledError:
            if outcome.done() and not outcome.cancelled() and outcome.exception() is None:  # at the same moment
                outcome.result().terminate()
            raise

    def _no_url(self, exc: Exception) -> InvalidArgumentError:
        expected = f"a URL that PostgreSQL's client understands ({said_by(exc)})"
        return InvalidArgumentError("url", self._location.name, expected=expected)

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError(self._whose, action)

    def _pool(self, size: int, *, reset: Callable[[Any], Awaitable[None]] | None, settings: dict[str, str]) -> Pool:
        return asyncpg.create_pool(
            self._location.dsn,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=_IDLE_S,
            timeout=self._location.timeout_s,
            command_timeout=None,
            server_settings=settings,
            reset=reset,
            connect=self._connect,
        )


async def _reset(connection: Any) -> None:
    # What asyncpg resets by itself, and the rest of what the last user may have set.
    query = f"{connection.get_reset_query()}\nRESET SESSION AUTHORIZATION;\nDISCARD TEMP;"
    await connection.execute(query)


async def _leave(_: Any) -> None:
    pass  # a round trip to reset what nobody changed would cost as much as the query


def is_open(connection: PooledConnection) -> bool:
    """Tell whether ``connection`` can be used: it was not lost, ended or given back."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # its pool has taken it back
        return False


def end(connection: PooledConnection) -> None:
    """Close ``connection`` at once, where that was not done before; the server undoes what it had not committed."""
    with suppress(asyncpg.InterfaceError):  # its pool has taken it back
        connection.terminate()
