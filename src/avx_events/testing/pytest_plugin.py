"""What the pytest plugin does once a test asks for it; pytest itself loads ``_avx_events_pytest``, which is small."""

import asyncio
import functools
import inspect
import reprlib
import textwrap
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import pytest

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, LetterFilter, MemoryDeadLetters
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.testing.clock import ManualClock
from avx_events.testing.differences import difference, differing_fields, one_line
from avx_events.testing.mock_bus import MockEventBus

Test = Callable[..., Awaitable[object]]

_TASKS_ARE_CALLED: Final = "avx-events "
_MOST_LETTERS: Final = 10_000
# How long handlers may work on when the test is over, in real seconds. On a manual clock, which nobody moves any more,
# only what is at work can still end.
_PATIENCE_S: Final = 5.0
_PATIENCE_ON_MANUAL_CLOCK_S: Final = 0.25


class WatchedLetters(MemoryDeadLetters):
    """Keeps dead letters in memory, and knows which of them nobody looked at.

    To list, get or count them is to look at them; a letter that failed again is a new one.

    Attributes:
        unseen: The others, oldest first, by their ids.
    """

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__(_MOST_LETTERS)
        self.unseen: dict[str, DeadLetter] = {}

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, which nobody has seen."""
        await super().put(letter)
        self.unseen[letter.id] = letter

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        self.unseen.pop(letter_id, None)
        return await super().get(letter_id)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        found = await super().select(letter_filter, after=after, limit=limit)
        for letter in found:
            self.unseen.pop(letter.id, None)
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter."""
        self.unseen.pop(letter_id, None)
        return await super().discard(letter_id)

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match."""
        for letter in [letter for letter in self.unseen.values() if letter_filter.matches(letter)]:
            del self.unseen[letter.id]
        return await super().purge(letter_filter)

    async def count(self) -> int:
        """Return how many letters there are."""
        self.unseen.clear()
        return await super().count()


class BusWatch:
    """The bus of one test, which runs while the test does, and what is to be said when it is over.

    Attributes:
        bus: The bus.
    """

    def __init__(self, clock: ManualClock | None) -> None:
        """Make a bus on ``clock``, or on the machine's."""
        self._letters = WatchedLetters()
        self._is_on_manual_clock = clock is not None
        self._left: list[str] = []
        queue = DeadLetterQueue(store=self._letters)
        self.bus = MockEventBus(dead_letter_queue=queue, clock=clock or SYSTEM_CLOCK)

    def around(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test at the ``yield``, with the bus if it is asynchronous; fail it if something was left over.

        The test is replaced and not called, so that it runs as ever: by the plugin for asynchronous tests that the
        project has, on the event loop of its choice.
        """
        test = getattr(item, "obj", None)
        was_running = self.bus.is_running
        is_async = inspect.iscoroutinefunction(test)
        if is_async:
            item.obj = self._with_bus(cast("Test", test))  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # all that have a function have it
        try:
            result = yield
        except (Exception, pytest.fail.Exception) as error:
            for complaint in self._complaints(item):
                error.add_note(f"\n{complaint}")
            raise
        finally:
            if is_async:
                item.obj = test  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above
        if self.bus.is_running and not was_running:
            self._left.append("mock_event_bus")
        complaints = self._complaints(item)
        if complaints:
            pytest.fail("\n\n".join(complaints), pytrace=False)
        return result

    def _with_bus(self, test: Test) -> Test:
        @functools.wraps(test)
        async def run(*args: Any, **kwargs: Any) -> object:
            __tracebackhide__ = True
            end = self.bus.settled if self.bus.is_running else self.bus.close  # who started it, a fixture, closes it
            await self.bus.start()
            before = self._running_beside()
            try:
                return await test(*args, **kwargs)
            finally:
                await self._await(end)
                self._left = sorted(self._running_beside() - before)

        return run

    async def _await(self, end: Callable[[], Awaitable[None]]) -> None:
        with suppress(TimeoutError):  # a close that is cancelled stops everything that still runs
            async with asyncio.timeout(_PATIENCE_ON_MANUAL_CLOCK_S if self._is_on_manual_clock else _PATIENCE_S):
                await end()

    def _running_beside(self) -> set[str]:
        """Return what runs of avx-events besides the bus, by name: a bus that ran before may have more workers now."""
        own = self.bus._engine.life.tasks._tasks  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of the same package
        names = [task.get_name() for task in asyncio.all_tasks() if task not in own]
        return {name.removeprefix(_TASKS_ARE_CALLED) for name in names if name.startswith(_TASKS_ARE_CALLED)}

    def _complaints(self, item: pytest.Item) -> list[str]:
        complaints: list[str] = []
        unseen = [letter for letter in self._letters.unseen.values() if not self._is_early(letter)]
        is_allowed = item.config.getini("avx_events_allow_dead_letters") or _is_marked(item, "allow_dead_letters")
        if unseen and not is_allowed:
            complaints.append(_about_letters(unseen))
        if self._left and not _is_marked(item, "allow_running_tasks"):
            complaints.append(_about_tasks(self._left))
        return complaints

    def _is_early(self, letter: DeadLetter) -> bool:
        """Tell whether the test ended before the handler could: it waits for a time that never came."""
        return letter.reason == "stopped" and self._is_on_manual_clock


def explain(left: object, right: object, *, verbosity: int) -> list[str]:
    """Return why ``left == right`` does not hold, a line each; what is equal is shown with ``-v`` only."""
    compare = difference if verbosity > 0 else differing_fields
    lines = compare(_listed(right), _listed(left)).splitlines()
    return [f"{_named(left)} == {_named(right)}", "", "- expected, + actual:", *lines]


def _is_marked(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


def _about_letters(letters: Sequence[DeadLetter]) -> str:
    what = "an event failed for good" if len(letters) == 1 else f"{len(letters)} events failed for good"
    listed = "\n\n".join(_about_letter(letter) for letter in letters)
    return (
        f"{what}, and the test did not look at mock_event_bus.dead_letter_queue:\n\n{listed}\n\n"
        f"Await its list() or count(), or mark the test with @pytest.mark.allow_dead_letters."
    )


def _about_letter(letter: DeadLetter) -> str:
    event = "" if letter.envelope is None else one_line(letter.envelope.event)
    text = f"{event}\n{letter.traceback or letter.error}".strip()
    return f"{letter.handler} ({letter.reason}, attempts: {letter.attempts})\n{textwrap.indent(text, '  ')}"


def _about_tasks(names: Sequence[str]) -> str:
    listed = "\n".join(f"  {name}" for name in names)
    return (
        f"avx-events still runs what the test started:\n\n{listed}\n\n"
        f"Close it, as 'async with bus:' does, or mark the test with @pytest.mark.allow_running_tasks."
    )


def _listed(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else [value]


def _named(value: object) -> str:
    return reprlib.repr(cast("object", value)) if isinstance(value, list | tuple) else one_line(value)
