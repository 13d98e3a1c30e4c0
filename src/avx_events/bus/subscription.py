"""A bounded queue of envelopes between publishers and its readers."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

from avx_events.bus.readers import Readers
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.core.arguments import whole
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.metadata import EventEnvelope
from avx_events.core.policy import OVERFLOWS, Overflow

AnyEnvelope: TypeAlias = EventEnvelope[Any]

DEFAULT_CAPACITY: Final = 1024

# Of wake_at, below any length of a queue.
_NOBODY_WAITS: Final = -2
_NO_ROOM: Final = -1


class Waiting(Protocol):
    """A publisher that waits for room."""

    def wake(self) -> None:
        """Let it look again."""
        ...


class Counter(Protocol):
    """What puts events in line at several subscriptions at once, and counts them once for all.

    Attributes:
        published: How many.
    """

    published: int


class Subscription:
    """The queue of one consumer, which may have several readers.

    A publisher may append without asking while ``len(queue) < limit``; ``limit`` is 0 as long as other publishers wait,
    so that nobody overtakes them. A reader that leaves no more than ``wake_at`` in the queue calls ``admit_waiting``.
    Everything happens on one event loop.
    """

    __slots__ = (
        "capacity",
        "counters",
        "delivered",
        "dropped",
        "gate",
        "held",
        "is_closed",
        "limit",
        "name",
        "overflow",
        "queue",
        "receivers",
        "wake_at",
    )

    def __init__(self, name: str, *, capacity: int = DEFAULT_CAPACITY, overflow: Overflow = "wait") -> None:
        """Begin empty and open.

        Raises:
            InvalidArgumentError: The capacity is below 1, or there is no such overflow policy.
        """
        if overflow not in OVERFLOWS:
            raise InvalidArgumentError("overflow", overflow, expected=f"one of {', '.join(OVERFLOWS)}")
        self.name = name
        self.capacity = whole("capacity", capacity, least=1)
        self.overflow = overflow
        self.queue: deque[Any] = deque()  # envelopes, or works that hold them: see Dispatcher.gives_works
        self.limit = capacity
        self.held = 0  # taken from the queue, but waiting behind a key or for a retry: they take up its room
        self.delivered = 0  # without what the counters count
        self.counters: list[Counter] = []
        self.dropped = 0
        self.receivers = Readers(f"subscription {name!r}")
        self.gate: deque[Waiting] = deque()
        self.wake_at = _NOBODY_WAITS  # to be woken; not for the gate itself, or each event would wake it
        self.is_closed = False

    def free(self) -> int:
        """Return for how many more events there is room; below 0 when over capacity."""
        return self.capacity - self.held - len(self.queue)

    def wake(self) -> None:
        """Wake one reader that waits.

        Raises:
            WrongLoopError: It waits on an event loop that was closed.
        """
        self.receivers.wake_one()

    async def wait(self) -> None:
        """Wait until something was appended or the subscription closed; look again, another reader may be faster.

        Raises:
            WrongLoopError: The subscription belongs to another event loop.
        """
        await self.receivers.wait()

    def hold(self, change: int) -> None:
        """Count ``change`` more envelopes (or fewer) that left the queue but take up its room."""
        self.held += change
        if not self.gate:
            self.reset_limit()
        elif self.wake_at != _NOBODY_WAITS:
            self.watch()
            if len(self.queue) <= self.wake_at:
                self.admit_waiting()

    def reset_limit(self) -> None:
        """Let publishers append up to the capacity again, now that nobody waits."""
        self.limit = 0 if self.is_closed else max(self.capacity - self.held, 0)

    def watch(self) -> None:
        """Have publishers woken when the queue is half empty: one wake-up for many events, not one for each.

        Half of the room that those held leave: they may stay for as long as a retry waits, and nobody waits for them
        beside an empty queue.
        """
        most = self.capacity - self.held
        self.wake_at = most // 2 if most > 0 else _NO_ROOM

    def admit_waiting(self) -> None:
        """Wake the publishers for whom there is room."""
        self.wake_at = _NOBODY_WAITS
        for ticket in islice(self.gate, max(self.free(), 0)):
            ticket.wake()

    def push(self, envelopes: Sequence[AnyEnvelope]) -> None:
        """Append ``envelopes`` by the overflow policy; ``wait`` and ``raise`` append all: room was checked before."""
        if self.overflow == "drop_newest":
            room = max(self.free(), 0)
            self.dropped += max(len(envelopes) - room, 0)
            envelopes = envelopes[:room]
        self.append(envelopes)
        if self.overflow == "drop_oldest":
            while self.queue and self.free() < 0:
                self.queue.popleft()
                self.delivered -= 1
                self.dropped += 1

    def append(self, envelopes: Sequence[AnyEnvelope]) -> None:
        """Append ``envelopes``, for whom there is room."""
        self.queue.extend(envelopes)
        self.delivered += len(envelopes)
        if self.receivers:
            for _ in range(min(len(envelopes), len(self.receivers))):
                self.wake()

    def close(self) -> None:
        """Take nothing more in; readers find what is queued, then the end; publishers that wait go past it."""
        self.is_closed = True
        self.limit = 0
        for _ in range(len(self.receivers)):
            self.wake()
        self.wake_at = _NOBODY_WAITS
        for ticket in self.gate:
            ticket.wake()

    def statistics(self) -> SubscriptionStatistics:
        """Return the counts that the queue itself knows."""
        queued = len(self.queue) + self.held
        return SubscriptionStatistics(
            delivered=self.delivered + sum(counter.published for counter in self.counters),
            dropped=self.dropped,
            queued=queued,
            over_capacity=max(queued - self.capacity, 0),
            waiting_publishers=len(self.gate),
        )
