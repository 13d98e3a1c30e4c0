"""What commands print: tables and lines for people, JSON for programs, progress while it takes long.

With ``--json`` a command that lists things prints one object a line; one that tells of one thing prints one document.
Colours and progress are for terminals only, and ``NO_COLOR`` is obeyed. What comes from outside is printed so that no
terminal obeys it: escaped as in Python for people, as in JSON for programs.
"""

import asyncio
import errno
import os
import re
import select
import stat
import sys
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeAlias, cast

import msgspec
from cyclopts import Parameter

from avx_events.store.audited_event import plain

if TYPE_CHECKING:
    from rich.console import Console

AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs.")]
"""The option of every command that prints something."""

Document: TypeAlias = dict[str, Any]

# A table in a pipe is as wide as it needs to be.
_WIDE: Final = 10_000
# A column that is given less room, as where COLUMNS is 0, would not be there at all.
_NARROWEST: Final = 4
# No name is longer. An error of megabytes takes a terminal's table minutes; it is whole where it is shown by itself.
_LONGEST_CELL: Final = 1024
_STDOUT: Final = "stdout"
# Who is in front of the host of a URL, and options of such a name.
_SECRET: Final = re.compile(r"(?<=://)[^\s/'\"]*(?=@)|(?i:(?<=password=)|(?<=token=)|(?<=secret=))[^\s&'\"]*")


class Step(Protocol):
    """Told that so many steps are done."""

    def __call__(self, steps: int = 1, /) -> None:
        """Go on by so many."""


def print_line(line: str) -> None:
    """Print a line at once, so that who reads a pipe has it."""
    _write(plain(line) + "\n")


def print_json(document: object) -> None:
    """Print a document in one line."""
    _write(_shown_json(msgspec.json.encode(document)) + "\n")


def print_document(document: object) -> None:
    """Print a document in many lines, as people and programs can read it."""
    _write(_shown_json(msgspec.json.format(msgspec.json.encode(document), indent=2)) + "\n")


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
    from rich.table import Table  # noqa: PLC0415 - as console
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " ").upper(), overflow="fold")
    for document in documents:
        table.add_row(*(Text(_cell(document.get(column))) for column in columns))
    if not table.row_count:
        note(nothing)
        return
    printer = console()
    printer.width = max(printer.width, _NARROWEST * len(columns))
    with errors_of_stdout():
        printer.print(table)


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
    """Tell people something that is not what they asked for, without passwords, which logs would keep."""
    with suppress(OSError):  # nobody listens, and there is nobody else to tell
        sys.stderr.write(_SECRET.sub("***", plain(text)) + "\n")
        sys.stderr.flush()


def console() -> "Console":
    """Return what tables are printed on: in a pipe without colours, and as wide as they need to be."""
    from rich.console import Console  # noqa: PLC0415 - it takes as long to load as all else, and lines do without it

    return Console(
        width=None if sys.stdout.isatty() else _WIDE,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def problem(text: str) -> None:
    """Tell in one line what went wrong."""
    note(f"avx-events: {' '.join(text.split())}")


def check_output() -> None:
    """Refuse to begin where nothing can be printed, as after ``>&-``: the next file would take its place.

    Raises:
        OSError: stdout is closed.
    """
    is_closed: bool = cast("Any", sys.stdout) is None
    if is_closed:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), _STDOUT)


def is_unread() -> bool:
    """Tell whether stdout is a pipe whose reader has gone."""
    fd = _pipe()
    if fd is None:
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


@contextmanager
def errors_of_stdout() -> Generator[None, None, None]:
    """Have errors say that it was stdout that could not be written.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        OSError: It cannot be written.
    """
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, exc.filename or _STDOUT) from exc  # of EPIPE it makes a BrokenPipeError
    except SystemExit as exc:  # how rich tells of a broken pipe
        raise (exc.__context__ if isinstance(exc.__context__, BrokenPipeError) else exc) from None


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
def progress(what: str, total: int) -> Generator[Step, None, None]:
    """Show on a terminal how many of ``total`` steps are done; give what is to be called after each, or after some."""
    if not total or not sys.stderr.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}:
        yield _nothing
        return
    from rich.console import Console  # noqa: PLC0415 - as console
    from rich.progress import (  # noqa: PLC0415 - likewise
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What is printed meanwhile stands above the bar; in a file or pipe it goes where it would go without a bar.
    is_above = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=is_above) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def _write(text: str) -> None:
    with errors_of_stdout():
        sys.stdout.write(text)
        sys.stdout.flush()


def _cell(value: object) -> str:
    text = shown(value)
    half = _LONGEST_CELL // 2
    return text if len(text) <= _LONGEST_CELL else f"{text[:half]}...{text[-half:]}"


def _shown_json(encoded: bytes) -> str:
    """Return JSON as text that stdout can take and no terminal obeys; it means the same."""
    text = encoded.decode()
    keeps_all = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    if keeps_all and text.replace("\n", "").isprintable():
        return text
    return "".join(sign if _is_safe(sign, keeps_all=keeps_all) else _escaped(sign) for sign in text)


def _is_safe(sign: str, *, keeps_all: bool) -> bool:
    return sign == "\n" or (sign.isprintable() and (keeps_all or sign.isascii()))


def _escaped(sign: str) -> str:
    """Return a character as JSON has it in a string, where alone it can be: in two halves, if need be."""
    halves = sign.encode("utf-16-be").hex()
    return "".join(f"\\u{halves[place : place + 4]}" for place in range(0, len(halves), 4))


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


def _nothing(steps: int = 1) -> None:
    del steps


def _lines(value: object) -> list[str]:
    if isinstance(value, str) and "\n" in value:  # a traceback
        return [plain(line) for line in value.rstrip("\n").split("\n")]
    if isinstance(value, list):
        return [*map(shown, cast("list[object]", value))] or ["-"]
    return [shown(value)]
