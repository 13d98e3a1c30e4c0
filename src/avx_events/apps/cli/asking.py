"""What is asked before something goes for good, and the text that people edit."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from avx_events.apps.cli.output import note
from avx_events.core.errors import InvalidArgumentError

Yes: TypeAlias = Annotated[bool, Parameter(name="--yes", help="Do not ask.")]
"""The option of every command after which something is gone."""


def is_confirmed(question: str, *, yes: bool) -> bool:
    """Return whether it is to be done: ``yes``, or what is answered on the terminal.

    Raises:
        InvalidArgumentError: There is no terminal to ask on.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidArgumentError("--yes", yes, expected=f"given where nobody can be asked: {question}")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    note("nothing was done")
    return False


def edited(text: str) -> str:
    """Return ``text`` as the user leaves it in the editor of ``$VISUAL`` or ``$EDITOR``.

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
            subprocess.run([*shlex.split(editor), str(path)], check=True)  # noqa: S603 - it is what the user asks for
        except (OSError, ValueError, subprocess.CalledProcessError) as exc:
            raise InvalidArgumentError("EDITOR", editor, expected=f"an editor that ends well ({exc})") from exc
        return path.read_text("utf-8")
