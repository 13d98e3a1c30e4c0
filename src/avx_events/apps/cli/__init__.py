"""The command line ``avx-events``: look at a broker or a store, and set right what went wrong there."""

import sys
from typing import Final

FAILED: Final = 1
"""The exit code of what failed, or could not be reached."""


def main() -> None:
    """Run the command line with the arguments of the process, and exit with its code.

    Raises:
        SystemExit: Always; ``run`` says with which code.
    """
    try:
        from avx_events.apps.cli.program import run  # noqa: PLC0415 - it needs the cli extra
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in {"cyclopts", "rich"}:
            raise
        print("avx-events needs the cli extra: pip install 'avx-events[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(FAILED)
    sys.exit(run(sys.argv[1:]))
