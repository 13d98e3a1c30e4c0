"""What entry points name of engines that need more than the standard library: imported when first used."""

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.inspection import Inspection
from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import MissingExtraError
from avx_events.store.ports import StoreEngine


async def postgresql(url: str, *, clock: Clock = SYSTEM_CLOCK) -> StoreEngine:
    """Open the store in a PostgreSQL database.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, has no such database, or permits too little.
        StoreSchemaError: The database has other tables of these names, is at a newer version, or not in UTF-8.
        StoreUnavailableError: The server cannot be reached now.
    """
    try:
        from avx_events.storage.postgres.engine import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("EventStore.connect", "postgres") from exc
    return await connect(url, clock=clock)


async def postgresql_dead_letters(url: str, *, clock: Clock) -> DeadLetterStore:
    """Open the dead letters in a PostgreSQL database.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, has no such database, or permits too little.
        StoreSchemaError: The database has another table of this name, is at a newer version, or not in UTF-8.
        StoreUnavailableError: The server cannot be reached now.
    """
    try:
        from avx_events.storage.postgres.dead_letters import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("DeadLetterQueue.connect", "postgres") from exc
    return await connect(url, clock=clock)


async def postgresql_inspection(url: str, options: TransportOptions, *, clock: Clock) -> Inspection:
    """Look at a PostgreSQL database, and at the settings of its server.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is malformed.
        StoreRefusedError: The server wants other credentials or TLS, or has no such database.
        StoreUnavailableError: The server cannot be reached now.
    """
    try:
        from avx_events.storage.postgres.inspection import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("Inspector.connect", "postgres") from exc
    return await connect(url, options, clock=clock)
