"""The command line ``avx-events``: look at a broker or a store, and set right what went wrong there."""

import os
import sys
from pathlib import Path
from typing import Any, Final, cast

FAILED: Final = 1
"""The exit code of what failed, or could not be reached."""


def main() -> None:
    """Run the command line with the arguments of the process, and exit with its code.

    Raises:
        SystemExit: Unless a signal ended it; ``run`` says with which code.
    """
    _prepare_output()
    try:
        from avx_events.apps.cli.program import run  # noqa: PLC0415 - it needs the cli extra
        from avx_events.apps.cli.signals import ENDED_BY_SIGNAL  # noqa: PLC0415 - it takes its time
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in {"cyclopts", "rich"}:
            raise
        print("avx-events needs the cli extra: pip install 'avx-events[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(FAILED)
    code = run(sys.argv[1:])
    if code in ENDED_BY_SIGNAL:  # a thread of the application's own code may never end, and would be waited for
        os._exit(code)
    sys.exit(code)


def _prepare_output() -> None:
    """Have a place for what is told on stderr, and none that refuses a character."""
    if cast("Any", sys.stderr) is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
