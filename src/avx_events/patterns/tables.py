"""Our tables beside the events: made, and brought forward, in the transaction of the one who needs them."""

from collections.abc import Sequence
from typing import Final

from avx_events.core.errors import StoreSchemaError
from avx_events.store.ports import Connection

_VERSION: Final = "SELECT version FROM avx_schema WHERE component = ?"
_SET_VERSION: Final = "INSERT OR REPLACE INTO avx_schema (component, version) VALUES (?, ?)"


async def prepare(connection: Connection, component: str, migrations: Sequence[Sequence[str]]) -> None:
    """Give the database the newest tables of ``component``, whatever it has of them.

    Args:
        connection: A transaction of the store; ``avx_schema``, where versions are kept, is the store's own table.
        component: The name that the version is kept under.
        migrations: For each version in order, the statements that lead to it from the one before. What was released
            is never changed, only followed by another.

    Raises:
        StoreSchemaError: The tables are at a version newer than the last of ``migrations``.
        StoreUnavailableError: The database cannot be read or written now.
    """
    row = await connection.fetch_one(_VERSION, component)
    version: int = 0 if row is None else row[0]
    wanted = len(migrations)
    if version > wanted:
        problem = f"its tables for {component} are at version {version}, newer than {wanted}; upgrade avx-events"
        raise StoreSchemaError("the store's database", problem)
    if version == wanted:
        return
    for migration in migrations[version:]:
        for statement in migration:
            await connection.execute(statement)
    await connection.execute(_SET_VERSION, component, wanted)
