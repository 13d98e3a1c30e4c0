"""What may be told of all that a bus does: telemetry. A bus that nobody observes pays nothing for it.

A bus with an observer takes its slower paths, where every event passes one place each way: ``Engine.deliver`` and the
attempt of a handler.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from avx_events.bus.subscription import AnyEnvelope

MEMORY: Final = "memory"
"""The system of a bus without a broker."""


LOG: Final = "log"
"""The system of a bus on the log of an event store."""

_SYSTEMS: Final = {"rediss": "redis", "unix": "redis", "tls": "nats", "kafkas": "kafka"}


def system_of(transport_name: str) -> str:
    """Return the kind of broker: the scheme of the transport's name, whichever way it is reached, or the log."""
    scheme, separator, _ = transport_name.partition("://")
    return _SYSTEMS.get(scheme, scheme) if separator else LOG


class Observer(Protocol):
    """Is told of each step, on the bus's loop. It must not raise: what it raises is the step's own failure."""

    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> AbstractContextManager[Sequence[AnyEnvelope]]:
        """Return a context in which the envelopes that it gives are published: the same, perhaps with more headers.

        The context ends when the bus or its broker has accepted them, or with the exception of the publish.
        """
        ...

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        """Take note that ``handler`` was given ``envelopes`` by a broker, in one batch."""
        ...

    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> AbstractContextManager[None]:
        """Return a context in which ``handler`` has ``envelope``, for the ``attempt``-th time, counted from 1.

        It ends with the exception of the attempt where that failed, or was cancelled for being late.
        """
        ...

    def settling(self, handler: str, count: int) -> AbstractContextManager[None]:
        """Return a context in which the broker is told that ``handler`` is done with ``count`` events."""
        ...


class Observers:
    """Several observers of one bus: each sees what the ones before it have added."""

    def __init__(self, first: Observer, second: Observer) -> None:
        """Tell both, the ``first`` first."""
        self._first: Final = first
        self._second: Final = second

    @contextmanager
    def publishing(self, envelopes: Sequence[AnyEnvelope]) -> Generator[Sequence[AnyEnvelope], None, None]:
        """See ``Observer.publishing``."""
        with self._first.publishing(envelopes) as seen, self._second.publishing(seen) as published:
            yield published

    def receiving(self, handler: str, envelopes: Sequence[AnyEnvelope]) -> None:
        """See ``Observer.receiving``."""
        self._first.receiving(handler, envelopes)
        self._second.receiving(handler, envelopes)

    @contextmanager
    def processing(self, handler: str, envelope: AnyEnvelope, *, attempt: int) -> Generator[None, None, None]:
        """See ``Observer.processing``."""
        with (
            self._first.processing(handler, envelope, attempt=attempt),
            self._second.processing(handler, envelope, attempt=attempt),
        ):
            yield

    @contextmanager
    def settling(self, handler: str, count: int) -> Generator[None, None, None]:
        """See ``Observer.settling``."""
        with self._first.settling(handler, count), self._second.settling(handler, count):
            yield
