"""The server: uvicorn on a socket of ours, so that a port that is taken is our error, and port 0 is told as it is."""

import asyncio
import logging
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from examples.production_service.http.connections import DEFAULT_LIMITS, Config, Limits, cut_late

_BACKLOG: Final = 2_048
_OTHER_FILES: Final = 128  # the store's, and what Python itself has open
_TICKS_PER_S: Final = 10  # of uvicorn's main loop

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A server that leaves signals to its owner: uvicorn raises them again when it is done, and nothing would close."""

    def __init__(self, app: ASGIApp, *, limits: Limits = DEFAULT_LIMITS) -> None:
        """Serve ``app`` within ``limits``."""
        super().__init__(Config(app, limits=limits, backlog=_BACKLOG))

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; cut connections that are late, once in a second."""
        if counter % _TICKS_PER_S == 0:
            cut_late(self.server_state.connections, now=asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Answer what is there and end; told a second time, end without that."""
        self.force_exit = self.should_exit
        self.should_exit = True


def allow_open_files(limits: Limits = DEFAULT_LIMITS) -> None:
    """Let the process have as many sockets as ``limits`` and the backlog make, where the system's limit can be raised.

    The usual 1,024 are too few: before one too many is cut it was accepted, with all others that waited.
    """
    wanted = limits.connections + _BACKLOG + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in {soft, hard} and hard < wanted:
        log.warning("at most %d files may be open, and many clients at once may need %d: see ulimit -n", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
