"""Opens the first connection to a database, and gives it the tables that are asked for."""

import asyncio

from avx_events.storage.postgres.failures import FAILURES, store_error
from avx_events.storage.postgres.location import Location
from avx_events.storage.postgres.schema import EVENTS, Tables, prepare
from avx_events.storage.postgres.sessions import Connection, Sessions


async def open_prepared(sessions: Sessions, location: Location, tables: Tables = EVENTS) -> Connection:
    """Return a connection to a database that has ``tables``; where that fails, ``sessions`` are closed.

    Raises:
        InvalidArgumentError: The URL is malformed.
        StoreRefusedError: The server wants other credentials or TLS, has no such database, or permits too little.
        StoreSchemaError: The database has other tables of these names, is at a newer version, or not in UTF-8.
        StoreUnavailableError: The server cannot be reached now.
    """
    connection = await sessions.open_first()
    try:
        async with asyncio.timeout(location.timeout_s):
            await prepare(connection, location.name, tables)
    except BaseException as exc:
        connection.terminate()
        await sessions.close()
        if isinstance(exc, FAILURES):
            raise store_error(exc, location.name) from exc
        raise
    return connection
