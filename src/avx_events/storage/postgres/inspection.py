"""Looks at a PostgreSQL database and its server's settings, and changes nothing."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from avx_events.bus.remote.inspection import Finding
from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, UnsupportedError
from avx_events.storage.postgres.durability import SETTINGS, Database, findings_in
from avx_events.storage.postgres.failures import FAILURES
from avx_events.storage.postgres.location import parse
from avx_events.storage.postgres.sessions import PooledConnection, Sessions

# Those that a user may not see, and those that an older server has not, are left out.
_SETTINGS: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])"
_IS_STANDBY: Final = "SELECT pg_is_in_recovery()"
_HAS_VERSIONS: Final = "SELECT to_regclass('avx_schema') IS NOT NULL"
_VERSIONS: Final = "SELECT component, version FROM avx_schema"


class PostgresInspection:
    """A look at one database, over connections of its own."""

    def __init__(self, sessions: Sessions, name: str) -> None:
        """Look through ``sessions`` at what errors call ``name``."""
        self._sessions = sessions
        self._name = name

    @property
    def name(self) -> str:
        """What errors call the database."""
        return self._name

    async def groups(self) -> NoReturn:
        """Refuse: see ``Inspection``.

        Raises:
            UnsupportedError: A database has no groups of a broker.
        """
        remedy = "a LogBus and a Projector tell themselves how far they are: statistics(), status()"
        raise UnsupportedError(self._name, "a database knows of no groups", remedy=remedy)

    async def findings(self) -> Sequence[Finding]:
        """Return what the settings and the tables mean; see ``Inspection``."""
        # On a connection that may write, though it does not: the others are told to read only, and would say so.
        return findings_in(await self._sessions.write_own(_look))

    async def close(self) -> None:
        """Leave no connection."""
        await self._sessions.close()


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> PostgresInspection:
    """Return what has reached its server.

    Args:
        url: As for a store, with its options; of two ``timeout_s`` the shorter one counts.
        options: ``timeout_s``; a database has neither namespace nor options of a client.
        clock: Of no use here: the server has its own.

    Raises:
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, or has no such database.
        StoreUnavailableError: It cannot be reached within ``timeout_s``.
    """
    del clock
    if options.client:
        raise InvalidArgumentError("client", dict(options.client), expected="left out: options are in the URL")
    location = parse(url)
    location = msgspec.structs.replace(location, timeout_s=min(location.timeout_s, options.timeout_s))
    sessions = Sessions(location, whose="the inspector")
    connection = await sessions.open_first()
    with suppress(*FAILURES):
        await connection.close(timeout=location.timeout_s)
    return PostgresInspection(sessions, location.name)


async def _look(connection: PooledConnection) -> Database:
    settings = {row["name"]: row["setting"] for row in await connection.fetch(_SETTINGS, SETTINGS)}
    is_standby: bool = await connection.fetchval(_IS_STANDBY)
    if not await connection.fetchval(_HAS_VERSIONS):
        return Database(settings, is_standby, None)
    versions = {row["component"]: row["version"] for row in await connection.fetch(_VERSIONS)}
    return Database(settings, is_standby, versions)
