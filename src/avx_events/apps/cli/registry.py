"""What an application publishes and handles, as its event classes and its bus have it."""

from collections.abc import Iterable

import msgspec

from avx_events.apps.cli.application import Application
from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.registered_handler import RegisteredHandler
from avx_events.core.callables import describe
from avx_events.core.errors import NoDeadLetterQueueError
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
    """Return the handlers of ``application``, by name; the projections of a projector as they were given."""
    if isinstance(application, Projector):
        return [_projection(projection, application) for projection in application.projections]
    return [_handler(handler, application) for handler in application.handlers()]


def _schemas() -> Iterable[EventSchema]:
    for event_class in _classes():
        if not event_class.__module__.startswith("avx_events."):
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


def _handler(handler: RegisteredHandler, bus: DeliveringBus) -> HandlerInfo:
    return HandlerInfo(
        name=handler.name,
        takes=_named(handler.takes),
        group=bus.group or "",
        attempts=handler.retry.attempts,
        concurrency=handler.concurrency,
        timeout_s=handler.timeout_s,
        key="the aggregate id" if handler.key is None else describe(handler.key),
        dead_letters=_has_dead_letters(bus),
    )


def _projection(projection: Projection, projector: Projector) -> HandlerInfo:
    return HandlerInfo(
        name=projection.name,
        takes=_types(event_class for event_class in (Event, *_classes()) if projection.effects_of(event_class)),
        group="",
        attempts=projector.retry.attempts,
        concurrency=1,
        timeout_s=None,
        key="the whole log",
        dead_letters=_has_dead_letters(projector),
    )


def _has_dead_letters(application: Application) -> bool:
    try:
        _ = application.dead_letter_queue
    except NoDeadLetterQueueError:
        return False
    return True


def _named(takes: Iterable[type | str]) -> tuple[str, ...]:
    """Return patterns as they are, and of classes the types of their events."""
    return (*(taken for taken in takes if isinstance(taken, str)), *_types(t for t in takes if isinstance(t, type)))


def _types(classes: Iterable[type]) -> tuple[str, ...]:
    """Return the types of the events of ``classes`` and of those derived from them; a lone ``*`` for all there are."""
    wanted = list(classes)
    if Event in wanted:
        return ("*",)
    named = [class_for(name) for event_class in wanted for name in recorded_types(event_class)]
    return tuple(dict.fromkeys(schema_of(found).event_type for found in named if found is not None))


def _classes() -> Iterable[type]:
    return (found for found in map(class_for, recorded_types(Event)) if found is not None)
