"""Ports for servers that go away and come back."""

import random
import socket
from typing import Final

# Below the range that the kernel takes for outgoing connections (32768 and up on Linux). From inside of it, a client
# that calls a server that is down may be given that very port, connect to itself, and keep the server from coming back.
SERVER_PORTS: Final = range(20_000, 32_000)

_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, and which this process was not given before."""
    candidates = [port for port in SERVER_PORTS if port not in _given]
    random.SystemRandom().shuffle(candidates)
    port = next(filter(_is_free, candidates))
    _given.add(port)
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
