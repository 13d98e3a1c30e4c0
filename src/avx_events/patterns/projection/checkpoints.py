"""How far each projection is, in the table ``avx_projections``: always read and moved in the caller's transaction."""

from collections.abc import Sequence
from typing import Final

from avx_events.core.errors import ProjectionReplacedError
from avx_events.patterns.projection.projection import Projection
from avx_events.patterns.tables import prepare
from avx_events.store.ports import Connection

_MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """
        CREATE TABLE avx_projections (
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (name, version)
        ) WITHOUT ROWID
        """,
    ),
)
_VERSIONS: Final = "SELECT version, position FROM avx_projections WHERE name = ? ORDER BY version"
_POSITION: Final = "SELECT position FROM avx_projections WHERE name = ? AND version = ?"
_FORGET: Final = "DELETE FROM avx_projections WHERE name = ?"
_BEGIN: Final = "INSERT INTO avx_projections (name, version, position) VALUES (?, ?, 0)"
_MOVE: Final = "UPDATE avx_projections SET position = ? WHERE name = ? AND version = ?"


async def begin(connection: Connection, projection: Projection) -> int:
    """Return the position that ``projection`` is at; a version that is new is set up, and takes the older one's place.

    Raises:
        ProjectionReplacedError: A newer version is there.
        StoreSchemaError: The table is of a newer version of this package.
    """
    await prepare(connection, "projections", _MIGRATIONS)
    versions: dict[int, int] = dict(await connection.fetch(_VERSIONS, projection.name))
    if any(version > projection.version for version in versions):
        raise ProjectionReplacedError(projection.name, version=projection.version)
    if projection.version in versions:
        return versions[projection.version]
    await connection.execute(_FORGET, projection.name)
    await projection.setup(connection)
    await connection.execute(_BEGIN, projection.name, projection.version)
    return 0


async def position_of(connection: Connection, projection: Projection) -> int:
    """Return the position that ``projection`` is at.

    Raises:
        ProjectionReplacedError: It has no checkpoint any more.
    """
    row = await connection.fetch_one(_POSITION, projection.name, projection.version)
    if row is None:
        raise ProjectionReplacedError(projection.name, version=projection.version)
    position: int = row[0]
    return position


async def move(connection: Connection, projection: Projection, position: int) -> None:
    """Say that ``projection`` is at ``position``."""
    await connection.execute(_MOVE, position, projection.name, projection.version)
