"""Runs the service until SIGTERM or SIGINT tells it to stop: ``python -m examples.production_service``.

It stops in a fraction of a second, or where clients or handlers are slow within ``stop_timeout_s``: there are no new
connections, the requests that are there are answered, handlers finish what they have, the store is closed. What was
answered with 201 is in the store; what a handler or a read model had not done by then goes on after the next start.

Exit codes: 0 after a clean stop, 2 where a setting cannot be used or the port is taken. What hangs beyond that time is
ended by SIGALRM, which the store survives as it does SIGKILL.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from avx_events.observability import SettingError, Settings
from examples.production_service.http.pages import has_console
from examples.production_service.http.server import address_of
from examples.production_service.serving import open_listener, prepare, run, stop_timeout_s
from examples.production_service.workers import Workers

_GREETING: Final = """
  Users and orders, event sourced.

    listening on  {base}
    events in     {store_url}
    console       {console}

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
  What to do when one of its handlers fails: docs/tutorial/5-a-failing-handler.md

  Ctrl+C stops it, within {stop_s} seconds at most. Started again, everything is there.
"""

_LONGEST_FOLDER: Final = 96  # bytes: a socket's whole name has 104 on some systems

log = logging.getLogger(__name__)


def greet(settings: Settings, address: str) -> None:
    """Say where it listens, and what to try."""
    base = f"http://{address}"
    console = f"{base}/console/" if has_console() else "needs the extra: pip install 'avx-events[console]'"
    stop_s = stop_timeout_s(settings)
    print(_GREETING.format(base=base, store_url=settings.events.store_url, console=console, stop_s=stop_s), flush=True)


def main() -> int:
    """Run the service, and return the exit code of the process."""
    code = 0
    try:
        settings = Settings.load()
        _check_workers(settings)
        prepare(settings)
        with open_listener(settings) as listener:
            address = address_of(listener)
            if settings.events.workers == 1:
                run(settings, listener, announce=lambda: greet(settings, address))
            else:
                code = _run_workers(settings, listener, announce=lambda: greet(settings, address))
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    log.info("stopped")
    return code


def _run_workers(settings: Settings, listener: socket.socket, *, announce: Callable[[], None]) -> int:
    try:
        meeting_place = TemporaryDirectory(prefix="avx-")
    except OSError as exc:
        raise SettingError(
            "TMPDIR", f"must be a folder that can be written to: {exc}", source="the environment"
        ) from exc
    with meeting_place as folder:
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            problem = f"must be shorter: with {folder} in front, names of sockets would be too long"
            raise SettingError("TMPDIR", problem, source="the environment")
        workers = Workers(listener, count=settings.events.workers, folder=Path(folder), announce=announce)
        return asyncio.run(workers.run())


def _check_workers(settings: Settings) -> None:
    """Refuse several workers of which each would have a store of its own.

    Raises:
        SettingError: The store is in memory.
    """
    if settings.events.workers > 1 and settings.events.store_url.partition("?")[0] == "sqlite://":
        problem = "must be a file or PostgreSQL where there are several workers: each would have a memory of its own"
        raise SettingError("AVX_EVENTS__STORE_URL", problem, source="the settings")


if __name__ == "__main__":
    sys.exit(main())
