"""Ctrl-C and SIGTERM: the first ends a command in good order, another one ends it at once."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeAlias

from avx_events.apps.cli.output import note

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
# What shells add to the number of the signal that ended a command.
_BY_SIGNAL: Final = 128
# After how many seconds people are told why a command that was interrupted is still there.
_PATIENCE_S: Final = 2.0
_WAITING: Final = "what has begun is being ended; once more Ctrl-C ends it at once"
ENDED_BY_SIGNAL: Final = frozenset(_BY_SIGNAL + number for number in _ENDING)
"""The exit codes that say so."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the command.

    Attributes:
        code: The exit code that says so.
    """

    def __init__(self, number: int) -> None:
        """Keep the code of signal ``number``."""
        super().__init__()
        self.code = _BY_SIGNAL + number


def interrupt(number: int, _: FrameType | None) -> None:
    """Handle a signal by ending what runs now.

    Raises:
        Interrupted: Always.
    """
    raise Interrupted(number)


def go_on(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal by doing nothing; programs that are started get it all the same."""


@contextmanager
def handled_by(handler: Handler, *numbers: signal.Signals) -> Generator[None, None, None]:
    """Have ``handler`` called for ``numbers`` in the block; for SIGINT and SIGTERM where there are none.

    A signal that the process was told to ignore, as by nohup, stays ignored. Only the main thread handles signals.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers or _ENDING}
        before = {number: found for number, found in before.items() if found not in {signal.SIG_IGN, None}}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found)


@contextmanager
def at_once() -> Generator[None, None, None]:
    """Have a signal end the block at once: for what keeps the event loop from its turn, as the user's imports.

    Raises:
        Interrupted: A signal came.
        CancelledError: It had come before.
    """
    with handled_by(interrupt):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        yield


async def ended_by_signals(command: Coroutine[Any, Any, object]) -> object:
    """Return what ``command`` returns; where a signal cancelled it, the exit code that says so, once it has ended."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    code: int | None = None

    def cancel(number: int, frame: FrameType | None) -> None:
        nonlocal code
        if code is not None or task is None:
            interrupt(number, frame)
        code = _BY_SIGNAL + number
        if task is not None:
            task.cancel()
        loop.call_soon_threadsafe(loop.call_later, _PATIENCE_S, note, _WAITING)  # which also wakes a loop that sleeps

    with handled_by(cancel):
        try:
            result = await command
        except Interrupted as exc:  # raised here, it would be logged as an error of the task
            return exc.code
        except BaseException:
            if code is None:
                raise
            return code
        if code is None:
            return result
        with suppress(asyncio.CancelledError):  # it came when there was nothing left to cancel
            await asyncio.sleep(0)
        return code
