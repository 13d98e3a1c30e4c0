"""How envelopes get into several subscriptions at once: into all of them or, if refused or cancelled, into none."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from avx_events.bus.subscription import AnyEnvelope, Subscription
from avx_events.core.errors import SubscriptionFullError
from avx_events.core.tasks import wake

_ANY_NUMBER: Final = 1 << 62


class Ticket:
    """The place of one waiting publisher in the gates of all the subscriptions that it waits for.

    It enters all gates at once, so that their orders agree and no two publishers wait for each other; it goes on when
    it is first in each of them and each has room.
    """

    __slots__ = ("_future", "_gates", "is_refused")

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        """Enter the gates of ``subscriptions``."""
        self._gates = subscriptions
        self._future: asyncio.Future[None] | None = None
        self.is_refused = False
        for subscription in subscriptions:
            subscription.gate.append(self)
            subscription.limit = 0

    def room(self) -> int:
        """Return how many events all gates would take now from this ticket; 0 while it is not its turn."""
        least = _ANY_NUMBER
        for subscription in self._gates:
            if subscription.is_closed:
                continue
            if subscription.gate[0] is not self:
                return 0
            least = min(least, subscription.free())
        return max(least, 0)

    def wake(self) -> None:
        """Let the publisher look again."""
        if self._future is not None:
            wake(self._future)

    async def wait(self) -> None:
        """Wait until somebody says to look again."""
        self._future = asyncio.get_running_loop().create_future()
        for subscription in self._gates:
            subscription.watch()
        await self._future

    def leave(self) -> None:
        """Leave the gates and let the next one look."""
        for subscription in self._gates:
            subscription.gate.remove(self)
            if subscription.gate:
                subscription.watch()
                if subscription.free() > 0 or subscription.is_closed:
                    subscription.gate[0].wake()
            else:
                subscription.reset_limit()


class Admission:
    """The door of a bus.

    Attributes:
        admitted: How many envelopes got in through it, whether somebody subscribed or not.
    """

    __slots__ = ("_refusal", "_tickets", "admitted")

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        """Begin open, with nobody waiting; ``refusal`` is asked what those get who wait when it closes."""
        self._refusal = refusal
        self._tickets: set[Ticket] = set()
        self.admitted = 0

    @property
    def waiting(self) -> int:
        """How many publishers wait for room."""
        return len(self._tickets)

    def offer(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        """Deliver now.

        Raises:
            SubscriptionFullError: One would have to wait, or refuses; nobody got anything.
        """
        for subscription in subscriptions:
            may_be_full = subscription.overflow in {"wait", "raise"} and not subscription.is_closed
            if may_be_full and (subscription.gate or subscription.free() < len(envelopes)):
                raise SubscriptionFullError(subscription.name, subscription.capacity)
        self._push(subscriptions, envelopes)

    def force(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        """Deliver now, over capacity where others would have to wait: what a handler publishes on its own bus.

        Raises:
            SubscriptionFullError: One with ``overflow="raise"`` is full; of several, those before stay delivered.
        """
        fitting = _refusable(subscriptions, len(envelopes))
        self._push(subscriptions, envelopes[:fitting])
        _refuse_if_full(subscriptions, len(envelopes) - fitting)

    def take_ticket(self, subscriptions: Sequence[Subscription]) -> Ticket:
        """Return a place behind those who wait already; give it to ``deliver``."""
        ticket = Ticket([subscription for subscription in subscriptions if subscription.overflow == "wait"])
        self._tickets.add(ticket)
        return ticket

    def enter(self, subscriptions: Sequence[Subscription], envelope: AnyEnvelope, ticket: Ticket) -> bool:
        """Deliver now if it is the ticket's turn and there is room; otherwise the ticket keeps its place.

        Raises:
            SubscriptionFullError: One with ``overflow="raise"`` is full.
        """
        if not ticket.room():
            return False
        try:
            self.force(subscriptions, [envelope])
        finally:
            self._tickets.discard(ticket)
            ticket.leave()
        return True

    async def deliver(
        self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope], ticket: Ticket
    ) -> None:
        """Deliver in order, waiting for room, first come first served.

        One envelope goes into all subscriptions or none. Of several, those before a refusal or a cancellation stay
        delivered.

        Raises:
            SubscriptionFullError: One with ``overflow="raise"`` is full.
            ClosedError: The bus was closed meanwhile.
            EngineFailedError: The bus failed meanwhile.
        """
        left = envelopes
        try:
            while not ticket.is_refused:
                room = ticket.room()
                if not room:
                    await ticket.wait()
                    continue
                room = _refusable(subscriptions, min(room, len(left)))
                self._push(subscriptions, left[:room])
                left = left[room:]
                if not left:
                    return
            raise self._refusal()
        finally:
            self._tickets.discard(ticket)
            ticket.leave()

    def close(self) -> None:
        """Refuse everybody who waits."""
        for ticket in self._tickets:
            ticket.is_refused = True
            ticket.wake()

    def _push(self, subscriptions: Sequence[Subscription], envelopes: Sequence[AnyEnvelope]) -> None:
        for subscription in subscriptions:
            if not subscription.is_closed:
                subscription.push(envelopes)
        self.admitted += len(envelopes)


def _refusable(subscriptions: Sequence[Subscription], count: int) -> int:
    """Return how many of ``count`` the refusing subscriptions take at least; an error when it is none."""
    for subscription in subscriptions:
        if subscription.overflow == "raise" and not subscription.is_closed:
            _refuse_if_full([subscription], 1)
            count = min(count, subscription.free())
    return count


def _refuse_if_full(subscriptions: Sequence[Subscription], count: int) -> None:
    for subscription in subscriptions:
        if subscription.overflow == "raise" and not subscription.is_closed and subscription.free() < count:
            raise SubscriptionFullError(subscription.name, subscription.capacity)
