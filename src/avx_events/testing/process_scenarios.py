"""Given, when, then for process managers: what happened before, what comes now, and what the process wants done."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from avx_events.core import cloudevents
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError, NotAnEventError
from avx_events.core.event import ANSWERED_BY_ONE, Command, schema_of
from avx_events.core.metadata import EPOCH, EventEnvelope, stamp
from avx_events.patterns.process import ProcessManager
from avx_events.patterns.process.definition import Definition, Reaction, arguments_of
from avx_events.patterns.process.process_manager import (
    Send,
    SetDeadline,
    Wish,
    call_reaction,
    definition_of,
    take_wishes,
)
from avx_events.patterns.process.rows import Rows
from avx_events.store.stored_event import StoredEvent, is_envelope
from avx_events.testing.differences import difference, one_line
from avx_events.testing.outcomes import AggregateOutcome, Outcome

# pytest shows the line of the test, and not these.
__tracebackhide__ = True

ProcessT = TypeVar("ProcessT", bound=ProcessManager)

Due: TypeAlias = float | datetime
"""When a deadline comes: as it was set, in so many seconds, or at an instant."""

_SOURCE: Final = "/scenario"
_NEW: Final = "new-1"


def process_scenario(
    process_class: type[ProcessT], process_id: str | None = None, *, clock: Clock = SYSTEM_CLOCK
) -> "ProcessScenario[ProcessT]":
    """Begin a scenario of one process, which needs no store, no command bus and no event loop.

    ::

        placed = process_scenario(OrderProcess).given(OrderPlaced("1", 7))
        placed.when(PaymentReceived("1")).then(ShipOrder("1")).then_deadlines().then_state(status="shipping")
        placed.when_deadline("payment").then(CancelOrder("1")).then_ended()

    Args:
        process_class: Its class.
        process_id: Its id; that of the first event that has one for it if not given.
        clock: Gives the timestamps of events that are given without an envelope.

    Raises:
        InvalidArgumentError: The class is no process manager, or the id is no text.
    """
    return ProcessScenario(process_class, process_id, clock)


class ProcessScenario(Generic[ProcessT]):
    """What happened to a process; ``given`` returns a new scenario, so that several tests can share a beginning.

    As a runner does, it passes over events of other processes, those that come before one that starts it, and
    everything after its end.
    """

    def __init__(
        self, process_class: type[ProcessT], process_id: str | None, clock: Clock, events: tuple[object, ...] = ()
    ) -> None:
        """Begin with ``events``; see ``process_scenario``."""
        self._definition = definition_of(process_class)
        if process_id is not None:
            process_class(process_id)
        self._class = process_class
        self._id = process_id
        self._clock = clock
        self._events = events

    def given(self, *events: object) -> Self:
        """Return the scenario in which ``events`` happened too, after those given before.

        Args:
            events: Events, or envelopes where their metadata matters.

        Raises:
            NotAnEventError: One of them is no event.
        """
        for event in events:
            _check_event(event)
        return type(self)(self._class, self._id, self._clock, (*self._events, *events))

    def when(self, event: object) -> "ProcessOutcome[ProcessT]":
        """Let ``event`` happen, and return what comes of it; nothing is checked before a ``then``.

        Raises:
            NotAnEventError: It is no event.
            Exception: What the process raises at one of the events given before.
        """
        _check_event(event)
        course = self._course(event)
        return self._outcome(course, lambda: course.happens(event))

    def when_deadline(self, name: str) -> "ProcessOutcome[ProcessT]":
        """Let the deadline ``name`` come, and return what comes of it.

        Raises:
            InvalidArgumentError: It is not to come after what was given.
            Exception: What the process raises at one of the events given.
        """
        course = self._course()
        if name not in course.deadlines:
            to_come = ", ".join(map(repr, course.deadlines)) or "none"
            raise InvalidArgumentError("name", name, expected=f"a deadline that is to come: {to_come}")
        return self._outcome(course, lambda: course.comes(name))

    def when_failed(self, command: Command[Any], error: Exception | str) -> "ProcessOutcome[ProcessT]":
        """Let ``command``, which the process has sent, fail for good, and return what comes of it.

        Args:
            command: As it was sent.
            error: What it failed of; the process is given its text, ``"Type: message"``.

        Raises:
            InvalidArgumentError: The process has not sent it, or has no method for its failure.
            Exception: What the process raises at one of the events given.
        """
        course = self._course()
        if command not in course.sent:
            raise InvalidArgumentError("command", command, expected=f"one that was sent: {course.sent}")
        method = self._definition.failure_method(type(command))
        if method is None:
            expected = "one whose class a method is marked with @on_failure for: without one its process waits"
            raise InvalidArgumentError("command", command, expected=expected)
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return self._outcome(course, lambda: course.fails(method, command, text))

    def then_state(self, **fields: object) -> "ProcessOutcome[ProcessT]":
        """Expect this state of what was given alone; see ``ProcessOutcome.then_state``."""
        return self._outcome(self._course(), lambda: False).then_state(**fields)

    def _course(self, *more: object) -> "_Course[ProcessT]":
        course = _Course(self._class, self._definition, self._process_id(more), self._clock)
        for event in self._events:
            course.happens(event)
        course.sent_before = len(course.sent)
        return course

    def _process_id(self, more: Iterable[object]) -> str:
        if self._id is not None:
            return self._id
        ids = (
            reaction.id_of(event)
            for event in map(_event_of, (*self._events, *more))
            for reaction in self._definition.of_class(type(event))
        )
        return next(filter(None, ids), _NEW)

    def _outcome(self, course: "_Course[ProcessT]", step: Callable[[], bool]) -> "ProcessOutcome[ProcessT]":
        try:
            is_passed_over = not step()
        except Exception as exc:  # noqa: BLE001 - then_raises looks at it
            before = self._course()  # a step that fails changes nothing
            return ProcessOutcome(before.process, (), before.deadlines, is_passed_over=False, error=exc)
        commands = course.sent[course.sent_before :]
        return ProcessOutcome(course.process, commands, course.deadlines, is_passed_over=is_passed_over)


class ProcessOutcome(Outcome, Generic[ProcessT]):
    """What came of a step of a process: the commands it sends, its deadlines, its state, or an error.

    All checks but ``then_raises`` fail where the process raised and nobody expects it. They can be chained.

    Attributes:
        process: As it is now.
    """

    def __init__(
        self,
        process: ProcessT,
        commands: Iterable[object],
        deadlines: dict[str, Due],
        *,
        is_passed_over: bool,
        error: Exception | None = None,
    ) -> None:
        """Keep the ``process``, what it sent in this step, and the deadlines that are to come after it."""
        super().__init__([*commands], error=error)
        self.process = process
        self._deadlines = deadlines
        self._is_passed_over = is_passed_over

    def then(self, *events: object) -> Self:
        """Expect that exactly these commands are sent, in this order.

        Raises:
            AssertionError: Others are; the text shows the fields that differ.
        """
        self.raise_unexpected()
        if self._events != [*events]:
            text = difference(events, self._events)
            raise AssertionError(f"the commands are not those expected (- expected, + actual):\n{text}")
        return self

    def then_nothing(self) -> Self:
        """Expect that no command is sent.

        Raises:
            AssertionError: One is.
        """
        self.raise_unexpected()
        if self._events:
            sent = "\n".join(f"  {one_line(command)}" for command in self._events)
            raise AssertionError(f"no command expected, but these are sent:\n{sent}")
        return self

    def then_deadlines(self, **deadlines: Due) -> Self:
        """Expect that exactly these deadlines are to come afterwards, those that were set before included.

        Args:
            deadlines: By name, in how many seconds or at which instant, as the process has set it.

        Raises:
            AssertionError: Others are.
        """
        self.raise_unexpected()
        if self._deadlines != deadlines:
            text = difference([deadlines], [self._deadlines])
            raise AssertionError(f"the deadlines are not those expected (- expected, + actual):\n{text}")
        return self

    def then_state(self, **fields: object) -> Self:
        """Expect these values of the process's fields and properties; others are not looked at.

        Raises:
            AssertionError: One of them has another value, or there is no such field.
        """
        self.raise_unexpected()
        AggregateOutcome(self.process).then_state(**fields)
        return self

    def then_ended(self) -> Self:
        """Expect that the process has ended.

        Raises:
            AssertionError: It has not.
        """
        self.raise_unexpected()
        if not self.process.is_ended:
            raise AssertionError(f"the process goes on: {self.process!r}")
        return self

    def then_goes_on(self) -> Self:
        """Expect that the process has not ended.

        Raises:
            AssertionError: It has.
        """
        self.raise_unexpected()
        if self.process.is_ended:
            raise AssertionError(f"the process has ended: {self.process!r}")
        return self

    def then_passed_over(self) -> Self:
        """Expect that the event is none for the process as it is: no method was called.

        Raises:
            AssertionError: One was.
        """
        self.raise_unexpected()
        if not self._is_passed_over:
            raise AssertionError(f"the process has reacted to it: {self.process!r}")
        return self


class _Course(Generic[ProcessT]):
    """A process, step by step, as a runner would take it."""

    def __init__(self, process_class: type[ProcessT], definition: Definition, process_id: str, clock: Clock) -> None:
        self.process = process_class(process_id)
        self.sent: list[object] = []
        self.sent_before = 0
        self.deadlines: dict[str, Due] = {}
        self._definition = definition
        self._rows = Rows(definition.name, process_class)
        self._clock = clock
        self._has_begun = False
        self._count = 0

    def happens(self, message: object) -> bool:
        """React to an event; False where it is passed over."""
        self._count += 1
        stored = self._stored(message)
        wanted = self._wanted(stored.event)
        for reaction in wanted:
            call_reaction(self.process, reaction.method, *arguments_of(reaction, stored))
        if wanted:
            self._has_begun = True
            self._keep()
        return bool(wanted)

    def comes(self, name: str) -> bool:
        """React to a deadline."""
        del self.deadlines[name]
        call_reaction(self.process, self._definition.deadlines[name])
        self._keep()
        return True

    def fails(self, method: str, command: object, error: str) -> bool:
        """React to the failure of a command; False where the process has ended, and waits to be mended instead."""
        if self.process.is_ended:
            return False
        call_reaction(self.process, method, command, error)
        self._keep()
        return True

    def _wanted(self, event: object) -> list[Reaction]:
        if self.process.is_ended:
            return []
        kind = "reacts" if self._has_begun else "starts"
        found = self._definition.of_class(type(event))
        return [each for each in found if each.kind == kind and each.id_of(event) == self.process.id]

    def _stored(self, message: object) -> StoredEvent[Any]:
        envelope: EventEnvelope[Any] = stamp(message, clock=self._clock)
        metadata = envelope.metadata
        return StoredEvent(
            envelope.event, metadata, envelope.topic, self.process.id, self._count, self._count, metadata.timestamp
        )

    def _keep(self) -> None:
        """Do what a runner does with it: whatever could not be written fails the step here, too."""
        self._rows.state_of(self.process)
        for wish in take_wishes(self.process):
            self._grant(wish)
        if self.process.is_ended:
            self.deadlines.clear()

    def _grant(self, wish: Wish) -> None:
        if isinstance(wish, Send):
            cloudevents.encode(stamp(wish.command, clock=self._clock, headers=wish.headers), source=_SOURCE)
            self.sent.append(wish.command)
        elif isinstance(wish, SetDeadline):
            self.deadlines[wish.name] = _due(wish)
        else:
            self.deadlines.pop(wish.name, None)


def _due(wish: SetDeadline) -> Due:
    if wish.at_us is not None:
        return EPOCH + wish.at_us * datetime.resolution
    return wish.after_s or 0.0


def _event_of(message: object) -> object:
    return message.event if is_envelope(message) else message


def _check_event(message: object) -> None:
    event = _event_of(message)
    if isinstance(event, type):
        raise NotAnEventError(event)
    if isinstance(event, ANSWERED_BY_ONE):
        raise NotAnEventError(event, problem="is answered by one handler, and happens to no process")
    schema_of(event)
