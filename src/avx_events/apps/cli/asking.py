"""What is asked before something goes for good, and the text that people edit."""

import asyncio
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from avx_events.apps.cli.output import note
from avx_events.apps.cli.signals import at_once, go_on, handled_by
from avx_events.core.errors import InvalidArgumentError, UsageError

Yes: TypeAlias = Annotated[bool, Parameter(name="--yes", help="Do not ask.")]
"""The option of every command after which something is gone."""


def is_confirmed(question: str, *, yes: bool) -> bool:
    """Return whether it is to be done: ``yes``, or what is answered on the terminal.

    Raises:
        UsageError: There is no terminal to ask on.
    """
    if yes:
        return True
    if not has_terminal():
        raise UsageError(f"nobody can be asked here; give --yes if that is meant: {question}")
    with at_once():
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
    if answer.strip().lower() in {"y", "yes"}:
        return True
    note("nothing was done")
    return False


def has_terminal() -> bool:
    """Tell whether stdin is a terminal, at which somebody may sit."""
    stdin: Any = sys.stdin  # None where it is closed, as after <&-
    return stdin is not None and bool(stdin.isatty())


async def edited(text: str) -> str:
    """Return ``text`` as the user leaves it in the editor of ``$VISUAL`` or ``$EDITOR``, to which Ctrl-C belongs.

    The loop goes on meanwhile, so that what is claimed stays claimed. Where it is cancelled the editor is killed.

    Raises:
        InvalidArgumentError: No editor is named, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise InvalidArgumentError("EDITOR", editor, expected="the name of an editor; or give the data with --data")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "event.json"
        path.write_text(text, "utf-8")
        try:
            code = await _run([*shlex.split(editor), str(path)])
        except (OSError, ValueError) as exc:
            raise _ends_badly(editor, exc) from exc
        if code:
            raise _ends_badly(editor, f"its exit code is {code}")
        return path.read_text("utf-8")


async def _run(command: Sequence[str]) -> int:
    """Run a command and return its exit code; it is killed where this is cancelled."""
    with handled_by(go_on, signal.SIGINT):
        process = await asyncio.create_subprocess_exec(*command)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _ends_badly(editor: str, why: object) -> InvalidArgumentError:
    return InvalidArgumentError("EDITOR", editor, expected=f"an editor that ends well ({why})")
