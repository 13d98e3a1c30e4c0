"""What a bus counts, in all and for each of its subscriptions."""

from collections.abc import Iterable, Mapping

import msgspec


class SubscriptionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one subscription, from its start.

    Attributes:
        delivered: Events that it was given: those queued now, and those that left the queue for its reader.
        handled: Events whose handler or delivery block succeeded; 0 for plain ``recv``.
        retried: Attempts that failed and were followed by another, or will be.
        discarded: Events a handler gave up with ``Discard``.
        dead_lettered: Events that became dead letters, or went to the log where there is no dead letter queue.
        dropped: Events that the overflow policy refused or threw out; not among ``delivered``.
        queued: Events that wait now, those behind a blocked key or for a retry included.
        in_flight: Events that are being handled now.
        over_capacity: How many of the queued are more than ``capacity`` now (what handlers published).
        waiting_publishers: Publishers that wait now for room here, or at others that they wait for too.
    """

    delivered: int = 0
    handled: int = 0
    retried: int = 0
    discarded: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    queued: int = 0
    in_flight: int = 0
    over_capacity: int = 0
    waiting_publishers: int = 0


class BusStatistics(SubscriptionStatistics, frozen=True, kw_only=True):
    """Counts of a bus, from its start: the sums over its subscriptions, those that ended included.

    Attributes:
        published: Events that publishers got onto the bus, whether somebody subscribed or not.
        subscriptions: The counts of each subscription that is open, by name.
    """

    published: int = 0
    subscriptions: Mapping[str, SubscriptionStatistics] = msgspec.field(
        default_factory=dict[str, SubscriptionStatistics]
    )


_COUNTS = SubscriptionStatistics.__struct_fields__
_LASTING = ("delivered", "handled", "retried", "discarded", "dead_lettered", "dropped", "in_flight")


def lasting(statistics: SubscriptionStatistics) -> SubscriptionStatistics:
    """Return the counts that stay true when the subscription takes no events any more."""
    return SubscriptionStatistics(**{name: getattr(statistics, name) for name in _LASTING})


def total(
    published: int, ended: Iterable[SubscriptionStatistics], subscriptions: Mapping[str, SubscriptionStatistics]
) -> BusStatistics:
    """Return the counts of a bus.

    Args:
        published: How many events it took.
        ended: Of subscriptions that are there no more.
        subscriptions: The others, by name.
    """
    everything = [*ended, *subscriptions.values()]
    sums = {name: sum(getattr(statistics, name) for statistics in everything) for name in _COUNTS}
    return BusStatistics(**sums, published=published, subscriptions=dict(subscriptions))


def added(left: SubscriptionStatistics, right: SubscriptionStatistics) -> SubscriptionStatistics:
    """Return the sums of two counts."""
    return SubscriptionStatistics(**{name: getattr(left, name) + getattr(right, name) for name in _COUNTS})
