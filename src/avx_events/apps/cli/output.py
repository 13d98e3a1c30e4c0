"""What commands print: tables and lines for people, JSON for programs, progress while it takes long.

With ``--json`` a command that lists things prints one object a line; one that tells of one thing prints one document.
Colours and progress are for terminals only, and ``NO_COLOR`` is obeyed.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from avx_events.store.audited_event import plain

AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs.")]
"""The option of every command that prints something."""

Document: TypeAlias = dict[str, Any]

# A table in a pipe is as wide as it needs to be.
_WIDE: Final = 10_000


def print_line(line: str) -> None:
    """Print a line at once, so that who reads a pipe has it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_json(document: object) -> None:
    """Print a document in one line."""
    print_line(msgspec.json.encode(document).decode())


def print_document(document: object) -> None:
    """Print a document in many lines, as people and programs can read it."""
    print_line(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_rows(columns: Sequence[str], documents: Iterable[Document], *, as_json: bool, nothing: str) -> None:
    """Print documents as a table, or one a line.

    Args:
        columns: The fields that the table has, in this order.
        documents: What to print.
        as_json: Print all fields of each in a line.
        nothing: What is said to people on stderr where there are none.
    """
    if as_json:
        for document in documents:
            print_json(document)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " ").upper(), overflow="fold")
    for document in documents:
        table.add_row(*(Text(shown(document.get(column))) for column in columns))
    if table.row_count:
        console().print(table)
    else:
        note(nothing)


def print_fields(document: Document, *, as_json: bool) -> None:
    """Print one document: a line for each field, or JSON."""
    if as_json:
        print_document(document)
        return
    width = max(map(len, document), default=0)
    for name, value in document.items():
        label = name.replace("_", " ")
        for number, line in enumerate(_lines(value)):
            print_line(f"{label if number == 0 else '':<{width}}  {line}".rstrip())


def note(text: str) -> None:
    """Tell people something that is not what they asked for; programs read stdout."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def console() -> Console:
    """Return what tables are printed on: in a pipe without colours, and as wide as they need to be."""
    return Console(width=None if sys.stdout.isatty() else _WIDE)


def problem(text: str) -> None:
    """Tell in one line what went wrong."""
    note(f"avx-events: {' '.join(text.split())}")


@asynccontextmanager
async def while_somebody_reads() -> AsyncGenerator[None, None]:
    """End the block when nobody reads the pipe that is printed to, though nothing is printed.

    Raises:
        BrokenPipeError: Nobody does.
    """
    loop = asyncio.get_running_loop()
    deadline = asyncio.timeout(None)
    fd = _pipe()
    if fd is not None:  # who can only be written to is "readable" when its reader has gone
        loop.add_reader(fd, _expire, fd, deadline)
    try:
        async with deadline:
            yield
    except TimeoutError as exc:
        if deadline.expired():
            raise BrokenPipeError from exc
        raise
    finally:
        if fd is not None:
            loop.remove_reader(fd)


def shown(value: object) -> str:
    """Return a value as a table has it: nothing that a terminal would obey, instants to the second."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, cast("Sequence[object]", value)))
    if isinstance(value, dict | msgspec.Raw):
        return plain(msgspec.json.encode(value).decode())
    return plain(f"{value:.1f}" if isinstance(value, float) else str(value))


@contextmanager
def progress(what: str, total: int) -> Generator[Callable[[], None], None, None]:
    """Show on a terminal how many of ``total`` steps are done; give what is to be called after each."""
    if not total or not sys.stderr.isatty():
        yield _nothing
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _pipe() -> int | None:
    try:
        fd = sys.stdout.fileno()
        return fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
    except (OSError, ValueError):  # it is none of the system's, or closed
        return None


def _expire(fd: int, deadline: asyncio.Timeout) -> None:
    loop = asyncio.get_running_loop()
    loop.remove_reader(fd)  # it would tell so again and again
    deadline.reschedule(loop.time())


def _nothing() -> None:
    pass


def _lines(value: object) -> list[str]:
    if isinstance(value, str) and "\n" in value:  # a traceback
        return [plain(line) for line in value.rstrip("\n").split("\n")]
    if isinstance(value, list):
        return [*map(shown, cast("list[object]", value))] or ["-"]
    return [shown(value)]
