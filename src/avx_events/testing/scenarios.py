"""Given, when, then: what happened before, what is done now, and what must come of it."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar, cast

import msgspec

from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.codec import decode_data
from avx_events.core.errors import InvalidArgumentError, NotAnEventError, ProjectionFailedError
from avx_events.core.event import Command, schema_of
from avx_events.core.metadata import EventEnvelope
from avx_events.core.policy import ONE_ATTEMPT
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.cqrs import CommandBus, CommandHandler, Middleware
from avx_events.patterns.projection import Projection, Projector
from avx_events.store.aggregates import schema_of_class
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import is_envelope
from avx_events.testing.outcomes import (
    AggregateOutcome,
    Outcome,
    PendingAggregate,
    PendingEvents,
    PendingRows,
    ProjectionOutcome,
)

AggregateT = TypeVar("AggregateT", bound=AggregateRoot)

MakeHandler: TypeAlias = Callable[[EventStore], object]
"""Returns a handler: an object or a function."""

Given: TypeAlias = tuple[tuple[str, object], ...]
"""Streams, each with an event or envelope, in the order in which they are appended."""

_NEW: Final = "new-1"


def scenario(aggregate_class: type[AggregateT], aggregate_id: str | None = None) -> "AggregateScenario[AggregateT]":
    """Begin a scenario of an aggregate, which needs no store and no event loop.

    ::

        scenario(User).given(UserCreated("1", "a@b.c")).when(lambda user: user.rename("x")).then(UserRenamed("1", "x"))

    Args:
        aggregate_class: Its class.
        aggregate_id: Its id; that of the first event given, or ``"new-1"`` where there is none.

    Raises:
        InvalidArgumentError: The class is no aggregate.
    """
    return AggregateScenario(aggregate_class, aggregate_id)


def command_scenario(
    make_handler: MakeHandler, *, middleware: Iterable[Middleware] = (), clock: Clock = SYSTEM_CLOCK
) -> "CommandScenario":
    """Begin a scenario of a command handler, on a store in memory and a command bus of its own.

    ::

        await command_scenario(CreateUserHandler).when(CreateUser(email="a@b.c")).then(UserCreated(...))

    Args:
        make_handler: Called with the store, returns the handler: its class, where ``__init__`` takes the store and
            nothing else, or a function that returns a handler object or function.
        middleware: Of the command bus, from the outermost to the innermost.
        clock: Gives the timestamps of commands and events.
    """
    return CommandScenario(make_handler, tuple(middleware), clock)


def projection_scenario(projection: Projection) -> "ProjectionScenario":
    """Begin a scenario of a projection, on a SQLite store in memory and a projector of its own.

    ::

        await projection_scenario(Users()).when(UserCreated("1", "a@b")).then_rows("SELECT * FROM users", ("1", "a@b"))

    Args:
        projection: An instance of its class.
    """
    return ProjectionScenario(projection)


def read_back(event_type: str, data: Mapping[str, object], *, revision: int = 1) -> Any:
    """Return the event that a store reads today from ``data`` as it was once written: a test of upcasters.

    ::

        old = read_back("user.created", {"id": "1", "mail": "a@b.c"}, revision=1)
        scenario(User).given(old).then_state(email="a@b.c")

    Args:
        event_type: The type under which it was stored.
        data: Its fields as they were then, in what JSON has: text, numbers, booleans, None, lists, mappings.
        revision: The revision of the class that wrote it, from 1.

    Raises:
        UnknownEventTypeError: No class has the type.
        DecodeError: What the upcasters make of the data does not fit the class, or one of them is missing.
    """
    return decode_data(event_type, msgspec.json.encode(data), revision=revision)


class AggregateScenario(Generic[AggregateT]):
    """What happened to an aggregate; ``given`` returns a new scenario, so that several tests can share a beginning."""

    def __init__(
        self, aggregate_class: type[AggregateT], aggregate_id: str | None = None, events: tuple[Any, ...] = ()
    ) -> None:
        """Begin with ``events``; see ``scenario``."""
        self._schema = schema_of_class(aggregate_class)
        self._class = aggregate_class
        self._id = aggregate_id
        self._events = events

    def given(self, *events: object) -> Self:
        """Return the scenario in which ``events`` happened too, after those given before.

        Raises:
            NotAnEventError: One of them is no event.
        """
        return type(self)(self._class, self._id, (*self._events, *map(_event_in, events)))

    def when(self, action: Callable[[AggregateT], object]) -> AggregateOutcome[AggregateT]:
        """Do ``action`` on the aggregate, and return what came of it; nothing is checked before a ``then``.

        Args:
            action: A plain function of the aggregate.

        Raises:
            InvalidArgumentError: The action is asynchronous; see ``when_async``.
        """
        aggregate = self._aggregate()
        try:
            result = action(aggregate)
        except Exception as exc:  # noqa: BLE001 - then_raises looks at it
            return AggregateOutcome(aggregate, aggregate.uncommitted, error=exc)
        if inspect.iscoroutine(result):
            result.close()
            raise InvalidArgumentError("action", action, expected="a plain function; when_async() takes async ones")
        return AggregateOutcome(aggregate, aggregate.uncommitted, result=result)

    def when_async(self, action: Callable[[AggregateT], Awaitable[object]]) -> PendingAggregate[AggregateT]:
        """Do the asynchronous ``action``, and make the checks that follow, when awaited."""
        return PendingAggregate(self._acted(action))

    def then_state(self, **fields: object) -> AggregateOutcome[AggregateT]:
        """Expect this state of what was given alone; see ``AggregateOutcome.then_state``."""
        return AggregateOutcome(self._aggregate()).then_state(**fields)

    def _aggregate(self) -> AggregateT:
        aggregate_id = self._id
        if aggregate_id is None:
            ids = [schema_of(event).aggregate_id(event) for event in self._events]
            aggregate_id = next(filter(None, ids), _NEW)
        aggregate: AggregateT = self._schema.new(aggregate_id)
        self._schema.replay(aggregate, self._events, version=len(self._events))
        return aggregate

    @asynccontextmanager
    async def _acted(
        self, action: Callable[[AggregateT], Awaitable[object]]
    ) -> AsyncGenerator[AggregateOutcome[AggregateT], None]:
        aggregate, result, error = self._aggregate(), None, None
        try:
            result = await action(aggregate)
        except Exception as exc:  # noqa: BLE001 - then_raises looks at it
            error = exc
        yield AggregateOutcome(aggregate, aggregate.uncommitted, result=result, error=error)


class CommandScenario:
    """What is in the store before a command; ``given`` returns a new scenario."""

    def __init__(
        self, make_handler: MakeHandler, middleware: tuple[Middleware, ...], clock: Clock, given: Given = ()
    ) -> None:
        """Begin with what was ``given``; see ``command_scenario``."""
        self._make_handler = make_handler
        self._middleware = middleware
        self._clock = clock
        self._given = given

    def given(self, *events: object, stream: str | None = None) -> Self:
        """Return the scenario in which the store has ``events`` too, after those given before.

        Args:
            events: Events, or envelopes where their metadata matters.
            stream: The stream that has them; the aggregate id of each if not given.

        Raises:
            NotAnEventError: One of them is no event.
            InvalidArgumentError: One has no aggregate id, and no stream is given.
        """
        given = (*self._given, *_placed(events, stream))
        return type(self)(self._make_handler, self._middleware, self._clock, given)

    def when(self, command: Command[Any] | EventEnvelope[Command[Any]]) -> PendingEvents[Outcome]:
        """Dispatch ``command``, and make the checks that follow, when awaited.

        The events are those that the store was given meanwhile, of all streams in the order of the log.
        """
        return PendingEvents(self._dispatched(command))

    @asynccontextmanager
    async def _dispatched(self, command: Command[Any] | EventEnvelope[Command[Any]]) -> AsyncGenerator[Outcome, None]:
        async with EventStore(clock=self._clock) as store:
            await _append(store, self._given)
            before = await store.last_position()
            bus = self._bus(store)
            result, error = None, None
            try:
                result = await bus.dispatch(command)
            except Exception as exc:  # noqa: BLE001 - then_raises looks at it
                error = exc
            events = [stored.event async for stored in store.read_all(after=before)]
            yield Outcome(events, result=result, error=error)

    def _bus(self, store: EventStore) -> CommandBus:
        bus = CommandBus(middleware=self._middleware, clock=self._clock)
        handler = self._make_handler(store)
        if hasattr(handler, "handle"):
            bus.register(cast("CommandHandler[Any, Any]", handler))
        else:
            bus.handler(cast("Callable[..., Any]", handler))
        return bus


class ProjectionScenario:
    """What a projection has seen; ``given`` returns a new scenario."""

    def __init__(self, projection: Projection, given: Given = ()) -> None:
        """Begin with what was ``given``; see ``projection_scenario``."""
        self._projection = projection
        self._given = given

    def given(self, *events: object, stream: str | None = None) -> Self:
        """Return the scenario in which the projection has seen ``events`` too; see ``CommandScenario.given``."""
        return type(self)(self._projection, (*self._given, *_placed(events, stream)))

    def when(self, *events: object, stream: str | None = None) -> PendingRows:
        """Let the projection see ``events``, and make the checks that follow, when awaited.

        Each event is tried once. ``then_raises`` is given what the projection's handler raised.
        """
        return PendingRows(self._projected(_placed(events, stream)))

    @asynccontextmanager
    async def _projected(self, events: Given) -> AsyncGenerator[ProjectionOutcome, None]:
        store = await EventStore.connect("sqlite://")
        async with store, Projector(store, self._projection, retry=ONE_ATTEMPT) as projector:
            await _append(store, self._given)
            await projector.caught_up()
            await _append(store, events)
            error: BaseException | None = None
            try:
                await projector.caught_up()
            except ProjectionFailedError as exc:
                error = exc.__cause__
            yield ProjectionOutcome(store.transaction, cast("Exception | None", error))


def _event_in(message: object) -> Any:
    event: object = message.event if is_envelope(message) else message
    if isinstance(event, type):
        raise NotAnEventError(event)
    schema_of(event)
    return event


def _placed(events: Iterable[object], stream: str | None) -> Given:
    return tuple((_stream_of(event) if stream is None else stream, event) for event in events)


def _stream_of(message: object) -> str:
    event = _event_in(message)
    aggregate_id = schema_of(event).aggregate_id(event)
    if not aggregate_id:
        raise InvalidArgumentError(
            "stream", None, expected=f"given for a {type(event).__name__}: it has no aggregate id"
        )
    return aggregate_id


async def _append(store: EventStore, given: Given) -> None:
    for stream, event in given:
        await store.append(stream, [event])
