"""Process managers: business processes that go on over many events, send commands and keep deadlines."""

from avx_events.patterns.process.definition import on_deadline, on_failure, reacts, starts
from avx_events.patterns.process.process_manager import ProcessManager
from avx_events.patterns.process.runner import PendingCommand, ProcessRunner, ProcessStatistics, ProcessView

__all__ = [
    "PendingCommand",
    "ProcessManager",
    "ProcessRunner",
    "ProcessStatistics",
    "ProcessView",
    "on_deadline",
    "on_failure",
    "reacts",
    "starts",
]
