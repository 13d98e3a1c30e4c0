"""The program: all commands under one name, and how what happens becomes an exit code.

| code | what it says |
|---|---|
| 0 | it was done; or the reader of a pipe has read enough |
| 1 | it failed, what it asked for is not there, or a server is away |
| 2 | the command was not understood |
| 130 | it was interrupted by Ctrl-C |
| 143 | it was ended by SIGTERM |
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from inspect import iscoroutine
from typing import Any, Final

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from avx_events.apps.cli.application_code import ApplicationError
from avx_events.apps.cli.commands import PLACES, command_modules
from avx_events.apps.cli.output import check_output, errors_of_stdout, note, problem
from avx_events.apps.cli.signals import Interrupted, ended_by_signals, handled_by, interrupt
from avx_events.core.errors import AvxEventsError, InvalidArgumentError

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_HELP: Final = """Look at events in brokers and stores, and set right what went wrong with them.

URLs are those of the library: redis://, nats://, kafka:// for brokers; sqlite:///file.db, postgresql:// for stores.
With --json the output is for programs. Exit codes: 0 done, 1 failed or away, 2 not understood, 130 interrupted.
"""


_COMPLETION: Final = "Let your shell complete the commands, and say where that was written."


def program(command: str | None = None) -> App:
    """Return the program.

    Args:
        command: The only command that is wanted, so that the others need not be loaded; None for all.
    """
    app = App(
        name="avx-events",
        help=_HELP,
        help_format="plaintext",
        version=version("avx-events"),
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    if command not in PLACES:
        complete: Any = app  # its signature has arguments without types
        complete.register_install_completion_command(help=_COMPLETION)
    for module in command_modules(command):
        module.add_to(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command, and return its exit code; nothing that people can do wrong gives a traceback."""
    try:
        with handled_by(interrupt):
            return _code_of(arguments)
    except Interrupted as exc:
        return exc.code


def _code_of(arguments: Sequence[str]) -> int:
    try:
        code = _done(arguments)
    except CycloptsError as exc:
        problem(f"{_said(exc)} Try '{' '.join(('avx-events', *(exc.command_chain or ()), '--help'))}'.")
        return MISUSED
    except ApplicationError as exc:
        for line in exc.lines:
            note(line)
        problem(str(exc))
        return FAILED
    except AvxEventsError as exc:
        problem("; ".join([str(exc), *getattr(exc, "__notes__", ())]))  # a note says where it is in a store
        return FAILED
    except BrokenPipeError:
        _forget_output()
        return DONE
    except OSError as exc:  # of stdout, or of a file that is none of an engine's
        problem(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror or str(exc))
        _forget_output()
        return FAILED
    return code if isinstance(code, int) else DONE


def _said(exc: CycloptsError) -> str:
    if isinstance(exc, UnusedCliTokensError):
        return f"Too many arguments: {', '.join(map(repr, exc.unused_tokens or ()))}."
    return str(exc)


def _done(arguments: Sequence[str]) -> object:
    """Do what the arguments say, and return what the command returned."""
    check_output()
    for argument in arguments:
        _check_text(argument)
    app = program(arguments[0] if arguments else None)
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    with errors_of_stdout():  # which is where help goes
        result: object = command(*bound.args, **bound.kwargs)
    if iscoroutine(result):
        with asyncio.Runner() as runner:
            result = runner.run(ended_by_signals(result))
    sys.stdout.flush()
    return result


def _check_text(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError as exc:  # how Python keeps bytes that are none of the terminal's encoding
        raise InvalidArgumentError("argument", argument, expected="text in UTF-8") from exc


def _forget_output() -> None:
    """Keep the interpreter from writing to what takes no more, as it does at its end."""
    with suppress(AttributeError, OSError, ValueError):  # it is closed, or none of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
