"""One of several processes that answer on one socket: ``python -m examples.production_service.worker DESCRIPTOR``.

``workers`` starts it, with the socket as an open descriptor and a pipe as standard input, whose end says that it is
alone. It says ``READY`` on standard output when it serves. Exit codes are those of the service.
"""

import socket
import sys
from typing import Final

from avx_events.observability import SettingError, Settings
from examples.production_service.serving import prepare, run

READY: Final = "ready"


def main() -> int:
    """Serve until told to stop, and return the exit code of the process."""
    try:
        settings = Settings.load()
        prepare(settings)
        with socket.socket(fileno=int(sys.argv[1])) as listener:
            run(settings, listener, announce=lambda: print(READY, flush=True), owner=sys.stdin.fileno())
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
