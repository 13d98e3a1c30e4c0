"""The time that all processes on one database agree on."""

from typing import Final

from avx_events.core.clock import Clock
from avx_events.store.ports import Connection

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
