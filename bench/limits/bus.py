"""How fast a bus can be: the least that publishes, queues and receives an event with all of its metadata.

Hand-written for speed alone: no check, no error, no close, one type at a time. What the library does more than this is
what the ratio shows. Hot paths are long and repeat themselves on purpose: a call costs 50 ns here.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from time import time_ns

import msgspec

from bench.workload import CAPACITY, PlainGetUser, PlainUserCreated, UserView

SUFFIXES = tuple(f"{number:04x}" for number in range(0x10000))


class Metadata(msgspec.Struct, gc=False):
    event_id: str
    event_type: str
    aggregate_id: str
    timestamp: int
    correlation_id: str
    causation_id: str | None
    user_id: str | None


class Envelope(msgspec.Struct, gc=False):
    event: PlainUserCreated | PlainGetUser
    metadata: Metadata


class Ids:
    """UUIDv7 text as ``avx_events.core.ids`` makes it: a prefix for each millisecond, a counter for each event."""

    __slots__ = ("_millisecond", "prefix", "taken", "until_ns")

    def __init__(self) -> None:
        self._millisecond = 0
        self.until_ns = 0
        self.prefix = ""
        self.taken = 0

    def renew(self, now_ns: int) -> int:
        self._millisecond = max(now_ns // 1_000_000, self._millisecond + 1)
        self.until_ns = (self._millisecond + 1) * 1_000_000
        time, noise = f"{self._millisecond:012x}", os.urandom(7).hex()
        self.prefix = f"{time[:8]}-{time[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:14]}"
        return 0


class LimitSubscription:
    """A deque, the future of a reader that waits, and those of publishers that wait for room."""

    __slots__ = ("_loop", "_publishers", "queue", "reader")

    def __init__(self) -> None:
        self.queue: deque[Envelope] = deque()
        self.reader: asyncio.Future[None] | None = None
        self._publishers: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> "LimitSubscription":
        return self

    async def __anext__(self) -> Envelope:
        queue = self.queue
        while not queue:
            await self.filled()
        envelope = queue.popleft()
        # At half full, so that a publisher is woken once for many events.
        if self._publishers and len(queue) <= CAPACITY // 2:
            self.wake_publishers()
        return envelope

    async def recv_many(self) -> list[Envelope]:
        queue = self.queue
        while not queue:
            await self.filled()
        envelopes = list(queue)
        queue.clear()
        if self._publishers:
            self.wake_publishers()
        return envelopes

    async def handle(self, handler: Callable[[Envelope], Awaitable[None]], count: int) -> None:
        """Give ``count`` envelopes to ``handler``, straight from the deque."""
        queue, handled = self.queue, 0
        while handled < count:
            while queue:
                await handler(queue.popleft())
                handled += 1
                if self._publishers and len(queue) <= CAPACITY // 2:
                    self.wake_publishers()
            if handled < count:
                await self.filled()

    def wake_reader(self, reader: asyncio.Future[None]) -> None:
        self.reader = None
        reader.set_result(None)

    def wake_publishers(self) -> None:
        publishers, self._publishers = self._publishers, []
        for publisher in publishers:
            publisher.set_result(None)

    async def filled(self) -> None:
        self.reader = self._loop.create_future()
        await self.reader

    async def drained(self) -> None:
        while len(self.queue) >= CAPACITY:
            publisher: asyncio.Future[None] = self._loop.create_future()
            self._publishers.append(publisher)
            await publisher


class LimitBus(Ids):
    """Subscriptions by event type. It is its own source of ids, since that saves a look-up for each of them."""

    __slots__ = ("_routes",)

    def __init__(self) -> None:
        super().__init__()
        self._routes: dict[type, tuple[str, tuple[LimitSubscription, ...]]] = {}

    def subscribe(self, event_class: type) -> LimitSubscription:
        subscription = LimitSubscription()
        event_type, others = self._routes.get(event_class, ("user.created", ()))
        self._routes[event_class] = (event_type, (*others, subscription))
        return subscription

    async def publish(self, event: PlainUserCreated) -> None:
        event_type, subscriptions = self._routes[type(event)]
        now_ns = time_ns()
        taken = self.taken
        if now_ns >= self.until_ns or taken == 0x10000:
            taken = self.renew(now_ns)
        self.taken = taken + 1
        event_id = self.prefix + SUFFIXES[taken]
        envelope = Envelope(event, Metadata(event_id, event_type, event.user_id, now_ns, event_id, None, None))
        for subscription in subscriptions:
            queue = subscription.queue
            if len(queue) >= CAPACITY:
                await subscription.drained()
            queue.append(envelope)
            reader = subscription.reader
            if reader is not None:
                subscription.wake_reader(reader)

    async def publish_many(self, events: list[PlainUserCreated]) -> None:
        """Publish events of one type: one reading of the clock, one look at the route, one extend of each queue."""
        event_type, subscriptions = self._routes[type(events[0])]
        now_ns = time_ns()
        taken, more = self.taken, len(events)
        if now_ns >= self.until_ns or taken + more > 0x10000:
            taken = self.renew(now_ns)
        self.taken = taken + more
        prefix = self.prefix
        envelopes = [
            Envelope(
                event,
                Metadata(event_id := prefix + suffix, event_type, event.user_id, now_ns, event_id, None, None),
            )
            for event, suffix in zip(events, SUFFIXES[taken : taken + more], strict=True)
        ]
        for subscription in subscriptions:
            if len(subscription.queue) + more > CAPACITY:
                await subscription.drained()
            subscription.queue.extend(envelopes)
            reader = subscription.reader
            if reader is not None:
                subscription.wake_reader(reader)


class LimitRequests(Ids):
    """Requests in a queue, one task that answers them, a future for each reply, and no deadline."""

    __slots__ = ("_loop", "_queue", "_responder", "_server")

    def __init__(self, responder: Callable[[Envelope], Awaitable[UserView]]) -> None:
        super().__init__()
        self._responder = responder
        self._queue: deque[tuple[asyncio.Future[UserView], Envelope]] = deque()
        self._server: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def request(self, request: PlainGetUser) -> UserView:
        now_ns = time_ns()
        taken = self.taken
        if now_ns >= self.until_ns or taken == 0x10000:
            taken = self.renew(now_ns)
        self.taken = taken + 1
        event_id = self.prefix + SUFFIXES[taken]
        metadata = Metadata(event_id, "get.user", request.user_id, now_ns, event_id, None, None)
        reply: asyncio.Future[UserView] = self._loop.create_future()
        self._queue.append((reply, Envelope(request, metadata)))
        server = self._server
        if server is not None:
            self._server = None
            server.set_result(None)
        return await reply

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        queue, responder = self._queue, self._responder
        while True:
            while queue:
                reply, envelope = queue.popleft()
                reply.set_result(await responder(envelope))
            self._server = self._loop.create_future()
            await self._server
