"""What may be told of the appends of a store: telemetry. A store that nobody observes pays nothing for it."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

from avx_events.core.metadata import EventEnvelope


class AppendObserver(Protocol):
    """Is told of each append, on the store's loop. It must not raise: what it raises is the append's own failure."""

    def appending(
        self, stream: str, envelopes: Sequence[EventEnvelope[Any]]
    ) -> AbstractContextManager[Sequence[EventEnvelope[Any]]]:
        """Return a context in which the envelopes that it gives are appended: the same, perhaps with more headers.

        The context ends when they are in the store, or with the exception of the append.
        """
        ...


class AppendObservers:
    """Several observers of one store: each sees what the ones before it have added."""

    def __init__(self, first: AppendObserver, second: AppendObserver) -> None:
        """Tell both, the ``first`` first."""
        self._first: Final = first
        self._second: Final = second

    @contextmanager
    def appending(
        self, stream: str, envelopes: Sequence[EventEnvelope[Any]]
    ) -> Generator[Sequence[EventEnvelope[Any]], None, None]:
        """See ``AppendObserver.appending``."""
        with self._first.appending(stream, envelopes) as seen, self._second.appending(stream, seen) as appended:
            yield appended
