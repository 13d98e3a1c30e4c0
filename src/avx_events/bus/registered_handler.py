"""A handler as it was registered, for code that tells of a bus without running it."""

import msgspec

from avx_events.bus.dispatcher import KeyFunction
from avx_events.core.policy import ONE_ATTEMPT, Retry


class RegisteredHandler(msgspec.Struct, frozen=True, kw_only=True):
    """A handler of a bus, as ``bus.on`` was told of it.

    Attributes:
        name: What statistics and dead letters call it.
        takes: The event classes, or of a ``TopicBus`` the patterns, in the order in which they were given.
        retry: How often an event is tried, and after which pauses; ``retry=None`` is one attempt.
        concurrency: How many events it handles at once, at most.
        timeout_s: How many seconds one attempt may take; None is for ever.
        key: Gives the key by which events keep their order; None is the aggregate id.
    """

    name: str
    takes: tuple[type, ...] | tuple[str, ...]
    retry: Retry = ONE_ATTEMPT
    concurrency: int = 1
    timeout_s: float | None = None
    key: KeyFunction | None = None
