"""The program: all commands under one name, and how what happens becomes an exit code.

| code | what it says |
|---|---|
| 0 | it was done; or the reader of a pipe has read enough |
| 1 | it failed, what it asked for is not there, or a server is away |
| 2 | the command was not understood |
| 130 | it was interrupted by Ctrl-C |
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from cyclopts import App, CycloptsError, Parameter

from avx_events.apps.cli.commands import command_modules
from avx_events.apps.cli.output import problem
from avx_events.core.errors import AvxEventsError

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

_HELP: Final = """Look at events in brokers and stores, and set right what went wrong with them.

URLs are those of the library: redis://, nats://, kafka:// for brokers; sqlite:///file.db, postgresql:// for stores.
With --json the output is for programs. Exit codes: 0 done, 1 failed or away, 2 not understood, 130 interrupted.
"""


_COMPLETION: Final = "Let your shell complete the commands, and say where that was written."


def program() -> App:
    """Return the program with all its commands."""
    app = App(
        name="avx-events",
        help=_HELP,
        help_format="plaintext",
        version=version("avx-events"),
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    complete: Any = app  # its signature has arguments without types
    complete.register_install_completion_command(help=_COMPLETION)
    for module in command_modules():
        module.add_to(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command, and return its exit code; nothing that people can do wrong gives a traceback."""
    try:
        code = program()(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as exc:
        problem(f"{exc} Try 'avx-events --help'.")
        return MISUSED
    except AvxEventsError as exc:
        problem(str(exc))
        return FAILED
    except BrokenPipeError:
        _forget_output()
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else DONE


def _forget_output() -> None:
    """Keep the interpreter from writing to the broken pipe once more, as it does at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
