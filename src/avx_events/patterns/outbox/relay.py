"""The relay of event-sourced code: the store's log is its outbox."""

from typing import Final

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.patterns.lease import Lease
from avx_events.patterns.outbox.log_feed import LogFeed
from avx_events.patterns.outbox.relaying import Relaying, checked_route
from avx_events.patterns.outbox.undeliverable import Publishing
from avx_events.store.event_store import EventStore
from avx_events.store.log_filter import WantedTypes

DEFAULT_LEASE_S: Final = 10.0
DEFAULT_IN_FLIGHT: Final = 500
_GREATEST: Final = 2**63 - 1


class Relay(Relaying):
    """Publishes what is appended to a store, as ``async with Relay(store, bus, name="to-redis"):``.

    Each event goes out as its envelope, with its metadata, its event id and its topic, at least once, in the order of
    the log for each key (the aggregate id), from where the relay of that name was when it ended. Events of many keys
    are on their way at once, those of one key one after the other. The position is kept in the store's database when
    the bus has accepted everything before it: after a crash, no more than ``in_flight`` events are published again.

    Any number of processes may run a relay of one name. One of them is active, by a lease in the database; when it is
    left another takes over at once, when it dies within ``lease_s`` and a third of it. One that stood still past its
    lease publishes nothing more but what it had given the bus by then.

    A bus that is away, or does not confirm, is waited for, and the event published again. An event that can never be
    published, because it is too large or does not fit its class, becomes a dead letter, and its key goes on; without
    ``dead_letter_queue`` the relay stops there, which is logged and raised by ``caught_up``: nothing is skipped.
    """

    def __init__(
        self,
        store: EventStore,
        bus: Publishing,
        *,
        name: str,
        types: WantedTypes | None = None,
        stream_prefix: str = "",
        after: int = 0,
        dead_letter_queue: DeadLetterQueue | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        lease_s: float = DEFAULT_LEASE_S,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Publish from ``store`` to ``bus``, once entered.

        Args:
            store: Whose log, and whose database; one in memory without a database will not do.
            bus: An ``EventBus`` or ``TopicBus``, in memory or connected; who makes it closes it.
            name: Under which the position is kept; relays to two buses have two names.
            types: Event classes, each with those derived from it until now, and event types by name; None for all.
            stream_prefix: What the names of their streams begin with, as ``"user-"``.
            after: The position that a relay begins after whose name is new to the store.
            dead_letter_queue: Where an event goes that can never be published; None stops the relay there.
            in_flight: How many events may be published and not kept as such, 1 or more.
            lease_s: How long a process that dies keeps the others waiting, in seconds.
            drain_timeout_s: How many seconds what is on its way has to be accepted when the relay is left.
            clock: Measures pauses and the lease; on SQLite, all processes that run the relay share it.

        Raises:
            InvalidArgumentError: One of these is not acceptable.
        """
        what = f"relay {arguments.text('name', name)!r}"
        route = checked_route(
            what,
            store=store,
            bus=bus,
            dead_letter_queue=dead_letter_queue,
            in_flight=in_flight,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
        )
        lease = Lease(store, f"log: {name}", lease_s=arguments.seconds("lease_s", lease_s), clock=clock)
        feed = LogFeed(
            store,
            lease,
            types=types,
            stream_prefix=stream_prefix,
            after=arguments.whole("after", after, least=0, most=_GREATEST),
            relay=what,
            clock=clock,
        )
        super().__init__(route, feed, lease)
