"""A stored event with what an auditor asks of it, and how that is written in one line of text."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from avx_events.core.event import UnknownEvent
from avx_events.store.stored_event import StoredEvent

_LONGEST_VALUE: Final = 60
_LONGEST_EVENT: Final = 200


class AuditedEvent(msgspec.Struct, frozen=True):
    """An event of the store, with what an auditor asks of it at hand.

    Attributes:
        stored: The event, its metadata and its place.
    """

    stored: StoredEvent[Any]

    @property
    def event(self) -> Any:
        """What happened."""
        return self.stored.event

    @property
    def event_type(self) -> str:
        """The name of its type."""
        return self.stored.metadata.event_type

    @property
    def event_id(self) -> str:
        """Its id, which is the causation id of what was done because of it."""
        return self.stored.metadata.event_id

    @property
    def stream(self) -> str:
        """The stream it is in."""
        return self.stored.stream

    @property
    def version(self) -> int:
        """Its place in the stream, from 1."""
        return self.stored.version

    @property
    def position(self) -> int:
        """Its place in the whole log, from 1."""
        return self.stored.position

    @property
    def time(self) -> datetime:
        """When it was made, by the clock of who made it, aware UTC."""
        return self.stored.metadata.time

    @property
    def recorded_at(self) -> datetime:
        """When the store recorded it, aware UTC."""
        return self.stored.recorded_at

    @property
    def user_id(self) -> str | None:
        """Who did it, or on whose behalf; None where nobody said."""
        return self.stored.metadata.user_id

    @property
    def correlation_id(self) -> str:
        """The chain that it belongs to, which ``store.correlated`` gives as a whole."""
        return self.stored.metadata.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handling made it, an event or a command; None for the first of a chain."""
        return self.stored.metadata.causation_id

    @property
    def headers(self) -> Mapping[str, str]:
        """What else was said when it was made, by name."""
        return self.stored.metadata.headers


def when(stored: StoredEvent[Any]) -> str:
    """Return when it was recorded, to the millisecond."""
    return f"{stored.recorded_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def who(stored: StoredEvent[Any]) -> str:
    """Return who did it, ``-`` where nobody said."""
    return plain(stored.metadata.user_id or "-")


def why(stored: StoredEvent[Any]) -> str:
    """Return what it was done because of, the chain it belongs to and its headers; empty where it stands alone."""
    metadata = stored.metadata
    reasons: list[str] = []
    if metadata.causation_id is not None:
        reasons.append(f"because of {plain(metadata.causation_id)}")
    if metadata.correlation_id not in {metadata.event_id, metadata.causation_id}:
        reasons.append(f"in {plain(metadata.correlation_id)}")
    reasons += [f"{plain(name)}={shown(text)}" for name, text in metadata.headers.items()]
    return ", ".join(reasons)


def shown(value: object) -> str:
    """Return a value as it would be written in Python, its middle left out where it is long."""
    return _shortened(plain(repr(value)), _LONGEST_VALUE)


def shown_event(event: object) -> str:
    """Return an event in the same way, with room for its fields; one without a class is shown as its data."""
    return _shortened(plain(repr(event.data if isinstance(event, UnknownEvent) else event)), _LONGEST_EVENT)


def plain(text: str) -> str:
    """Return ``text`` without line ends and what else a terminal would obey: ids and names come from outside."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
