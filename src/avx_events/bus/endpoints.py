"""Turns a user's handler, ``async def`` or ``def``, into what a worker awaits."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from avx_events.core.callables import describe, is_async, required_positional
from avx_events.core.errors import HandlerDefinitionError

Endpoint = Callable[..., Awaitable[Any]]

_MOST_PARAMETERS = 2


class Threads:
    """The threads of one bus, in which plain functions run; made when the first of them is called.

    A thread cannot be interrupted: a function that never returns keeps its thread, and the process, alive.
    """

    __slots__ = ("_executor", "_most")

    def __init__(self) -> None:
        """Begin without threads."""
        self._most = 0
        self._executor: ThreadPoolExecutor | None = None

    def reserve(self, count: int) -> None:
        """Allow ``count`` more of them, so that no handler waits for another's thread."""
        self._most += count
        if self._executor is not None:
            # Grows by itself up to this bound; there is no public way to raise it on one that runs.
            self._executor.shutdown(wait=False)
            self._executor = None

    async def run(self, function: Callable[..., object], *args: object) -> object:
        """Return what ``function`` returns, called in a thread with the caller's context."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max(self._most, 1), thread_name_prefix="avx-events handler")
        call = partial(copy_context().run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Let the threads end; one whose function does not return is left to itself."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


def endpoint_for(function: Callable[..., Any], threads: Threads, *, most: int) -> tuple[Endpoint, bool]:
    """Return what to await for each event, and whether it takes the envelope as its second argument.

    Args:
        function: The handler: takes an event, and its envelope if it has a second parameter.
        threads: Where it runs if it is a plain function.
        most: How often at the same time, at most.

    Raises:
        HandlerDefinitionError: It cannot be called with one or two arguments by position.
    """
    takes_envelope = _takes_envelope(function)
    if is_async(function):
        return function, takes_envelope
    threads.reserve(most)

    async def in_thread(*args: object) -> object:
        result = await threads.run(function, *args)
        # A plain function may still have made a coroutine, as a decorator without async def does.
        return await result if inspect.isawaitable(result) else result

    return in_thread, takes_envelope


def _takes_envelope(function: Callable[..., object]) -> bool:
    try:
        parameters = required_positional(function)
    except (TypeError, ValueError) as exc:
        raise HandlerDefinitionError(describe(function), f"it cannot be called with an event: {exc}") from exc
    if 1 <= len(parameters) <= _MOST_PARAMETERS:
        return len(parameters) == _MOST_PARAMETERS
    problem = f"it must take the event, or the event and its envelope, not {len(parameters)} arguments by position"
    raise HandlerDefinitionError(describe(function), problem)
