"""Where a database and a bus meet: what was committed is published, and what comes again has its effect once."""

from avx_events.patterns.outbox.inbox import Inbox
from avx_events.patterns.outbox.outbox import Outbox
from avx_events.patterns.outbox.outbox_relay import OutboxRelay
from avx_events.patterns.outbox.relay import Relay
from avx_events.patterns.outbox.relaying import RelayLag, RelayStatistics
from avx_events.patterns.outbox.tables import inbox_ddl, outbox_ddl

__all__ = ["Inbox", "Outbox", "OutboxRelay", "Relay", "RelayLag", "RelayStatistics", "inbox_ddl", "outbox_ddl"]
