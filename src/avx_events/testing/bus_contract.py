"""What the contracts of transports are made of: how they get a bus, what they send, how they wait."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import uuid4

from avx_events.bus.dead_letters import DeadLetter
from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event, event
from avx_events.core.policy import Retry

ValueT = TypeVar("ValueT")

AT_ONCE: Final = Retry(attempts=3, initial_s=0.001, max_s=0.001)
"""Three attempts without much of a pause between them."""

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


async def letters_of(bus: EventBus, count: int) -> list[DeadLetter]:
    """Return the dead letters of ``bus`` when there are exactly ``count``."""
    queue = bus.dead_letter_queue

    async def are_there() -> bool:
        return await queue.count() == count

    await until(are_there)
    return await queue.list()


def numbers_by_key(events: Iterable[Sent]) -> dict[str, list[int]]:
    """Return the numbers of ``events`` in order, for each key."""
    found: dict[str, list[int]] = defaultdict(list)
    for sent in events:
        found[sent.key].append(sent.number)
    return dict(found)
