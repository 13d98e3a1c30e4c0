"""The one loop of the one process that an engine belongs to, with its threads and connections."""

import asyncio
import os
import threading
import weakref
from typing import Final

from avx_events.core.errors import ClosedError, WrongLoopError

_WHAT: Final = "the event store"


class OwningLoop:
    """Refuses calls from another loop, another thread, a fork, and after the close.

    Attributes:
        loop: The loop.
    """

    def __init__(self) -> None:
        """Belong to the running loop."""
        self.loop: Final = asyncio.get_running_loop()
        self._thread_id: Final = threading.get_ident()
        self._is_closed = False
        self._is_forked = False
        _all.add(self)

    def check(self, action: str) -> None:
        """Raise where ``action`` cannot be done here or now.

        Raises:
            ClosedError: The engine is closed.
            WrongLoopError: It belongs to another loop.
        """
        if self._is_closed:
            raise ClosedError(_WHAT, action)
        # What asyncio.get_running_loop() would tell, without its system call: a thread runs one loop at a time.
        if threading.get_ident() != self._thread_id or not self.loop.is_running() or self._is_forked:
            raise WrongLoopError(_WHAT, action)

    def close(self) -> None:
        """Refuse what comes later. Harmless when repeated.

        Raises:
            WrongLoopError: The loop still runs, and is another one, or this process is a fork; nothing was closed.
        """
        if self._is_forked or (self.loop.is_running() and asyncio.get_running_loop() is not self.loop):
            raise WrongLoopError(_WHAT, "close")
        self._is_closed = True

    def leave_to_parent(self) -> None:
        """Refuse everything: this process is a fork of the one that opened the engine."""
        self._is_forked = True


# A fork has none of the threads, and must not use the connections: SQLite forbids it, and servers would be confused.
_all: "weakref.WeakSet[OwningLoop]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for owner in _all:
        owner.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
