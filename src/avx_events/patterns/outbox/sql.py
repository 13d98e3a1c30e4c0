"""Our SQL in the dialect of a connection: written once, with ``?`` for a value."""

from functools import lru_cache
from typing import Final

from avx_events.core.clock import Clock
from avx_events.store.ports import Connection, Dialect

_SERVERS_TIME: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@lru_cache(maxsize=256)
def in_dialect(sql: str, dialect: Dialect) -> str:
    """Return ``sql`` with the placeholders of ``dialect``; it has no ``?`` but those."""
    if dialect == "sqlite":
        return sql
    first, *others = sql.split("?")
    return first + "".join(f"${number}{other}" for number, other in enumerate(others, start=1))


async def execute(connection: Connection, sql: str, *params: object) -> int:
    """Run one of our statements, and return how many rows it changed.

    Raises:
        AvxEventsError: As ``Connection.execute``.
    """
    return await connection.execute(in_dialect(sql, connection.dialect), *params)


async def shared_now_us(connection: Connection, clock: Clock) -> int:
    """Return the time that all processes on the database agree on, in Unix microseconds.

    PostgreSQL's is its server's; a file of SQLite belongs to one machine, and has the time of that.

    Raises:
        AvxEventsError: As ``Connection.fetch_one``.
    """
    if connection.dialect == "sqlite":
        return clock.time_ns() // 1000
    row = await connection.fetch_one(_SERVERS_TIME)
    return 0 if row is None else int(row[0])
