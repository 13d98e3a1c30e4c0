"""A command or query reaches its one handler, carries its metadata there, and brings back what the handler gives."""

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    DuplicateHandlerError,
    HandlerDefinitionError,
    InvalidArgumentError,
    NoHandlerError,
    NotAnEventError,
    ValidationError,
)
from avx_events.core.event import Command, Event, Query
from avx_events.core.metadata import EventEnvelope, EventMetadata, context, current_context, stamp
from avx_events.patterns.cqrs import CallNext, CommandBus, CommandHandler, QueryBus, QueryHandler

pytestmark = pytest.mark.timeout(10)

CommandT = TypeVar("CommandT", bound=Command[Any])


class CreateUser(Command[str], event_type="buses.create.user", aggregate_id="email"):
    email: str


class RenameUser(Command[None], event_type="buses.rename.user"):
    name: str


class UserView(msgspec.Struct):
    email: str


class GetUser(Query[UserView], event_type="buses.get.user"):
    email: str


class UserCreated(Event, event_type="buses.user.created"):
    email: str


class Create(CommandHandler[CreateUser, str]):
    async def handle(self, command: CreateUser) -> str:
        return f"id of {command.email}"


class Get(QueryHandler[GetUser, UserView]):
    async def handle(self, query: GetUser) -> UserView:
        return UserView(query.email)


def metadata_here() -> tuple[str | None, str | None, str | None]:
    inherited = stamp(UserCreated("a"), clock=SYSTEM_CLOCK).metadata
    return inherited.correlation_id, inherited.causation_id, inherited.user_id


async def test_a_command_reaches_its_handler_and_its_result_comes_back() -> None:
    commands = CommandBus()
    commands.register(Create())

    assert await commands.dispatch(CreateUser("a@b.c")) == "id of a@b.c"


async def test_a_query_reaches_its_handler_and_its_answer_comes_back() -> None:
    queries = QueryBus()
    queries.register(Get())

    assert await queries.ask(GetUser("a@b.c")) == UserView("a@b.c")


async def test_functions_are_handlers_by_the_annotation_of_their_first_parameter() -> None:
    commands, queries = CommandBus(), QueryBus()

    @commands.handler
    async def create(command: CreateUser) -> str:
        return command.email

    @commands.handler
    async def rename(command: "RenameUser") -> None:
        assert command.name == "b"

    @queries.handler
    def get(query: Annotated[GetUser, "documented"]) -> UserView:
        return UserView(query.email)

    assert await commands.dispatch(CreateUser("a")) == "a"
    await commands.dispatch(RenameUser("b"))
    assert await queries.ask(GetUser("c")) == UserView("c")
    assert await create(CreateUser("still a function")) == "still a function"


async def test_a_command_that_is_local_to_a_function_is_found_by_its_quoted_name() -> None:
    commands = CommandBus()

    class Local(Command[int], event_type="buses.local"):
        number: int

    @commands.handler
    async def double(command: "Local") -> int:
        return 2 * command.number

    assert await commands.dispatch(Local(2)) == 4


async def test_a_plain_function_runs_in_a_thread_in_the_context_of_the_command() -> None:
    commands = CommandBus()
    seen: list[Any] = []

    @commands.handler
    def create(command: CreateUser, envelope: EventEnvelope[CreateUser]) -> str:
        seen.extend([threading.current_thread(), envelope.metadata, metadata_here()])
        return command.email

    with context(user_id="jane"):
        assert await commands.dispatch(CreateUser("a")) == "a"

    thread, metadata, inherited = seen
    assert thread is not threading.main_thread()
    assert inherited == (metadata.event_id, metadata.event_id, "jane")


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit])
async def test_what_no_thread_can_hand_to_a_coroutine_reaches_the_caller_as_the_cause_of_a_runtime_error(
    error: type[BaseException],
) -> None:
    commands = CommandBus()

    @commands.handler
    def create(command: CreateUser) -> str:
        raise error

    with pytest.raises(RuntimeError, match=rf"create raised {error.__name__}") as raised:
        await commands.dispatch(CreateUser("a"))

    assert isinstance(raised.value.__cause__, error)


async def test_a_handler_with_a_second_parameter_is_given_the_envelope() -> None:
    commands = CommandBus()
    seen: list[EventMetadata] = []

    class Rename(CommandHandler[RenameUser, None]):
        async def handle(self, command: RenameUser, envelope: EventEnvelope[RenameUser]) -> None:
            assert envelope.event is command
            seen.append(envelope.metadata)

    commands.register(Rename())
    await commands.dispatch(RenameUser("a"), headers={"ip": "::1"})

    assert [(metadata.event_type, dict(metadata.headers)) for metadata in seen] == [
        ("buses.rename.user", {"ip": "::1"})
    ]


async def test_a_parameter_with_a_default_is_the_authors_own() -> None:
    commands = CommandBus()

    @commands.handler
    async def create(command: CreateUser, suffix: str = "!") -> str:
        return command.email + suffix

    assert await commands.dispatch(CreateUser("a")) == "a!"


async def test_what_a_handler_makes_has_the_command_as_its_cause() -> None:
    commands = CommandBus()
    envelopes: list[EventEnvelope[CreateUser]] = []
    inherited: list[tuple[str | None, str | None, str | None]] = []

    @commands.handler
    async def create(command: CreateUser, envelope: EventEnvelope[CreateUser]) -> str:
        envelopes.append(envelope)
        await commands.dispatch(RenameUser("a"))
        return command.email

    @commands.handler
    async def rename(command: RenameUser, envelope: EventEnvelope[RenameUser]) -> None:
        inherited.append(metadata_here())
        metadata = envelope.metadata
        assert (metadata.correlation_id, metadata.causation_id, metadata.user_id) == (
            "chain",
            envelopes[0].metadata.event_id,
            "jane",
        )
        assert inherited == [("chain", metadata.event_id, "jane")]

    with context(correlation_id="chain", user_id="jane"):
        await commands.dispatch(CreateUser("a"))

    metadata = envelopes[0].metadata
    assert (metadata.correlation_id, metadata.causation_id, metadata.aggregate_id) == ("chain", None, "a")


async def test_the_first_of_a_chain_is_its_own_correlation_id() -> None:
    commands = CommandBus()

    @commands.handler
    async def create(command: CreateUser, envelope: EventEnvelope[CreateUser]) -> str:
        return f"{envelope.metadata.correlation_id == envelope.metadata.event_id}"

    assert await commands.dispatch(CreateUser("a")) == "True"


async def test_the_context_of_the_dispatcher_is_as_it_was_afterwards() -> None:
    commands = CommandBus()

    @commands.handler
    async def create(command: CreateUser) -> str:
        raise ValidationError(command.email)

    with context(correlation_id="chain"):
        before = current_context()
        with pytest.raises(ValidationError):
            await commands.dispatch(CreateUser("a"))
        assert current_context() == before
    assert current_context().correlation_id is None


async def test_an_envelope_keeps_its_metadata() -> None:
    commands = CommandBus()
    seen: list[EventMetadata] = []

    @commands.handler
    async def create(command: CreateUser, envelope: EventEnvelope[CreateUser]) -> str:
        seen.append(envelope.metadata)
        return command.email

    envelope: EventEnvelope[CreateUser] = stamp(CreateUser("a"), clock=SYSTEM_CLOCK)
    await commands.dispatch(envelope)

    assert seen == [envelope.metadata]


@pytest.mark.parametrize("error", [ValidationError("no"), KeyError("x"), asyncio.CancelledError(), SystemExit(3)])
async def test_what_a_handler_raises_reaches_the_dispatcher_unchanged(error: BaseException) -> None:
    commands = CommandBus()

    @commands.handler
    async def create(command: CreateUser) -> str:
        raise error

    with pytest.raises(type(error)) as raised:
        await commands.dispatch(CreateUser("a"))

    assert raised.value is error


async def test_a_command_without_a_handler_is_an_error_that_names_those_with_one() -> None:
    commands = CommandBus()
    commands.register(Create())

    with pytest.raises(NoHandlerError, match=r"no handler for RenameUser; registered: CreateUser"):
        await commands.dispatch(RenameUser("a"))


async def test_a_derived_command_needs_a_handler_of_its_own() -> None:
    commands = CommandBus()
    commands.register(Create())

    class CreateAdmin(CreateUser, event_type="buses.create.admin"):
        pass

    with pytest.raises(NoHandlerError, match="CreateAdmin"):
        await commands.dispatch(CreateAdmin("a"))


async def test_a_second_handler_is_refused_and_the_first_stays() -> None:
    commands = CommandBus()
    commands.register(Create())

    with pytest.raises(DuplicateHandlerError, match=r"CreateUser belongs to Create\.handle already; .*create_too"):

        @commands.handler
        async def create_too(command: CreateUser) -> str:
            return "second"

    assert await commands.dispatch(CreateUser("a")) == "id of a"


@pytest.mark.parametrize("value", [GetUser("a"), UserCreated("a"), None, "CreateUser", 3, UserCreated])
async def test_what_is_no_command_is_refused(value: Any) -> None:
    commands = CommandBus()

    with pytest.raises(InvalidArgumentError, match="command must be an instance of a class derived from Command"):
        await commands.dispatch(value)


async def test_what_is_no_query_is_refused() -> None:
    queries = QueryBus()
    command: Any = CreateUser("a")

    with pytest.raises(InvalidArgumentError, match="query must be an instance of a class derived from Query"):
        await queries.ask(command)


@pytest.mark.parametrize("value", [CreateUser, Command])
async def test_a_command_class_in_the_place_of_a_command_is_refused(value: Any) -> None:
    with pytest.raises(NotAnEventError, match=value.__name__):
        await CommandBus().dispatch(value)


async def test_headers_that_are_no_text_are_refused() -> None:
    commands = CommandBus()
    commands.register(Create())
    headers: Any = {"key": 3}

    with pytest.raises(InvalidArgumentError, match="headers"):
        await commands.dispatch(CreateUser("a"), headers=headers)


async def test_a_handler_may_get_its_command_through_a_generic_base_of_its_own() -> None:
    class Logged(CommandHandler[CommandT, str], Generic[CommandT]):
        pass

    class CreateLogged(Logged[CreateUser]):
        async def handle(self, command: CreateUser) -> str:
            return command.email

    class CreateLoggedTwice(CreateLogged):
        pass

    for handler in (CreateLogged(), CreateLoggedTwice()):
        commands = CommandBus()
        commands.register(handler)
        assert await commands.dispatch(CreateUser("a")) == "a"


async def test_any_object_with_an_annotated_handle_is_a_handler() -> None:
    class Plain:
        def handle(self, command: CreateUser) -> str:
            return command.email

    handler: Any = Plain()
    commands = CommandBus()
    commands.register(handler)

    assert await commands.dispatch(CreateUser("a")) == "a"


async def test_an_object_that_can_be_called_is_a_handler_function() -> None:
    class Creator:
        async def __call__(self, command: CreateUser) -> str:
            return command.email

    commands = CommandBus()
    commands.handler(Creator())

    assert await commands.dispatch(CreateUser("a")) == "a"


def make_handlers_that_cannot_be() -> list[tuple[Any, str]]:
    class Nothing(CommandHandler[CreateUser, str]):
        pass

    class ForQueries(QueryHandler[GetUser, UserView]):
        async def handle(self, query: GetUser) -> UserView:
            return UserView(query.email)

    class TakesNothing(CommandHandler[CreateUser, str]):
        async def handle(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
            return ""

    class TakesThree(CommandHandler[CreateUser, str]):
        async def handle(self, command: CreateUser, envelope: object, more: object) -> str:
            return ""

    class ForAnything(CommandHandler[Any, str]):
        async def handle(self, command: Any) -> str:
            return ""

    class NotAnnotated:
        async def handle(self, command):  # type: ignore[no-untyped-def]  # pyright: ignore  # noqa: ANN001, ANN202, PGH003
            return ""

    return [
        (Create, r"Create: register an object whose class has 'async def handle\(self, command\)'"),
        (Nothing(), "Nothing: register an object"),
        (object(), "object: register an object"),
        (ForQueries(), r"ForQueries\.handle: it is for GetUser, which is no class derived from Command"),
        (TakesNothing(), "it must take the command, or the command and its envelope"),
        (TakesThree(), "it must take the command, or the command and its envelope"),
        (ForAnything(), r"ForAnything: it is for (typing\.)?Any, which is no class derived from Command"),
        (NotAnnotated(), "annotate 'command', its first parameter, with the Command class it is for"),
    ]


@pytest.mark.parametrize(("handler", "problem"), make_handlers_that_cannot_be())
def test_an_object_that_cannot_be_a_handler_is_refused_with_the_reason(handler: Any, problem: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=problem):
        CommandBus().register(handler)


def make_functions_that_cannot_be() -> list[tuple[Any, str]]:
    def keyword_only(*, command: CreateUser) -> str:
        return command.email

    def needs_keyword(command: CreateUser, *, name: str) -> str:
        return command.email + name

    def unresolvable(command: "Nowhere") -> str:  # type: ignore[name-defined]  # pyright: ignore[reportUndefinedVariable]  # noqa: F821 - the mistake
        return ""

    def for_text(command: str) -> str:
        return command

    def for_every_command(command: Command[str]) -> str:
        return ""

    return [
        (keyword_only, "'command' is by keyword only"),
        (needs_keyword, "'name' is by keyword only"),
        (unresolvable, "its annotation 'Nowhere' cannot be resolved"),
        (for_text, "for_text: it is for str, which is no class derived from Command"),
        (for_every_command, "which is no class derived from Command"),
        (3, "int: it cannot be called with a command"),
    ]


@pytest.mark.parametrize(("function", "problem"), make_functions_that_cannot_be())
def test_a_function_that_cannot_be_a_handler_is_refused_with_the_reason(function: Any, problem: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=problem):
        CommandBus().handler(function)


def tracing(name: str, trace: list[str]) -> Callable[[EventEnvelope[Any], CallNext], Any]:
    async def trace_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        trace.append(f"{name} before")
        result = await call_next(envelope)
        trace.append(f"{name} after")
        return f"{result} {name}"

    return trace_it


async def test_the_first_middleware_is_the_outermost_and_use_adds_inside() -> None:
    trace: list[str] = []
    commands = CommandBus(middleware=[tracing("a", trace), tracing("b", trace)])
    commands.register(Create())
    commands.use(tracing("c", trace))

    assert await commands.dispatch(CreateUser("x")) == "id of x c b a"

    assert trace == ["a before", "b before", "c before", "c after", "b after", "a after"]


async def test_middleware_wraps_handlers_that_are_registered_later_too() -> None:
    trace: list[str] = []
    queries = QueryBus()
    queries.use(tracing("a", trace))
    queries.register(Get())
    answer: Any = await queries.ask(GetUser("x"))

    assert answer == "UserView(email='x') a"


async def test_a_middleware_may_refuse_and_may_answer_by_itself() -> None:
    async def guard(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        if envelope.event.email == "refused":
            raise ValidationError("refused")
        return "known" if envelope.event.email == "known" else await call_next(envelope)

    commands = CommandBus(middleware=[guard])
    commands.register(Create())

    with pytest.raises(ValidationError, match="refused"):
        await commands.dispatch(CreateUser("refused"))
    assert await commands.dispatch(CreateUser("known")) == "known"
    assert await commands.dispatch(CreateUser("new")) == "id of new"


async def test_what_a_middleware_makes_has_the_message_as_its_cause() -> None:
    inherited: list[tuple[str | None, str | None, str | None]] = []

    async def audit(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        inherited.append(metadata_here())
        return envelope.metadata.event_id

    commands = CommandBus(middleware=[audit])
    commands.register(Create())

    event_id = await commands.dispatch(CreateUser("a"))

    assert inherited == [(event_id, event_id, None)]


def takes_options(*, option: int = 3) -> object:
    return option


def takes_no_next(envelope: object) -> object:
    return envelope


@pytest.mark.parametrize("middleware", [3, takes_options, takes_no_next])
def test_what_is_no_middleware_is_refused_when_it_is_put_in(middleware: Any) -> None:
    with pytest.raises(HandlerDefinitionError, match=r"a middleware is an async function \(envelope, call_next\)"):
        CommandBus(middleware=[middleware])
    with pytest.raises(HandlerDefinitionError, match="a middleware"):
        QueryBus().use(middleware)


async def test_a_cancelled_dispatch_ends_its_handler_and_leaves_nothing_running() -> None:
    commands = CommandBus()
    started = asyncio.Event()
    ended: list[str] = []

    @commands.handler
    async def create(command: CreateUser) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(command.email)
        return ""

    async def dispatch() -> None:
        async with asyncio.timeout(5):
            await commands.dispatch(CreateUser("a"))

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(dispatch())
        await started.wait()
        task.cancel()

    assert ended == ["a"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_dispatches_run_side_by_side() -> None:
    commands = CommandBus()
    meeting = asyncio.Barrier(3)

    @commands.handler
    async def create(command: CreateUser) -> str:
        await meeting.wait()
        return command.email

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(commands.dispatch(CreateUser(email))) for email in "abc"]

    assert [task.result() for task in found] == ["a", "b", "c"]
