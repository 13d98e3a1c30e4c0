"""What type checkers infer of the event store and of aggregates; checked by mypy and pyright, never run.

A line with an ignore comment is one that must be an error: mypy, being strict, reports ignores that are not needed.
"""

from datetime import UTC, datetime
from typing import Any, assert_type

from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.log_bus import LogBus
from avx_events.storage.sqlite.engine import SqliteEngine, connect
from avx_events.store.event_store import EventStore
from avx_events.store.history import Change, HistoryEntry
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import AppendResult, Connection, EngineFactory, StoreEngine
from avx_events.store.stored_event import StoredEvent


class UserCreated(Event):
    """A fact."""

    email: str


class User(AggregateRoot, revision=2):
    """Fields are plain attributes; it is made of its id."""

    email: str = ""
    age: int | None = None

    def apply(self, event: Event) -> None:
        """Change the fields."""
        if isinstance(event, UserCreated):
            self.email = event.email


async def events(store: EventStore, envelope: EventEnvelope[UserCreated]) -> None:
    """Events and envelopes are appended, one or several; reading gives stored events."""
    assert_type(await store.append("user-1", UserCreated("a@b.c"), expected_version=0), AppendResult)
    assert_type(await store.append("user-1", [UserCreated("a@b.c"), envelope]), AppendResult)
    await store.append("user-1", envelope)
    await store.append("user-1", UserCreated("a@b.c"), expected_version="0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert_type(await store.get_events("user-1", 0), list[StoredEvent[Any]])
    async for stored in store.read_stream("user-1"):
        assert_type(stored, StoredEvent[Any])
        assert_type(stored.recorded_at, datetime)
    async for stored in store.read_all(after=0):
        assert_type(stored.position, int)
    async for stored in store.subscribe(after=0):
        assert_type(stored.version, int)


async def aggregates(store: EventStore) -> None:
    """What is loaded has the class that is asked for."""
    assert_type(await store.load(User, "user-1"), User)
    assert_type(await store.load(User, "user-1", at_version=1, as_of=datetime.now(UTC)), User)
    assert_type((await store.load_or_new(User, "user-1")).email, str)
    user = User("user-1")
    user.record(UserCreated("a@b.c"))
    assert_type(user.id, str)
    assert_type(user.version, int)
    assert_type(await store.save(user), AppendResult)
    assert_type(user == user, bool)  # noqa: PLR0124 - only its type matters
    user.id = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    User()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await store.load(dict, "user-1")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    await store.save("user-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def audits(store: EventStore) -> None:
    """An entry of a history has the class of aggregate that is asked for as its state."""
    async for entry in store.history("user-1", since=datetime.now(UTC), user_id="ada"):
        assert_type(entry, HistoryEntry[None])
        assert_type(entry.user_id, str | None)
    async for with_state in store.history("user-1", aggregate=User):
        assert_type(with_state.state, User)
        assert_type(with_state.changes["email"], Change)
    for event in await store.correlated("request-7"):
        assert_type(event.cause, StoredEvent[Any] | None)
    store.history("user-1", aggregate=dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def transactions(store: EventStore) -> None:
    """A transaction gives a connection."""
    async with store.transaction() as connection:
        assert_type(connection, Connection)
        assert_type(await connection.execute("DELETE FROM users"), int)
        assert_type(await connection.fetch("SELECT id FROM users"), list[tuple[Any, ...]])
        assert_type(await connection.fetch_one("SELECT id FROM users"), tuple[Any, ...] | None)
    assert_type(await store.fetch("SELECT id FROM users WHERE name = ?", "Ada"), list[tuple[Any, ...]])
    assert_type(await store.fetch_one("SELECT id FROM users"), tuple[Any, ...] | None)


async def handlers(store: EventStore) -> None:
    """A handler on the log takes the event, and may take its place in the log."""
    bus = await LogBus.connect(store, group="billing")
    assert_type(bus, LogBus)

    @bus.on(UserCreated, concurrency=2)
    async def bill(event: UserCreated, stored: StoredEvent[UserCreated]) -> int:
        return len(event.email) + stored.position

    @bus.on(UserCreated)
    async def greet(event: UserCreated, envelope: EventEnvelope[UserCreated]) -> None: ...

    async def place(event: User) -> None: ...

    bus.on(UserCreated)(place)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    del bill, greet


def engines(sqlite: SqliteEngine) -> list[StoreEngine]:
    """What keeps the protocols."""
    factory: EngineFactory = connect
    del factory
    return [MemoryEngine(), sqlite]
