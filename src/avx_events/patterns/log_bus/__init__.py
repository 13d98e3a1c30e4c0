"""Groups on the log of an event store: handlers that keep their place, shared by several processes."""

from avx_events.patterns.log_bus.log_bus import LogBus

__all__ = ["LogBus"]
