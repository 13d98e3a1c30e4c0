"""The one place where tasks start: each has an owner, and the owner leaves nothing running."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any

log = logging.getLogger("avx_events")

# How long a cancelled task may take to clean up before it is reported and left to itself.
CLEANUP_GRACE_S = 1.0


def is_interrupted(error: BaseException) -> bool:
    """Tell whether ``error`` is the cancellation of the running task, or the end of its loop.

    Whatever else a user's code raises, a ``CancelledError`` of its own included, is its failure.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs: the coroutine is being closed
        return True
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def wake(waiter: asyncio.Future[None]) -> None:
    """Let the one go on who waits for ``waiter``; harmless where nobody does any more, or its loop is closed."""
    if not waiter.done() and not waiter.get_loop().is_closed():
        waiter.set_result(None)


def settle_all(futures: Iterable[asyncio.Future[Any]], outcomes: Iterable[object]) -> None:
    """Tell those who wait for ``futures`` their outcomes, as many as there are futures; errors are raised there."""
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class Changes:
    """Lets those look again who wait for something to be otherwise, each time that it may be.

    Attributes:
        told: How many changes there were.
    """

    __slots__ = ("_waiters", "told")

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._waiters: set[asyncio.Future[None]] = set()
        self.told = 0

    def tell(self) -> None:
        """Let all who wait look again."""
        self.told += 1
        for waiter in self._waiters:
            wake(waiter)

    async def wait(self, *, since: int | None = None) -> None:
        """Return at the next change; at once where there were more than ``since``, as of a look that took a while."""
        if since is not None and self.told > since:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


class OwnedTask(asyncio.Task[None]):
    """A task that can tell its own wish to be cancelled, which it made inside of itself, from everybody else's."""

    _own_wishes = 0

    def cancel(self, msg: object = None) -> bool:
        """Cancel the task, as ``asyncio.Task`` does."""
        if asyncio.current_task(self.get_loop()) is self:
            self._own_wishes += 1
        return super().cancel(msg)

    def forgive(self) -> bool:
        """Take the own wishes back; False where somebody else wants it to end, too."""
        for _ in range(self._own_wishes):
            self.uncancel()
        self._own_wishes = 0
        return not self.cancelling()


class TaskScope:
    """A set of tasks that end with their owner.

    A task that fails is a bug of this package, not of a handler: it is logged and given to ``on_crash``.
    """

    __slots__ = ("_on_crash", "_tasks")

    def __init__(self, on_crash: Callable[[BaseException], None] | None = None) -> None:
        """``on_crash`` is called on the loop with what a task failed of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_crash = on_crash

    def __len__(self) -> int:
        """Count the tasks that still run."""
        return len(self._tasks)

    def spawn(
        self, coroutine: Coroutine[object, object, None], *, name: str, context: Context | None = None
    ) -> OwnedTask:
        """Run ``coroutine`` as a task of this scope, on the running loop; in ``context``, or a copy of the caller's."""
        task = OwnedTask(coroutine, loop=asyncio.get_running_loop(), name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def release(self, task: asyncio.Task[None]) -> None:
        """Stop waiting for ``task``; it was reported as stuck."""
        self._tasks.discard(task)

    async def finish(self, *, grace_s: float = CLEANUP_GRACE_S) -> list[asyncio.Task[None]]:
        """Wait up to ``grace_s`` seconds for what runs, and cancel what takes longer.

        Returns:
            As ``cancel``.
        """
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        return await self.cancel(grace_s=grace_s)

    async def cancel(self, *, grace_s: float = CLEANUP_GRACE_S) -> list[asyncio.Task[None]]:
        """Cancel what runs and wait up to ``grace_s`` seconds for it.

        Returns:
            The tasks that swallowed their cancellation and still run; the scope owns them no longer.
        """
        tasks = set(self._tasks)
        if not tasks:
            return []
        for task in tasks:
            task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=grace_s)
        for task in stuck:
            self._tasks.discard(task)
        return list(stuck)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.critical("%s failed; this is a bug in avx-events", task.get_name(), exc_info=error)
        if self._on_crash is not None:
            self._on_crash(error)
