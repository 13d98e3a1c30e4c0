"""Runs the service until SIGTERM or SIGINT tells it to stop: ``python -m examples.production_service``.

It stops in a fraction of a second, or where clients or handlers are slow within ``STOP_TIMEOUT_S``: there are no new
connections, the requests that are there are answered, handlers finish what they have, the store is closed. What was
answered with 201 is in the store; what the relay or a read model had not done by then goes on after the next start.

Exit codes: 0 after a clean stop, 2 where a setting cannot be used or the port is taken. What hangs beyond that time is
ended by SIGALRM, which the store survives as it does SIGKILL.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from typing import Final

from avx_events import AvxEventsError
from examples.production_service.http.app import http_app
from examples.production_service.http.connections import DEFAULT_LIMITS
from examples.production_service.http.server import Server, address_of, allow_open_files, listen
from examples.production_service.logs import configure_logs
from examples.production_service.service import DRAIN_TIMEOUT_S, Service, running_service
from examples.production_service.settings import BIND_ADDR, STORE_URL, SettingError, Settings, settings_from

STOP_TIMEOUT_S: Final = (
    DEFAULT_LIMITS.requests_timeout_s + 2 * DRAIN_TIMEOUT_S + 5
)  # requests, the relay's batch, the bus, the rest

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


async def serve(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises:
        SettingError: The address cannot be listened on, or the store cannot be opened.
    """
    async with AsyncExitStack() as parts:
        listener = parts.enter_context(_listener(settings))
        service = await _entered(parts, settings)
        server = Server(http_app(service))

        def stop() -> None:
            log.info("stopping")
            service.is_stopping = True
            server.stop()
            signal.alarm(STOP_TIMEOUT_S)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        base = f"http://{address_of(listener)}"
        print(_GREETING.format(base=base, store_url=settings.store_url, stop_s=STOP_TIMEOUT_S), flush=True)
        await server.serve(sockets=[listener])


def _listener(settings: Settings) -> socket.socket:
    try:
        return listen(settings.host, settings.port)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        address = f"{settings.host}:{settings.port}"
        advice = f"set {BIND_ADDR} to another, as 127.0.0.1:0 for a port that is free"
        raise SettingError(BIND_ADDR, f"{address} cannot be listened on: {reason}; {advice}") from exc


async def _entered(parts: AsyncExitStack, settings: Settings) -> Service:
    try:
        return await parts.enter_async_context(running_service(settings.store_url))
    except AvxEventsError as exc:
        raise SettingError(STORE_URL, f"cannot be used: {exc}") from exc


def main() -> int:
    """Run the service, and return the exit code of the process."""
    configure_logs()
    allow_open_files()
    try:
        asyncio.run(serve(settings_from(os.environ)))
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
