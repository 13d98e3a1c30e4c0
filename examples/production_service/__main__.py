"""Runs the service until SIGTERM or SIGINT tells it to stop: ``python -m examples.production_service``.

It stops in a fraction of a second, or where clients or handlers are slow within ``stop_timeout_s``: there are no new
connections, the requests that are there are answered, handlers finish what they have, the store is closed. What was
answered with 201 is in the store; what a handler or a read model had not done by then goes on after the next start.

Exit codes: 0 after a clean stop, 2 where a setting cannot be used or the port is taken. What hangs beyond that time is
ended by SIGALRM, which the store survives as it does SIGKILL.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Final

from avx_events.observability import SettingError, Settings, init_tracing
from examples.production_service.http.app import http_app
from examples.production_service.http.connections import DEFAULT_LIMITS
from examples.production_service.http.server import Server, address_of, allow_open_files, listen
from examples.production_service.reports import ServiceStarted
from examples.production_service.service import running_service

BIND_ADDR: Final = "AVX__HTTP__BIND_ADDR"

_GREETING: Final = """
  Users and orders, event sourced.

    listening on  {base}
    events in     {store_url}

  Try next:

    curl {base}/users -d '{{"email": "jane@example.com", "name": "Jane"}}'
    curl {base}/users
    ID=$(curl -s {base}/users | grep -o 'user-[0-9a-f-]*' | head -1)
    curl -X PATCH {base}/users/$ID -d '{{"email": "jane@example.org"}}'
    curl {base}/users/$ID
    curl "{base}/users/$ID?at_version=1"
    curl {base}/users/$ID/history
    ORDER=$(curl -s {base}/orders -d '{{"user_id": "'$ID'", "total": 12.5}}' | grep -o 'order-[0-9a-f-]*')
    curl {base}/orders/$ORDER
    curl {base}/health
    curl {base}/ready
    curl {base}/metrics

  All endpoints, with their parameters and headers: examples/production_service/README.md

  Ctrl+C stops it, within {stop_s} seconds at most. Started again, everything is there.
"""

log = logging.getLogger(__name__)


def stop_timeout_s(settings: Settings) -> int:
    """Return how many seconds a stop may take: requests, the relay, the bus, the rest."""
    return DEFAULT_LIMITS.requests_timeout_s + 2 * math.ceil(settings.events.drain_timeout_s) + 5


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on ``listener`` until a signal comes.

    Raises:
        SettingError: The store or the broker cannot be used.
    """
    async with AsyncExitStack() as parts:
        service = await parts.enter_async_context(running_service(settings))
        server = Server(http_app(service))

        def stop() -> None:
            log.info("stopping")
            service.is_stopping = True
            server.stop()
            signal.alarm(stop_timeout_s(settings))

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        address = address_of(listener)
        service.reports.tell(ServiceStarted(settings.events.group, version("avx-events"), address, os.getpid()))
        greet(settings, address)
        await server.serve(sockets=[listener])


def greet(settings: Settings, address: str) -> None:
    """Say where it listens, and what to try."""
    print(
        _GREETING.format(
            base=f"http://{address}", store_url=settings.events.store_url, stop_s=stop_timeout_s(settings)
        ),
        flush=True,
    )


def open_listener(settings: Settings) -> socket.socket:
    """Return the socket that the settings ask for.

    Raises:
        SettingError: It cannot be had.
    """
    host, port = settings.http.host, settings.http.port
    try:
        return listen(host, port)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        advice = f"set {BIND_ADDR} to another, as 127.0.0.1:0 for a port that is free"
        problem = f"{host}:{port} cannot be listened on: {reason}; {advice}"
        raise SettingError(BIND_ADDR, problem, source="the settings") from exc


def main() -> int:
    """Run the service, and return the exit code of the process."""
    try:
        settings = Settings.load()
        init_tracing(settings)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        allow_open_files()
        with open_listener(settings) as listener:
            asyncio.run(serve(settings, listener))
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
