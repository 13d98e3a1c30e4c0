"""A NATS server with JetStream."""

import socket
from pathlib import Path
from typing import Final

from tests.servers.ports import free_port
from tests.servers.process import Server
from tests.servers.software import program

ASK_JETSTREAM: Final = b'CONNECT {"verbose":false}\r\nSUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\nPING\r\n'


def nats_in(folder: Path, *options: str) -> Server:
    """Describe a NATS server whose streams are in ``folder``.

    Raises:
        MissingServerError: There is no ``nats-server`` on this machine.
    """
    port = free_port()
    command = (program("nats-server"), "-a", "127.0.0.1", "-p", port, "-js", "-sd", folder, *options)
    return Server(command, url=f"nats://127.0.0.1:{port}", port=port, folder=folder, is_ready=_has_jetstream)


def _has_jetstream(connection: socket.socket) -> bool:
    with connection.makefile("rb") as answers:
        if not answers.readline().startswith(b"INFO "):
            return False
        connection.sendall(ASK_JETSTREAM)
        return any(b'"type":"io.nats.jetstream.api.v1.account_info_response"' in line for line in answers)
