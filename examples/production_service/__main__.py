"""Runs the service until SIGTERM or SIGINT tells it to stop: ``python -m examples.production_service``.

It stops within ``STOP_TIMEOUT_S`` seconds, mostly in a fraction of one: no new connections, the requests that are there
are answered, handlers finish what they have, the store is closed. What was answered with 201 is in the store; what the
relay or a read model had not done by then goes on after the next start.

Exit codes: 0 after a clean stop, 2 where a setting cannot be used or the port is taken.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

import uvicorn

from avx_events import AvxEventsError
from examples.production_service import relay, service
from examples.production_service.http.app import http_app
from examples.production_service.logs import configure_logs
from examples.production_service.service import running_service
from examples.production_service.settings import BIND_ADDR, STORE_URL, SettingError, Settings, settings_from

REQUESTS_TIMEOUT_S: Final = 5
STOP_TIMEOUT_S: Final = REQUESTS_TIMEOUT_S + relay.DRAIN_TIMEOUT_S + service.DRAIN_TIMEOUT_S + 5.0

_MOST_CONNECTIONS: Final = 1_000  # more are answered with 503 at once, instead of all of them late
_BACKLOG: Final = 2_048
_HINTS: Final = """
  users and orders, event sourced
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
    curl {base}/orders -d "{{\\"user_id\\": \\"$ID\\", \\"total\\": 12.5}}"
    curl {base}/ready
    curl {base}/metrics

  Ctrl+C stops it; started again, everything is there.
"""


class Server(uvicorn.Server):
    """A server that leaves signals to its owner: uvicorn raises them again when it is done, and nothing would close."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Answer what is there and end; told a second time, end without that."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def serve(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises:
        SettingError: The address cannot be listened on, or the store cannot be opened.
    """
    async with AsyncExitStack() as parts:
        listener = parts.enter_context(_listen(settings))
        try:
            running = await parts.enter_async_context(running_service(settings.store_url))
        except AvxEventsError as exc:
            raise SettingError(STORE_URL, f"cannot be used: {exc}") from exc
        server = Server(
            uvicorn.Config(
                http_app(running),
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

        def stop() -> None:
            running.is_stopping = True
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        print(_HINTS.format(base=f"http://{_address_of(listener)}", store_url=settings.store_url), flush=True)
        await server.serve(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, as asyncio sets TCP_NODELAY only then: answers of two packets would take 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is no port in use
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as exc:
        listener.close()
        reason = exc.strerror if isinstance(exc, OSError) else exc
        address = _joined(settings.host, settings.port)
        raise SettingError(BIND_ADDR, f"{address} cannot be listened on: {reason}") from exc
    return listener


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return _joined(host, port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main() -> int:
    """Run the service, and return the exit code of the process."""
    configure_logs()
    try:
        asyncio.run(serve(settings_from(os.environ)))
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    logging.getLogger(__name__).info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
