"""The time that all processes on one database agree on."""

from typing import Final

from avx_events.core.clock import Clock
from avx_events.patterns.tables import fetch_one
from avx_events.store.ports import Connection

# A process that stands still in the midst of a transaction keeps its locks, for which whoever takes over would wait.
_BOUNDED: Final = "SELECT set_config('idle_in_transaction_session_timeout', ?, true)"
_SERVERS_TIME: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


async def shared_now_us(connection: Connection, clock: Clock) -> int:
    """Return that time, in Unix microseconds.

    PostgreSQL's is its server's; a file of SQLite belongs to one machine, and has the time of that.

    Raises:
        AvxEventsError: As ``Connection.fetch_one``.
    """
    if connection.dialect == "sqlite":
        return clock.time_ns() // 1000
    row = await connection.fetch_one(_SERVERS_TIME)
    return 0 if row is None else int(row[0])


async def end_when_idle(connection: Connection, *, after_s: float) -> None:
    """Have the database undo the transaction where this process says nothing in it for ``after_s`` seconds.

    PostgreSQL does. The lock of SQLite's file is that of a process, which nobody else can end.

    Raises:
        AvxEventsError: As ``Connection.fetch_one``.
    """
    if connection.dialect == "postgresql":
        await fetch_one(connection, _BOUNDED, str(max(int(after_s * 1000), 1)))
