"""What type checkers infer; checked by mypy and pyright, never run.

A line with an ignore comment is one that must be an error: mypy, being strict, reports ignores that are not needed.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, assert_type

import msgspec

from avx_events.bus.event_bus import EventBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.codec import encode_data
from avx_events.core.event import Command, Event, Query, Request
from avx_events.core.metadata import EventEnvelope, EventMetadata, stamp
from avx_events.core.topic import TopicTrie

EventT = TypeVar("EventT", bound=Event)
ResultT = TypeVar("ResultT")


class UserCreated(Event, aggregate_id="user_id"):
    """Keywords of the class are no fields."""

    user_id: str
    email: str
    tags: tuple[str, ...] = ()
    age: int | None = msgspec.field(default=None)


class UserInvited(UserCreated, event_type="user.invited", revision=2):
    """Inherits fields."""

    by: str = ""


class UserView(msgspec.Struct):
    """A result."""

    user_id: str


class GetUser(Request[UserView], aggregate_id="user_id"):
    """A request that gives a UserView."""

    user_id: str


class CreateUser(Command[str]):
    """A command that gives text."""

    email: str


class CountUsers(Query[int]):
    """A query that gives a number."""


def request(message: Request[ResultT]) -> ResultT:
    """Stand for ``RequestReplyBus.request``."""
    raise NotImplementedError(message)


def dispatch(message: Command[ResultT]) -> ResultT:
    """Stand for ``CommandBus.dispatch``."""
    raise NotImplementedError(message)


def ask(message: Query[ResultT]) -> ResultT:
    """Stand for ``QueryBus.ask``."""
    raise NotImplementedError(message)


def received(event_class: type[EventT]) -> EventEnvelope[EventT]:
    """Stand for a subscription of one class."""
    raise NotImplementedError(event_class)


def fields() -> None:
    """Fields have their types, positional and by keyword, and are read only."""
    created = UserCreated("1", email="a@b.c")

    assert_type(created, UserCreated)
    assert_type(created.user_id, str)
    assert_type(created.tags, tuple[str, ...])
    assert_type(created.age, int | None)
    assert_type(created.event_type, str)
    assert_type(UserCreated.event_type, str)
    assert_type(created.aggregate_id(), str)
    assert_type(UserInvited("1", "a@b.c", by="2").by, str)
    created.user_id = "2"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    UserCreated(1, "a@b.c")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    UserCreated("1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UserCreated("1", "a@b.c", phone="2")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def results() -> None:
    """What a message asks for is known from its class."""
    assert_type(request(GetUser("1")), UserView)
    assert_type(dispatch(CreateUser("a@b.c")), str)
    assert_type(ask(CountUsers()), int)
    dispatch(GetUser("1"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def envelopes() -> None:
    """An envelope knows its event, and one of a derived class is one of its base."""
    envelope = received(UserInvited)
    wider: EventEnvelope[Event] = envelope

    assert_type(envelope, EventEnvelope[UserInvited])
    assert_type(envelope.event, UserInvited)
    assert_type(envelope.event.by, str)
    assert_type(envelope.metadata, EventMetadata)
    assert_type(envelope.metadata.headers, Mapping[str, str])
    assert_type(envelope.topic, str)
    _: Event = wider.event
    assert_type(stamp(UserCreated("1", "a@b.c"), clock=SYSTEM_CLOCK), EventEnvelope[Any])


def narrowing(event: UserCreated | UserInvited | CreateUser) -> str:
    """Matching narrows, by position and by name."""
    match event:
        case UserInvited(by=by):
            return assert_type(by, str)
        case UserCreated(user_id, email):
            return assert_type(user_id + email, str)
        case CreateUser(email=email):
            return assert_type(email, str)


def upcasting() -> None:
    """An upcaster keeps its own type."""

    @UserInvited.upcast(from_revision=1)
    def add_by(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "by": ""}

    assert_type(add_by({}), dict[str, Any])


def handlers(bus: EventBus, requests: RequestReplyBus) -> None:
    """A handler takes the events that it is registered for, and a responder gives what is asked for."""

    @bus.on(UserCreated)
    async def greet(event: UserCreated) -> None: ...

    @bus.on(UserInvited, concurrency=2)
    def count(event: UserCreated, envelope: EventEnvelope[UserInvited]) -> int:
        return len(event.email + envelope.event.by)

    @bus.on(UserCreated, UserInvited)
    async def follow(event: UserCreated | UserInvited) -> None: ...

    async def place(event: CreateUser) -> None: ...

    bus.on(UserCreated)(place)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]

    @requests.respond(GetUser)
    async def get_user(request: GetUser) -> UserView:
        return UserView(request.user_id)

    @requests.respond(GetUser)
    def get_user_in_thread(request: GetUser, envelope: EventEnvelope[GetUser]) -> UserView:
        return UserView(request.user_id + envelope.topic)

    async def name_of(request: GetUser) -> str:
        return request.user_id

    requests.respond(GetUser)(name_of)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(count(UserInvited("1", "a@b.c"), received(UserInvited)), int)
    _: tuple[object, ...] = (greet, follow, get_user, get_user_in_thread)


def others() -> None:
    """The rest of what core gives away."""
    trie: TopicTrie[UserCreated] = TopicTrie()

    assert_type(trie.match("a.b"), tuple[UserCreated, ...])
    assert_type(encode_data(UserCreated("1", "a@b.c")), bytes)
