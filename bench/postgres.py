"""A PostgreSQL server for a round, with its own settings of durability: what was committed is on the disk."""

from collections.abc import Generator
from contextlib import contextmanager

from bench.disk import folder_on_disk
from bench.rounds import MissingError
from tests.servers.postgres import PostgresServer, new_database, postgres_in
from tests.servers.software import MissingServerError

SETTINGS = "PostgreSQL, `fsync=on`, `synchronous_commit=on`"
"""As PostgreSQL comes."""

_servers: dict[str, PostgresServer] = {}


@contextmanager
def server() -> Generator[PostgresServer]:
    """Run one server, which those who ask for it at the same time share."""
    if "shared" in _servers:
        yield _servers["shared"]
        return
    with folder_on_disk() as folder:
        try:
            described = postgres_in(folder / "postgres")
        except MissingServerError as error:
            raise MissingError("postgres") from error
        with described as running:
            _servers["shared"] = running
            try:
                yield running
            finally:
                del _servers["shared"]


@contextmanager
def database() -> Generator[str]:
    """Give the URL of an empty database."""
    with server() as running, new_database(running.url) as url:
        yield url
