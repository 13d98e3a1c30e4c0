"""What the contracts of transports are made of: how they get a bus, what they send, how they wait."""

# ruff: noqa: S101 - assert is how a test speaks

import asyncio
import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, ParamSpec, TypeVar
from uuid import uuid4

from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event, event
from avx_events.core.policy import Retry

P = ParamSpec("P")
ValueT = TypeVar("ValueT")

DEADLINE_S: Final = 30.0
AT_ONCE: Final = Retry(attempts=3, initial_s=0.001, max_s=0.001)
"""Three attempts without much of a pause between them."""

_TASKS_END_WITHIN_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.005


class Sent(Event, event_type="avx.contract.sent", aggregate_id="key"):
    """The event of most tests; its key is what order is kept by."""

    key: str
    number: int = 0


class SentOn(Sent, event_type="avx.contract.sent.on"):
    """One of the same family."""

    text: str = ""


class Other(Event, event_type="avx.contract.other"):
    """An event that is no ``Sent`` and has no key."""

    number: int = 0


@event("avx.contract.plain", aggregate_id="key")
@dataclass(frozen=True)
class Plain:
    """An event that does not derive from ``Event``."""

    key: str


class BusContract:
    """How a contract gets its buses. Not a contract itself; what a transport promises are the classes derived from it.

    Derive a class whose name begins with ``Test`` from the contracts that the transport keeps, say how a bus is
    connected, and let pytest find it::

        class TestMine(TransportContract, KeyOrderContract):
            async def connect(self, namespace, **options):
                return await MyEventBus.connect("mine://localhost", namespace=namespace, **options)

    Each test has an event loop of its own and 30 seconds, and fails where it leaves a task behind. No plugin of pytest
    is needed.
    """

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        """Return a bus that was not started, with a dead letter queue of its own, and without a group.

        Args:
            namespace: A name that no other test has: nothing of others may be received on this bus.
            options: Options of ``EventBus``: ``drain_timeout_s``.
        """
        raise NotImplementedError

    async def bus(self, **options: Any) -> EventBus:
        """Return what ``connect`` gives, in a namespace of its own."""
        return await self.connect(new_namespace(), **options)


def new_namespace() -> str:
    """Return a name that no other test has."""
    return f"avx-contract-{uuid4().hex}"


def on_its_own_loop(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a loop of its own, within ``DEADLINE_S``; nothing may be left on that loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_watched(test(*args, **kwargs)))

    return run


async def _watched(test: Coroutine[object, object, None]) -> None:
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(str(context)))
    async with asyncio.timeout(DEADLINE_S):
        await test
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_TASKS_END_WITHIN_S)
    assert not left, f"tasks were left behind: {left}"
    assert not problems, f"the event loop was told of errors that nobody took: {problems}"


class Collected(Generic[ValueT]):
    """What handlers and readers have seen, in order; a test waits for it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.values: list[ValueT] = []
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Count them."""
        return len(self.values)

    def add(self, value: ValueT) -> None:
        """Add one."""
        self.values.append(value)
        self._changed.set()

    async def have(self, count: int) -> list[ValueT]:
        """Return all when there are at least ``count``."""
        while len(self.values) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.values


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when ``condition`` holds, for what announces itself nowhere; the test's deadline ends the wait."""
    while not await condition():  # noqa: ASYNC110 - a queue of dead letters may be in a broker
        await asyncio.sleep(_LOOK_AGAIN_S)


async def interrupted(work: Coroutine[object, object, ValueT], *, after_turns: int) -> ValueT | None:
    """Cancel ``work`` after so many turns of the loop; return what it gave if it was faster, or None."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        for _ in range(after_turns):
            await asyncio.sleep(0)
        task.cancel()
    return None if task.cancelled() else task.result()


def numbers_by_key(events: Iterable[Sent]) -> dict[str, list[int]]:
    """Return the numbers of ``events`` in order, for each key."""
    found: dict[str, list[int]] = defaultdict(list)
    for sent in events:
        found[sent.key].append(sent.number)
    return dict(found)
