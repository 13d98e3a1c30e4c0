"""How the tests of a contract run: each on a loop of its own, for so long and no longer, with nothing left on it."""

# ruff: noqa: S101 - assert is how a test speaks

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

DEADLINE_S: Final = 30.0

_TASKS_END_WITHIN_S: Final = 1.0


def on_its_own_loop(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a loop of its own, within ``DEADLINE_S``; no plugin of pytest is needed.

    It fails where it leaves a task on that loop, or an error that nobody took.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_watched(test(*args, **kwargs)))

    return run


async def interrupted(work: Coroutine[object, object, ResultT], *, after_turns: int) -> ResultT | None:
    """Cancel ``work`` after so many turns of the loop; return what it gave if it was faster, or None."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        for _ in range(after_turns):
            await asyncio.sleep(0)
        task.cancel()
    return None if task.cancelled() else task.result()


async def _watched(test: Coroutine[object, object, None]) -> None:
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(str(context)))
    async with asyncio.timeout(DEADLINE_S):
        await test
    await asyncio.sleep(0)  # for what was left to the next turn
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_TASKS_END_WITHIN_S)
    assert not left, f"tasks were left behind: {left}"
    assert not problems, f"the event loop was told of errors that nobody took: {problems}"
