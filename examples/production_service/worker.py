"""One of several processes on one socket: ``python -m examples.production_service.worker DESCRIPTOR NUMBER FOLDER``.

``workers`` starts it, with the socket as an open descriptor, the number that it has among them, the folder where they
tell each other their figures, and a pipe as standard input, whose end says that it is alone. It says ``READY`` on
standard output when it serves. Exit codes are those of the service.
"""

import socket
import sys
from pathlib import Path
from typing import Final

from avx_events.observability import SettingError, Settings
from examples.production_service.serving import Place, prepare, run

READY: Final = "ready"


def main() -> int:
    """Serve until told to stop, and return the exit code of the process."""
    try:
        settings = Settings.load()
        prepare(settings)
        descriptor, number, folder = sys.argv[1:]
        place = Place(int(number), Path(folder), owner=sys.stdin.fileno())
        with socket.socket(fileno=int(descriptor)) as listener:
            run(settings, listener, announce=lambda: print(READY, flush=True), place=place)
    except SettingError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
