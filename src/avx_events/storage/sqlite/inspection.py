"""Looks at the file of a store, and changes neither it nor what is beside it."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NoReturn

from avx_events.bus.remote.inspection import Finding
from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, StoreUnavailableError, UnsupportedError
from avx_events.storage.sqlite import durability
from avx_events.storage.sqlite.durability import MOST_CHECKED_BYTES, File
from avx_events.storage.sqlite.failures import is_damaged, store_error
from avx_events.storage.sqlite.file_systems import kind_of
from avx_events.storage.sqlite.location import parse

_HAS_VERSIONS: Final = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'avx_schema')"
_VERSIONS: Final = "SELECT component, version FROM avx_schema"
_CHECK: Final = "PRAGMA quick_check(1)"

# https://www.sqlite.org/fileformat.html#file_format_version_numbers
_VERSION_BYTE: Final = 18
_WAL_VERSION: Final = 2


class SqliteInspection:
    """A look at one file, which is opened for each question and only read."""

    def __init__(self, url: str, path: Path | None, *, timeout_s: float) -> None:
        """Open nothing yet.

        Args:
            url: Of the store.
            path: Its file; None for one in memory.
            timeout_s: How long the lock of another process is waited for.
        """
        self._url = url
        self._path = path
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._url

    async def groups(self) -> NoReturn:
        """Refuse: see ``Inspection``.

        Raises:
            UnsupportedError: A file has no groups of a broker.
        """
        remedy = "a LogBus and a Projector tell themselves how far they are: statistics(), status()"
        raise UnsupportedError(self._url, "a database knows of no groups", remedy=remedy)

    async def findings(self) -> Sequence[Finding]:
        """Return what there is to say of the file; see ``Inspection``."""
        if self._path is None:
            return durability.nowhere()
        return await asyncio.to_thread(self._look, self._path)

    async def close(self) -> None:
        """Have nothing to close: no connection stays open."""

    def _look(self, path: Path) -> list[Finding]:
        try:
            if not path.exists():
                return durability.no_file()
            with path.open("rb") as file:
                header = file.read(_VERSION_BYTE + 1)
            size, wal = path.stat().st_size, _wal_of(path)
            wal_size = wal.stat().st_size if wal.exists() else 0
        except OSError as exc:
            raise StoreUnavailableError(self._url, f"{exc}") from exc
        check, versions = self._insides(path, is_to_check=size + wal_size <= MOST_CHECKED_BYTES)
        return durability.findings_in(
            File(
                size=size,
                wal_size=wal_size,
                file_system=kind_of(path),
                is_wal=header[_VERSION_BYTE:] == bytes([_WAL_VERSION]),
                check=check,
                versions=versions,
            )
        )

    def _insides(self, path: Path, *, is_to_check: bool) -> tuple[str | None, Mapping[str, int] | None]:
        is_in_use = _is_in_use(path)
        try:
            with closing(self._open(path, is_in_use=is_in_use)) as connection:
                check = _check(connection) if is_to_check else None
                versions = _versions(connection)
        except sqlite3.Error as exc:
            if not is_damaged(exc):
                raise store_error(exc, self._url) from exc
            check, versions = f"{exc}", None
        if check not in {None, "ok"} and not is_in_use and _is_in_use(path):
            return self._insides(path, is_to_check=is_to_check)  # a store was opened meanwhile, and wrote
        return check, versions

    def _open(self, path: Path, *, is_in_use: bool) -> sqlite3.Connection:
        # A connection that may not write makes a write-ahead log where there is none, and leaves it.
        mode = "mode=ro" if is_in_use else "mode=ro&immutable=1"
        return sqlite3.connect(f"{path.as_uri()}?{mode}", timeout=self._timeout_s, uri=True)


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> SqliteInspection:
    """Return what looks at the file of a store, which need not be there.

    Args:
        url: As for a store.
        options: ``timeout_s``, within which other processes must give the file free where it is locked; a file has
            neither namespace nor options of a client.
        clock: Of no use here.

    Raises:
        InvalidArgumentError: The URL or an option is malformed.
    """
    del clock
    if options.client:
        raise InvalidArgumentError("client", dict(options.client), expected="left out: options are in the URL")
    location = parse(url)
    path = None if location.path is None else Path(location.path)
    return SqliteInspection(url, path, timeout_s=min(location.busy_timeout_s, options.timeout_s))


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _is_in_use(path: Path) -> bool:
    """Tell whether somebody has it open, or left something beside it that belongs to it."""
    return _wal_of(path).exists() or path.with_name(f"{path.name}-journal").exists()


def _check(connection: sqlite3.Connection) -> str:
    return str(connection.execute(_CHECK).fetchone()[0])


def _versions(connection: sqlite3.Connection) -> dict[str, int] | None:
    if not connection.execute(_HAS_VERSIONS).fetchone()[0]:
        return None
    return {str(component): int(version) for component, version in connection.execute(_VERSIONS)}
