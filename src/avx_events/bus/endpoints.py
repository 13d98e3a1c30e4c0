"""Turns a user's handler, ``async def`` or ``def``, into what a worker awaits."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from avx_events.core.callables import call_in_thread, describe, is_async, required_positional
from avx_events.core.errors import HandlerDefinitionError

Endpoint = Callable[..., Awaitable[Any]]

_MOST_PARAMETERS = 2


class Threads:
    """The threads of one bus, in which plain functions run: each function has its own, made when it is first called.

    A thread cannot be interrupted: a function that never returns keeps its thread, and the process, alive. No other
    function waits for that thread.
    """

    __slots__ = ("_executors",)

    def __init__(self) -> None:
        """Begin without threads."""
        self._executors: list[ThreadPoolExecutor] = []

    def endpoint(self, function: Callable[..., Any], *, most: int) -> Endpoint:
        """Return what calls ``function`` in one of ``most`` threads of its own, with the caller's context."""
        executor = ThreadPoolExecutor(most, thread_name_prefix=f"avx-events {describe(function)}")
        self._executors.append(executor)

        async def in_thread(*args: object) -> object:
            call = partial(copy_context().run, call_in_thread, function, *args)
            result = await asyncio.get_running_loop().run_in_executor(executor, call)
            # A plain function may still have made a coroutine, as a decorator without async def does.
            return await result if inspect.isawaitable(result) else result

        return in_thread

    def close(self) -> None:
        """Let the threads end; one whose function does not return is left to itself."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)


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
    return threads.endpoint(function, most=most), takes_envelope


def _takes_envelope(function: Callable[..., object]) -> bool:
    try:
        parameters = required_positional(function)
    except (TypeError, ValueError) as exc:
        raise HandlerDefinitionError(describe(function), f"it cannot be called with an event: {exc}") from exc
    if 1 <= len(parameters) <= _MOST_PARAMETERS:
        return len(parameters) == _MOST_PARAMETERS
    problem = f"it must take the event, or the event and its envelope, not {len(parameters)} arguments by position"
    raise HandlerDefinitionError(describe(function), problem)
