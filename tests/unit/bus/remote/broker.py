"""A broker in this process that does what a test says: it keeps, fails, loses lanes, remembers what it was told."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from avx_events import EventBus
from avx_events.bus.dead_letters import DeadLetter, DeadLetterStore, MemoryDeadLetters
from avx_events.bus.remote.link import LinkOptions
from avx_events.bus.remote.ports import (
    Consumer,
    Incoming,
    Lane,
    Outgoing,
    RequestTransport,
    Source,
    Withdrawal,
)
from avx_events.core.errors import TransportUnavailableError, UnsupportedError

AWAY = TransportUnavailableError("broker", "away")


class FakeSource:
    """One consumer's events; lane 0 for all keys."""

    def __init__(self, consumer: Consumer, withdrawal: Withdrawal) -> None:
        self.consumer = consumer
        self.withdrawal = withdrawal
        self.lane = Lane(0)
        self.waiting: deque[Incoming] = deque()
        self.given: list[Incoming] = []
        self.acknowledged: list[int] = []
        self.counted: list[tuple[int, int]] = []
        self.given_back: list[tuple[int, bool]] = []
        self.problem: Exception | None = None
        self.may_acknowledge = asyncio.Event()
        self.may_acknowledge.set()
        self.is_closed = False
        self._arrived = asyncio.Event()
        self._receipts = 0

    def put(self, document: bytes, **known: Any) -> int:
        """Let an event come, and return its receipt."""
        lane = None if self.consumer.group is None else self.lane
        receipt, self._receipts = self._receipts, self._receipts + 1
        self.waiting.append(Incoming(lane, receipt, document, **known))
        self._arrived.set()
        return receipt

    async def fetch(self, most: int) -> Sequence[Incoming]:
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        batch = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        self.given += batch
        return batch

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        await asyncio.sleep(0)
        await self.may_acknowledge.wait()
        self._fail()
        self.acknowledged += [incoming.receipt for incoming in done]

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        await asyncio.sleep(0)
        self._fail()
        self.counted.append((incoming.receipt, attempts))

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        self.given_back.append((incoming.receipt, has_begun))

    async def close(self) -> None:
        self.is_closed = True

    def _fail(self) -> None:
        if self.problem is not None:
            raise self.problem


class Letters(MemoryDeadLetters):
    """Dead letters in memory, which first do what a test says."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.before_put: Callable[[], Awaitable[None]] | None = None

    async def put(self, letter: DeadLetter) -> None:
        if self.before_put is not None:
            await self.before_put()
        await super().put(letter)


class FakeBroker:
    """The transport."""

    name = "broker"
    lanes = 1
    is_full = False

    def __init__(self) -> None:
        self.sources: dict[str, FakeSource] = {}
        self.submitted: list[tuple[Outgoing, asyncio.Future[None]]] = []
        self.accepts = True
        self.letters = Letters()
        self.is_closed = False

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.submitted.append((outgoing, future))
        if self.accepts:
            future.set_result(None)
            for source in self.sources.values():
                source.put(outgoing.document, event_type=outgoing.event_type, topic=outgoing.topic)
        return future

    async def room(self) -> None:
        pass

    async def source(self, consumer: Consumer, withdrawal: Withdrawal) -> Source:
        self.sources[consumer.name] = FakeSource(consumer, withdrawal)
        return self.sources[consumer.name]

    def dead_letters(self) -> DeadLetterStore:
        return self.letters

    def requests(self) -> RequestTransport:
        raise UnsupportedError("broker", "it carries no requests", remedy="use another one")

    async def close(self) -> None:
        self.is_closed = True


def bus_on(broker: FakeBroker, *, group: str | None = "billing", capacity: int = 1024, **options: Any) -> EventBus:
    """Return a bus on ``broker``."""
    return EventBus(remote=(broker, LinkOptions(group=group, capacity=capacity)), **options)
