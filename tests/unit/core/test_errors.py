"""The error tree: three branches, and messages that name what happened with which values."""

import inspect

import pytest

from avx_events.core import errors
from avx_events.core.errors import (
    AggregateDefinitionError,
    AppendUnknownError,
    AvxEventsError,
    ClosedError,
    CommitUnknownError,
    ConcurrencyError,
    DeadLetterNotFoundError,
    DecodeError,
    DeliveryError,
    DuplicateEventIdError,
    DuplicateEventTypeError,
    DuplicateHandlerError,
    EncodeError,
    EngineFailedError,
    EventDefinitionError,
    EventTooLargeError,
    HandlerDefinitionError,
    HandlerKilledError,
    HandlerTimeoutError,
    HandlerWaitError,
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    InvalidTopicError,
    LanesMismatchError,
    LaterStatementError,
    MissingExtraError,
    NoDeadLetterQueueError,
    NoHandlerError,
    NoResponderError,
    NotAnEventError,
    NotRunningError,
    NotStartedError,
    PartitionsMismatchError,
    PermanentError,
    ProcessDefinitionError,
    ProcessFailedError,
    ProcessLagError,
    ProjectionDefinitionError,
    ProjectionFailedError,
    ProjectionLagError,
    ProjectionReplacedError,
    PublishUnknownError,
    RelayFailedError,
    RelayLagError,
    RemoteError,
    ReplayedMessageError,
    ReplySentError,
    RequestTimeoutError,
    ResultNotKeptError,
    RetryableError,
    StatementError,
    StoppedError,
    StoreRefusedError,
    StoreSchemaError,
    StoreUnavailableError,
    StreamNotFoundError,
    SubscriptionFullError,
    TransactionError,
    TransportRefusedError,
    TransportUnavailableError,
    UnknownEventTypeError,
    UnknownSchemeError,
    UnsupportedError,
    UsageError,
    ValidationError,
    WrongLoopError,
)

# An error of each class, its branch, the built-in error it also is, and what its message must name.
CASES: list[tuple[AvxEventsError, type[AvxEventsError], type[Exception], list[str]]] = [
    (InvalidArgumentError("capacity", 0, expected="1 or more"), UsageError, ValueError, ["capacity", "0", "1 or more"]),
    (NoDeadLetterQueueError("event bus"), UsageError, Exception, ["event bus", "dead_letter_queue="]),
    (NotAnEventError(3), UsageError, TypeError, ["int object", "@event"]),
    (NotAnEventError(int), UsageError, TypeError, ["int is no event"]),
    (NotAnEventError(3, problem="is no request"), UsageError, TypeError, ["int object is no request"]),
    (EventDefinitionError("Odd", "is odd"), UsageError, TypeError, ["Odd", "is odd"]),
    (AggregateDefinitionError("Odd", "is odd"), UsageError, TypeError, ["Odd", "is odd"]),
    (HandlerDefinitionError("create_user", "is odd"), UsageError, TypeError, ["create_user", "is odd"]),
    (ProjectionDefinitionError("Users", "is odd"), UsageError, TypeError, ["Users", "is odd"]),
    (DuplicateEventTypeError("a.b", "m.A", "m.B"), UsageError, Exception, ["'a.b'", "m.A", "m.B", "event_type="]),
    (InvalidTopicError("a..b", "has two dots"), UsageError, ValueError, ["'a..b'", "has two dots"]),
    (ClosedError("bus 'x'", "publish"), UsageError, Exception, ["bus 'x'", "closed", "publish"]),
    (NotStartedError("bus 'x'", "publish"), UsageError, Exception, ["bus 'x'", "not started", "publish", "async with"]),
    (NotRunningError("the projector", "wait"), UsageError, Exception, ["the projector", "cannot wait", "async with"]),
    (ProjectionReplacedError("users", version=1), UsageError, Exception, ["'users' version 1"]),
    (WrongLoopError("bus 'x'", "publish"), UsageError, Exception, ["bus 'x'", "publish", "publish_threadsafe"]),
    (NoHandlerError("CreateUser", known=["b", "a"]), UsageError, Exception, ["CreateUser", "a, b"]),
    (NoHandlerError("CreateUser"), UsageError, Exception, ["CreateUser", "none"]),
    (DuplicateHandlerError("C", existing="f", new="g"), UsageError, Exception, ["C", "belongs to f", "g cannot"]),
    (MissingExtraError("RedisEventBus", "redis"), UsageError, ImportError, ["pip install 'avx-events[redis]'"]),
    (UnknownSchemeError("x://a", installed=["b", "a"]), UsageError, ValueError, ["'x://a'", "a://, b://"]),
    (UnknownSchemeError("x://a", installed=[], extra="x"), UsageError, ValueError, ["none", "'avx-events[x]'"]),
    (UnsupportedError("'mail'", "has no room", remedy="wait"), UsageError, Exception, ["'mail': has no room; wait"]),
    (
        PartitionsMismatchError("redis://a", "avx", here=8, there=16),
        UsageError,
        Exception,
        ["'avx'", "redis://a", "not 8", "partitions=16"],
    ),
    (
        LanesMismatchError("billing", "mail", here=8, there=16),
        UsageError,
        Exception,
        ["'mail'", "'billing'", "not 8", "lanes=16"],
    ),
    (TransactionError("cannot append in here"), UsageError, Exception, ["cannot append in here"]),
    (SubscriptionFullError("mail", 8), RetryableError, Exception, ["'mail'", "8", "capacity="]),
    (HandlerTimeoutError("mail", 1.5), RetryableError, TimeoutError, ["mail", "1.5 s"]),
    (RequestTimeoutError("GetUser", 5), RetryableError, TimeoutError, ["GetUser", "5 s", "timeout_s="]),
    (NoResponderError("GetUser"), RetryableError, Exception, ["GetUser", "@bus.respond"]),
    (
        ProjectionLagError("users", 9, reached=7, timeout_s=5),
        RetryableError,
        TimeoutError,
        ["'users'", "position 7", "at 9", "5 s"],
    ),
    (ConcurrencyError("u-1", expected=1, actual=2), RetryableError, Exception, ["'u-1'", "version 2", "not 1"]),
    (StoreUnavailableError("sqlite:///a", "disk full"), RetryableError, Exception, ["sqlite:///a", "disk full"]),
    (ProcessDefinitionError("Fulfilment", "no name"), UsageError, TypeError, ["Fulfilment", "no name"]),
    (ProcessFailedError("fulfilment", problem="a bug"), PermanentError, Exception, ["'fulfilment'", "a bug"]),
    (
        ProcessLagError("fulfilment", timeout_s=5, problem="3 wait"),
        RetryableError,
        TimeoutError,
        ["'fulfilment'", "5 s", "3 wait"],
    ),
    (RelayFailedError("to-redis", problem="a bug"), PermanentError, Exception, ["to-redis", "a bug"]),
    (RelayLagError("to-redis", timeout_s=5), RetryableError, TimeoutError, ["to-redis", "5 s"]),
    (
        LanesMismatchError("billing", "bill", here=8, there=16),
        UsageError,
        Exception,
        ["'billing'", "'bill'", "8", "16"],
    ),
    (AppendUnknownError("postgresql://a", "cut off"), RetryableError, Exception, ["postgresql://a", "cut off"]),
    (CommitUnknownError("postgresql://a", "cut off"), RetryableError, Exception, ["postgresql://a", "cut off"]),
    (
        StoreRefusedError("postgresql://a", "no password", remedy="give one"),
        PermanentError,
        Exception,
        ["postgresql://a", "no password", "give one"],
    ),
    (TransportUnavailableError("redis://a", "is away"), RetryableError, Exception, ["redis://a", "is away"]),
    (PublishUnknownError("redis://a", "a.b", "cut off"), RetryableError, Exception, ["redis://a", "'a.b'", "cut off"]),
    (DeliveryError("mail", "e-1"), UsageError, Exception, ["'mail'", "e-1"]),
    (ReplayedMessageError(), UsageError, Exception, ["is_replaying()", "allow_side_effects=True"]),
    (ReplySentError(), UsageError, Exception, ["answered already", "once"]),
    (HandlerWaitError("bus 'x'", "close"), UsageError, Exception, ["bus 'x'", "close"]),
    (StoppedError("mail"), RetryableError, Exception, ["mail", "closed"]),
    (EngineFailedError("bus 'x'", "KeyError('y')"), PermanentError, Exception, ["bus 'x'", "KeyError('y')"]),
    (ValidationError("Email required"), PermanentError, Exception, ["Email required"]),
    (IdempotencyKeyReusedError("a.b", "k-1"), PermanentError, Exception, ["'a.b'", "'k-1'"]),
    (ResultNotKeptError("a.b", "k-1", "no disk", result=3), PermanentError, Exception, ["'a.b'", "'k-1'", "no disk"]),
    (EncodeError("a.b", "is NaN"), PermanentError, Exception, ["'a.b'", "is NaN"]),
    (DecodeError("a.b", "is cut off"), PermanentError, Exception, ["'a.b'", "is cut off"]),
    (EventTooLargeError("a.b", size_bytes=2000, max_bytes=1000), PermanentError, Exception, ["a.b", "2,000", "1,000"]),
    (UnknownEventTypeError("a.b"), PermanentError, Exception, ["'a.b'", "unknown='keep'"]),
    (ProjectionFailedError("users", problem="at 'a.b'"), PermanentError, Exception, ["'users' stopped at 'a.b'"]),
    (TransportRefusedError("redis://a", "NOAUTH", remedy="log in"), PermanentError, Exception, ["NOAUTH; log in"]),
    (HandlerKilledError("mail", 5), PermanentError, Exception, ["mail", "5 times"]),
    (RemoteError("KeyError", "'x'"), PermanentError, Exception, ["KeyError: 'x'"]),
    (DeadLetterNotFoundError("l-1"), PermanentError, Exception, ["l-1"]),
    (DuplicateEventIdError("e-1", stream="u-1", existing="u-2"), PermanentError, Exception, ["e-1", "u-1", "u-2"]),
    (StatementError("SELECT x", "no x"), PermanentError, Exception, ["SELECT x", "no x"]),
    (LaterStatementError("INSERT", "no x", 3), PermanentError, Exception, ["one of 3 statements", "no x: 'INSERT'"]),
    (StreamNotFoundError("u-1"), PermanentError, Exception, ["'u-1'", "load_or_new"]),
    (StoreSchemaError("sqlite:///a", "is newer"), PermanentError, Exception, ["sqlite:///a", "is newer"]),
]
BRANCHES = (UsageError, RetryableError, PermanentError)


@pytest.mark.parametrize(("error", "branch", "builtin", "named"), CASES, ids=lambda value: type(value).__name__)
def test_an_error_is_in_one_branch_and_names_its_values(
    error: AvxEventsError, branch: type[AvxEventsError], builtin: type[Exception], named: list[str]
) -> None:
    assert [kind for kind in BRANCHES if isinstance(error, kind)] == [branch]
    assert isinstance(error, builtin)
    assert isinstance(error, AvxEventsError)
    for text in named:
        assert text in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("error", "branch", "builtin", "named"), CASES, ids=lambda value: type(value).__name__)
def test_an_error_keeps_what_it_was_made_of(
    error: AvxEventsError, branch: type[AvxEventsError], builtin: type[Exception], named: list[str]
) -> None:
    del branch, builtin, named
    parameters = inspect.signature(type(error).__init__).parameters
    given = set(parameters) - {"self", "args", "kwargs", "known"}

    assert all(hasattr(error, name) for name in given)


def test_every_error_of_the_module_is_checked_here() -> None:
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}

    assert defined == {type(error) for error, *_ in CASES} | {*BRANCHES, AvxEventsError}


@pytest.mark.parametrize("value", ["x" * 10_000_000, b"x" * 10_000_000, list(range(100_000)), "\ud800"])
def test_a_message_does_not_repeat_a_large_value(value: object) -> None:
    assert len(str(InvalidArgumentError("name", value, expected="short"))) < 500
    assert len(str(InvalidTopicError(value, "is long"))) < 500
    assert InvalidTopicError(value, "is long").topic is value


def test_a_value_that_cannot_describe_itself_does_not_hide_the_error() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Shy" in str(InvalidArgumentError("name", Shy(), expected="text"))
