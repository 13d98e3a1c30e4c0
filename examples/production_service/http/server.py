"""The server: uvicorn on a socket of ours, so that a port that is taken is our error, and port 0 is told as it is."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

REQUESTS_TIMEOUT_S: Final = 5
"""How long requests that are there when the server stops may take."""

_MOST_CONNECTIONS: Final = 1_000  # more are answered with 503 at once, instead of all of them late
_BACKLOG: Final = 2_048


class Server(uvicorn.Server):
    """A server that leaves signals to its owner: uvicorn raises them again when it is done, and nothing would close."""

    def __init__(self, app: ASGIApp) -> None:
        """Serve ``app``."""
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=REQUESTS_TIMEOUT_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Answer what is there and end; told a second time, end without that."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: The port is taken, or the address none of this machine.
        UnicodeError: The host can be no name.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, since asyncio sets TCP_NODELAY only then: answers of two packets would take 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what waits in TIME_WAIT is no port in use
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the host and the port of ``listener``, as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
