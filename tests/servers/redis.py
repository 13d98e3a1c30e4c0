"""A Redis server."""

import socket
from pathlib import Path
from typing import Final

from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.servers.software import program

KEEP_EACH_WRITE: Final = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a server that has on disk whatever it answered to."""


def redis_in(folder: Path, *options: str) -> Server:
    """Describe a Redis server that keeps its data in ``folder``, if ``options`` let it keep any.

    Raises:
        MissingServerError: There is no ``redis-server`` on this machine.
    """
    port = free_port()
    listen = ("--bind", "127.0.0.1", "--port", port)
    command = (program("redis-server"), *listen, "--save", "", "--dir", folder, *options)
    return Server(command, url=f"redis://127.0.0.1:{port}", port=port, folder=folder, is_ready=_answers_ping)


def _answers_ping(connection: socket.socket) -> bool:
    connection.sendall(b"PING\r\n")
    return connection.recv(64) == b"+PONG\r\n"  # not while it loads its data
