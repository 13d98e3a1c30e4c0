"""The relay of code with tables of its own: what an outbox keeps is published."""

from typing import Final

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.patterns.lease import Lease
from avx_events.patterns.outbox.relay import DEFAULT_IN_FLIGHT, DEFAULT_LEASE_S
from avx_events.patterns.outbox.relaying import Relaying, checked_route
from avx_events.patterns.outbox.table_feed import TableFeed
from avx_events.patterns.outbox.undeliverable import Publishing
from avx_events.store.event_store import EventStore

_NAME: Final = "outbox relay"


class OutboxRelay(Relaying):
    """Publishes what an ``Outbox`` keeps in a database, as ``async with OutboxRelay(store, bus):``.

    Each event that was committed is published at least once, in the order of its row for each key, and its row is
    removed when the bus has accepted it. Nothing is published of a transaction that was undone. Where two transactions
    add events of one key at once, without excluding each other, their order is that in which the relay finds them.

    Any number of processes may run it on one database: one is active, as with ``Relay``, and what that says of leases,
    crashes and a bus that is away is so here, too.

    An event that can never be published becomes a dead letter, and its key goes on. Without ``dead_letter_queue`` its
    row stays, and with it all of its key behind it, which is logged; other keys go on. The next relay tries again.
    """

    def __init__(
        self,
        store: EventStore,
        bus: Publishing,
        *,
        dead_letter_queue: DeadLetterQueue | None = None,
        keep_s: float | None = None,
        poll_s: float = 0.1,
        in_flight: int = DEFAULT_IN_FLIGHT,
        lease_s: float = DEFAULT_LEASE_S,
        drain_timeout_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Publish from the table in the database of ``store`` to ``bus``, once entered.

        Args:
            store: Whose database has the table ``avx_outbox``, which is made where it is not there.
            bus: An ``EventBus`` or ``TopicBus``, in memory or connected; who makes it closes it.
            dead_letter_queue: Where an event goes that can never be published; None holds its key.
            keep_s: How many seconds a row stays after it was published, for a look at it; None removes it at once.
            poll_s: How often it is looked for new rows, in seconds.
            in_flight: How many events may be published and not kept as such, 1 or more.
            lease_s: How long a process that dies keeps the others waiting, in seconds.
            drain_timeout_s: How many seconds what is on its way has to be accepted when the relay is left.
            clock: Measures pauses and the lease; on SQLite, all processes that run the relay share it.

        Raises:
            InvalidArgumentError: One of these is not acceptable.
        """
        route = checked_route(
            _NAME,
            store=store,
            bus=bus,
            dead_letter_queue=dead_letter_queue,
            in_flight=in_flight,
            drain_timeout_s=drain_timeout_s,
            clock=clock,
        )
        lease = Lease(store, "outbox", lease_s=arguments.seconds("lease_s", lease_s), clock=clock)
        feed = TableFeed(
            store,
            lease,
            keep_s=None if keep_s is None else arguments.seconds("keep_s", keep_s),
            poll_s=arguments.seconds("poll_s", poll_s),
            relay=_NAME,
            clock=clock,
        )
        super().__init__(route, feed, lease)
