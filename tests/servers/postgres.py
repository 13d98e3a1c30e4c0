"""A PostgreSQL server."""

import asyncio
import atexit
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import asyncpg

from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.servers.software import program

KEEP_NOTHING: Final = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
"""Options of a server whose data nobody needs after the tests."""

_USER: Final = "avx"
_ON_DISK: Final = "/var/tmp"  # noqa: S108 - only the folder that mkdtemp makes in it is used
_UNPRIVILEGED: Final = ("postgres", "nobody")
# A request for TLS, which a server that is ready for clients answers with one letter.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
_ASK_FOR_TLS: Final = struct.pack("!ii", 8, 80877103)


def postgres_in(folder: Path, *options: str) -> "PostgresServer":
    """Describe a PostgreSQL server with a database ``postgres``, whose user needs no password.

    Args:
        folder: Where its data are; where the tests are run by root, whom PostgreSQL refuses, beside it.
        options: Of the program ``postgres``.

    Raises:
        MissingServerError: There is no PostgreSQL on this machine.
    """
    return PostgresServer(folder, program("postgres"), program("initdb"), options)


class PostgresServer(Server):
    """A server that is a family of processes: one for each connection, and some that look after the data."""

    def __init__(self, folder: Path, postgres: str, initdb: str, options: tuple[str, ...]) -> None:
        """Describe a server of those two programs."""
        # Folders of the tests are closed to the user that the server has to run as.
        self._root = Path(tempfile.mkdtemp(prefix="avx-postgres-", dir=_ON_DISK)) if os.geteuid() == 0 else folder
        self._data = self._root / "data"
        self._initdb = initdb
        port = free_port()
        listen = ("-p", port, "-h", "127.0.0.1", "-c", "unix_socket_directories=")
        super().__init__(
            (*_as_another_user(), postgres, "-D", self._data, *listen, "-c", "max_connections=200", *options),
            url=f"postgresql://{_USER}@127.0.0.1:{port}/postgres",
            port=port,
            folder=self._root,
            is_ready=_is_ready,
            stops_at=signal.SIGINT,  # "fast": connections end, and transactions with them
        )

    def start(self, *, timeout_s: float = 30) -> None:
        """Start the server, the first time with a database that is made now."""
        if not self._data.exists():
            self._make_data()
        super().start(timeout_s=timeout_s)

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self._clean_up()
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(error_type, error, traceback)
        self._clean_up()

    def _make_data(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        _give_away(self._root)
        _run(*_as_another_user(), "cp", "-a", _template(self._initdb), self._data, folder=self._root)

    def _clean_up(self) -> None:
        if os.geteuid() == 0:
            shutil.rmtree(self._root, ignore_errors=True)


@contextmanager
def new_database(url: str) -> Generator[str]:
    """Give the URL of a new, empty database on the server of ``url``, and drop it afterwards."""
    name = f"avx_test_{uuid4().hex}"
    place, _, query = url.partition("?")
    _execute(url, f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0")
    try:
        yield f"{place.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    finally:
        _execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(url: str, sql: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:  # whether a loop runs here or not
        thread.submit(lambda: asyncio.run(execute())).result()


def _is_ready(connection: socket.socket) -> bool:
    # While it starts up it answers to this too; only a session is told that it has to wait.
    parameters = b"user\0avx\0database\0postgres\0\0"
    connection.sendall(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
    return connection.recv(1) == b"R"  # it asks for a password, or for none


def _another_user() -> pwd.struct_passwd | None:
    """Return whom a server runs as that root may not run."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return next(users[name] for name in _UNPRIVILEGED if name in users)


def _as_another_user() -> tuple[str, ...]:
    user = _another_user()
    if user is None:
        return ()
    # The wish to be killed with the parent is gone with the user that made it.
    return (
        "setpriv",
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
        "--pdeathsig=KILL",
        "--",
    )


@cache
def _template(initdb: str) -> Path:
    """Return a folder with data of a new server, which is copied for each: to make it takes seconds."""
    root = Path(tempfile.mkdtemp(prefix="avx-postgres-", dir=_ON_DISK))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _give_away(root)
    make = ("-U", _USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
    _run(*_as_another_user(), initdb, "-D", root / "data", *make, folder=root)
    return root / "data"


def _give_away(folder: Path) -> None:
    """Let whom the server runs as have a folder."""
    if user := _another_user():
        os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)


def _run(*command: object, folder: Path) -> None:
    words = [*map(str, command)]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own commands
