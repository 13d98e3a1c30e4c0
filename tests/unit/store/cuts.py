"""Cancels a call at each of the places where it can be cancelled, one after the other."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from types import coroutine
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")

DEADLINE_S: Final = 20


class Moment(Enum):
    """When, at a place where the call waits for something, the cancellation comes."""

    WAITING = "as soon as it waits"
    READY = "when what it waits for has come, and the call does not know it yet"


class Cut:
    """The cancellation of a call at the ``place``-th time that it waits, counted from 0."""

    def __init__(self, place: int, moment: Moment) -> None:
        self.place = place
        self.moment = moment
        self.has_happened = False

    async def __call__(self, call: Awaitable[ResultT]) -> ResultT | None:
        """Await ``call``; return what it returns, or None where it was cancelled."""
        task = asyncio.current_task()
        assert task is not None
        try:
            result: ResultT = await _cut(call, self, task)
        except asyncio.CancelledError:
            assert self.has_happened
            task.uncancel()
            return None
        assert not self.has_happened, "the cancellation was swallowed"
        return result

    def make(self, task: asyncio.Task[Any], waited_for: "asyncio.Future[Any] | None") -> None:
        """Cancel ``task``, which is about to wait, now or as soon as it need not wait any more."""
        self.has_happened = True
        if self.moment is Moment.WAITING or waited_for is None:
            task.cancel()
        else:  # before the task's own callback, so that the result is there and the task has not gone on
            waited_for.add_done_callback(lambda _: task.cancel())


@coroutine
def _cut(call: Awaitable[Any], cut: Cut, task: asyncio.Task[Any]) -> Generator[Any, Any, Any]:
    # What ``yield from call.__await__()`` does, with a look at each thing that is waited for.
    steps: Any = call.__await__()
    step: Callable[[], Any] = partial(steps.send, None)
    for place in itertools.count():
        try:
            waited_for = step()
        except StopIteration as end:
            return end.value
        if place == cut.place:
            cut.make(task, waited_for)
        try:
            yield waited_for
        except BaseException as exc:  # noqa: BLE001 - thrown into the call, as it would be without us
            step = partial(steps.throw, exc)
        else:
            step = partial(steps.send, None)
    return None


def at_every_place(folder: Path, scenario: Callable[[Path, Cut], Coroutine[Any, Any, None]]) -> int:
    """Run ``scenario`` once for each place and moment, on a loop and in a folder of its own, until it is not cut.

    No thread, no task and no open file may be left by any of them.

    Returns:
        How many runs were cut.
    """
    cuts = 0
    for moment in Moment:
        for place in itertools.count():
            cut = Cut(place, moment)
            own_folder = folder / f"{moment.name}-{place}"
            own_folder.mkdir()
            _run(scenario(own_folder, cut), own_folder)
            if not cut.has_happened:
                break
            cuts += 1
    return cuts


def _run(scenario: Coroutine[Any, Any, None], folder: Path) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scenario
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = set(threading.enumerate())
    asyncio.run(with_deadline())
    assert set(threading.enumerate()) == before
    assert open_files(folder) == []


def open_files(folder: Path) -> list[Path]:
    """Return the files of ``folder`` that this process has open; none where the system does not tell."""
    found: list[Path] = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(descriptor.readlink())
    return [path for path in found if path.is_relative_to(folder)]
