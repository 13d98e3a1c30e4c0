"""What the application's own code raises, told as its developers want it: in their frames, and not in ours."""

import sysconfig
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import TracebackException
from typing import Final

import avx_events
from avx_events.apps.cli.output import is_unread
from avx_events.core.errors import AvxEventsError, RetryableError

_OURS: Final = str(Path(avx_events.__file__).parent)
_PYTHON: Final = sysconfig.get_path("stdlib")


class ApplicationError(Exception):
    """The application's own code failed, whatever it raised.

    Attributes:
        lines: Where, as Python writes it, of its own frames and those of the libraries that it calls.
    """

    def __init__(self, place: str, error: BaseException) -> None:
        """Name the code by its ``place``, as 'shop.app:bus', and what it raised."""
        super().__init__(f"{place} failed: {type(error).__name__}: {error}")
        told = TracebackException.from_exception(error)
        is_told = _has_own_frames(error) or isinstance(error, SyntaxError)
        self.lines = tuple(_lines(_in_own_frames(told))) if is_told else ()


@contextmanager
def application_code(place: str) -> Generator[None, None, None]:
    """Run the application's own code in the block.

    Errors of the library pass, as that a server is away, unless it was that code which did what they refuse; so does
    that nobody reads what it prints.

    Args:
        place: Where it is, as 'shop.app:bus'.

    Raises:
        ApplicationError: It raised something, or wanted to end the process.
    """
    try:
        yield
    except (Exception, SystemExit) as exc:
        if _passes(exc):
            raise
        raise ApplicationError(place, exc) from exc


def _passes(error: BaseException) -> bool:
    if isinstance(error, BrokenPipeError):
        return is_unread()
    is_ours = isinstance(error, AvxEventsError) and not _has_own_frames(error)
    return is_ours or isinstance(error, RetryableError | ApplicationError)


def _has_own_frames(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if _is_own(traceback.tb_frame.f_code.co_filename):
            return True
        traceback = traceback.tb_next
    return False


def _is_own(file: str) -> bool:
    is_python = file.startswith(("<frozen ", _PYTHON)) and "site-packages" not in file
    return not is_python and not file.startswith(_OURS)


def _in_own_frames(told: TracebackException) -> TracebackException:
    """Leave out frames of ours and Python's, and errors that came before only because we tried once more."""
    told.stack[:] = [frame for frame in told.stack if _is_own(frame.filename)]
    if told.__cause__ is not None:
        _in_own_frames(told.__cause__)
    if told.__context__ is not None:
        before = _in_own_frames(told.__context__)
        if not before.stack or str(before) == str(told):
            told.__context__ = None
    for one in told.exceptions or ():
        _in_own_frames(one)
    return told


def _lines(told: TracebackException) -> Iterator[str]:
    for text in told.format():
        yield from text.rstrip("\n").split("\n")
