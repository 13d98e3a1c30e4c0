"""What type checkers infer of commands and queries; checked by mypy and pyright, never run.

A line with an ignore comment is one that must be an error: mypy, being strict, reports ignores that are not needed.
"""

from collections.abc import Sequence
from typing import Any, assert_type

import msgspec

from avx_events.core.event import Command, Event, Query
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.cqrs import (
    CallNext,
    CommandBus,
    CommandHandler,
    Middleware,
    QueryBus,
    QueryHandler,
    idempotency_key,
    log_dispatch,
    retry_on_conflict,
    time_dispatch,
    validate,
)
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from avx_events.store.stored_event import StoredEvent


class UserView(msgspec.Struct):
    """A result."""

    user_id: str


class CreateUser(Command[str]):
    """A command that gives text."""

    email: str


class DeleteUser(Command[None]):
    """A command that gives nothing."""

    user_id: str


class ListUsers(Query[Sequence[UserView]]):
    """A query that gives views."""


class UserCreated(Event):
    """Neither of them."""

    email: str


class CreateUserHandler(CommandHandler[CreateUser, str]):
    """Takes the command alone."""

    async def handle(self, command: CreateUser) -> str:
        """Give its result."""
        return command.email


class DeleteUserHandler(CommandHandler[DeleteUser, None]):
    """Takes the envelope as well."""

    async def handle(self, command: DeleteUser, envelope: EventEnvelope[DeleteUser]) -> None:
        """Give nothing."""
        del command, envelope


class WrongHandler(CommandHandler[CreateUser, str]):
    """Returns something else than it says."""

    async def handle(self, command: CreateUser) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give a number."""
        return len(command.email)


class ListUsersHandler(QueryHandler[ListUsers, Sequence[UserView]]):
    """Answers."""

    async def handle(self, query: ListUsers) -> Sequence[UserView]:
        """Give none."""
        del query
        return []


async def dispatching(commands: CommandBus, envelope: EventEnvelope[CreateUser]) -> None:
    """A command's class says what its dispatch gives."""
    commands.register(CreateUserHandler())
    commands.register(DeleteUserHandler())

    assert_type(await commands.dispatch(CreateUser("a@b.c")), str)
    assert_type(await commands.dispatch(CreateUser(email="a@b.c"), headers={"idempotency-key": "1"}), str)
    assert_type(await commands.dispatch(envelope), str)
    await commands.dispatch(DeleteUser("1"))
    await commands.dispatch(ListUsers())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await commands.dispatch(UserCreated("a@b.c"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await commands.dispatch(CreateUser)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    commands.register(ListUsersHandler())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def asking(queries: QueryBus) -> None:
    """A query's class says what its answer is."""
    queries.register(ListUsersHandler())

    assert_type(await queries.ask(ListUsers()), Sequence[UserView])
    await queries.ask(CreateUser("a@b.c"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def functions(commands: CommandBus, queries: QueryBus) -> None:
    """A decorated function keeps its own type."""

    @commands.handler
    async def create_user(command: CreateUser) -> str:
        return command.email

    @queries.handler
    def list_users(query: ListUsers) -> Sequence[UserView]:
        del query
        return []

    assert_type(await create_user(CreateUser("a@b.c")), str)
    assert_type(list_users(ListUsers()), Sequence[UserView])


async def through(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
    """Be a middleware."""
    return await call_next(envelope)


def email_required(command: CreateUser) -> str | None:
    """Be a rule."""
    return None if command.email else "Email required"


def ready_made(store: EventStore) -> None:
    """What is there already fits in one list; a rule may be a lambda."""
    rules = {CreateUser: email_required}
    commands = CommandBus(
        middleware=[
            log_dispatch(),
            time_dispatch(lambda event_type, elapsed_s, outcome: f"{event_type} {outcome}: {elapsed_s:.3f}"),
            idempotency_key(store),
            validate({CreateUser: email_required, DeleteUser: lambda command: command.user_id}),
            retry_on_conflict(),
        ]
    )
    commands.use(validate(rules))
    CommandBus(middleware=[log_dispatch])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


class Directory(Projection, name="types-directory", version=2):
    """Methods keep their types."""

    @handles(UserCreated)
    async def add(self, event: UserCreated, connection: Connection) -> None:
        """Take two."""
        assert_type(await connection.execute("INSERT INTO users VALUES (?)", event.email), int)

    @handles(UserCreated, Event)
    async def note(self, event: Event, connection: Connection, stored: StoredEvent[Any]) -> None:
        """Take three."""
        assert_type(await connection.fetch_one("SELECT 1"), tuple[Any, ...] | None)
        assert_type(stored.position, int)

    @handles(UserCreated)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    def plain(self, event: UserCreated, connection: Connection) -> None:
        """Be refused."""


async def projecting(store: EventStore) -> None:
    """A projector is its own context."""
    async with Projector(store, Directory()) as projector:
        assert_type(projector, Projector)
        await projector.caught_up()
    Projector(store, Directory)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def middleware() -> None:
    """A plain async function is a middleware."""
    a_middleware: Middleware = through
    buses = CommandBus(middleware=[a_middleware, through]), QueryBus(middleware=[through])
    for bus in buses:
        bus.use(through)
    CommandBus(middleware=[CreateUserHandler()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
