"""What an application publishes and handles, as its event classes and its bus have it."""

# ruff: noqa: SLF001 - buses do not tell of their handlers yet: all that looks inside of them is in this module
# pyright: reportPrivateUsage=false

from collections.abc import Iterable

import msgspec

from avx_events.apps.cli.application import Application
from avx_events.bus.event_bus import EventBus
from avx_events.bus.handling import HandlerRunner
from avx_events.bus.subscription import Subscription
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.callables import describe
from avx_events.core.event import Event, EventSchema, class_for, recorded_types, schema_of
from avx_events.core.topic import matches
from avx_events.patterns.projection import Projection, Projector


class EventInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An event class of the application.

    Attributes:
        event_type: Its name on the wire.
        event_class: Its class, with its module.
        key: The field that holds the aggregate id, by which order is kept; None where it has none.
        revision: Of its data.
        formerly: The names that it had before.
    """

    event_type: str
    event_class: str
    key: str | None
    revision: int
    formerly: tuple[str, ...]


class HandlerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A handler of a bus, or a projection.

    Attributes:
        name: Its name.
        takes: The event types, or the patterns of topics.
        group: Its group; empty where there is none.
        attempts: How often an event is tried, the first time included.
        concurrency: How many events it handles at once.
        timeout_s: How many seconds an attempt may take; None for ever.
        key: What order is kept by.
        dead_letters: Whether there is a queue for what it gives up.
    """

    name: str
    takes: tuple[str, ...]
    group: str
    attempts: int
    concurrency: int
    timeout_s: float | None
    key: str
    dead_letters: bool

    def gets(self, event_type: str) -> bool:
        """Tell whether an event of this type, published to its type, comes to it."""
        return any(taken == "*" or matches(taken, event_type) for taken in self.takes)


def events() -> list[EventInfo]:
    """Return the event classes that were imported and are not the library's own, by type."""
    schemas = {schema.event_type: schema for schema in _schemas()}
    return [_event(schemas[event_type]) for event_type in sorted(schemas)]


def handlers_of(application: Application) -> list[HandlerInfo]:
    """Return the handlers of ``application``, by name."""
    if isinstance(application, Projector):
        return [_projection(follower.projection, application) for follower in application._followers]
    takes = _takes(application)
    runners = application._engine._runners
    return [_handler(runners[name], takes.get(runners[name].dispatcher.subscription, ())) for name in sorted(runners)]


def _schemas() -> Iterable[EventSchema]:
    for event_type in recorded_types(Event):
        event_class = class_for(event_type)
        if event_class is not None and not event_class.__module__.startswith("avx_events."):
            yield schema_of(event_class)


def _event(schema: EventSchema) -> EventInfo:
    event_class = schema.message_class
    return EventInfo(
        event_type=schema.event_type,
        event_class=f"{event_class.__module__}:{event_class.__qualname__}",
        key=schema.aggregate_field,
        revision=schema.revision,
        formerly=schema.names[1:],
    )


def _takes(application: object) -> dict[Subscription, tuple[str, ...]]:
    if isinstance(application, TopicBus):
        return application._patterns
    if isinstance(application, EventBus):
        return {subscription: _types(classes) for classes, subscription in application._classes}
    return {}


def _types(classes: Iterable[type]) -> tuple[str, ...]:
    if Event in classes:
        return ("*",)
    named = [class_for(name) for event_class in classes for name in recorded_types(event_class)]
    return tuple(dict.fromkeys(schema_of(found).event_type for found in named if found is not None))


def _handler(runner: HandlerRunner, takes: tuple[str, ...]) -> HandlerInfo:
    dispatcher, options = runner.dispatcher, runner._options
    return HandlerInfo(
        name=dispatcher.name,
        takes=takes,
        group=dispatcher._group,
        attempts=dispatcher._retry.attempts,
        concurrency=options.concurrency,
        timeout_s=options.timeout_s,
        key="the aggregate id" if dispatcher._key is None else describe(dispatcher._key),
        dead_letters=dispatcher._dead_letters is not None,
    )


def _projection(projection: Projection, projector: Projector) -> HandlerInfo:
    handled = {event_class for classes in projection._handlers.values() for event_class in classes}
    return HandlerInfo(
        name=projection.name,
        takes=_types(handled),
        group="",
        attempts=projector._followers[0]._pace.retry.attempts,
        concurrency=1,
        timeout_s=None,
        key="the whole log",
        dead_letters=projector._queue is not None,
    )
