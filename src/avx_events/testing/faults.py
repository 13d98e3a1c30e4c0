"""Failures on purpose: a plan of which call fails, how often, and whether it was done nevertheless."""

import functools
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from inspect import isawaitable
from typing import Any, Final, TypeVar, cast

from avx_events.core.arguments import whole
from avx_events.core.callables import is_async
from avx_events.core.errors import InvalidArgumentError, NotAnEventError
from avx_events.core.event import Event, schema_of

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_EVERY_TIME: Final = 1 << 62


class Fault:
    """One planned failure.

    Attributes:
        error: What is raised.
        is_confirmation_lost: Whether the call does its work first.
    """

    __slots__ = ("_after", "_event_classes", "_times", "error", "is_confirmation_lost")

    def __init__(
        self,
        error: object,
        event_classes: tuple[object, ...],
        *,
        after: int,
        times: int | None,
        is_confirmation_lost: bool,
    ) -> None:
        """Fail ``times`` calls once ``after`` of them succeeded; see ``Faults.refuse``."""
        if not isinstance(error, Exception):
            raise InvalidArgumentError("error", error, expected="an exception, as TimeoutError('why')")
        self.error = error
        self.is_confirmation_lost = is_confirmation_lost
        self._event_classes = tuple(_checked(event_class) for event_class in event_classes)
        self._after = whole("after", after, least=0)
        self._times = _EVERY_TIME if times is None else whole("times", times, least=1)

    @property
    def is_over(self) -> bool:
        """Whether it makes no further call fail."""
        return self._times == 0

    def strikes(self, event_classes: Iterable[type]) -> bool:
        """Count a call with events of ``event_classes``, and tell whether it is to fail."""
        if self._event_classes and not any(issubclass(given, self._event_classes) for given in event_classes):
            return False
        if self._after:
            self._after -= 1
            return False
        self._times -= 1
        return True


class Faults:
    """A plan of failures, carried out by a ``MockEventBus``, a ``MockEventStore`` or a handler; several may share one.

    Nothing fails that was not planned. What a call would be refused for anyway comes first: a fault is no excuse for
    a wrong call. Faults are looked at in the order of their planning; the first that strikes is raised.
    """

    __slots__ = ("_faults",)

    def __init__(self) -> None:
        """Plan nothing."""
        self._faults: list[Fault] = []

    def __len__(self) -> int:
        """Count the faults that have not happened as often as they are to."""
        return len(self._faults)

    def refuse(self, error: Exception, *event_classes: type, after: int = 0, times: int | None = 1) -> None:
        """Let calls raise ``error`` and do nothing: nobody gets the event, nothing is appended.

        Args:
            error: What they raise, as ``StoreUnavailableError(url, problem)``.
            event_classes: Only calls with an event of these classes; any if none is given. A base class stands for all
                that derive from it, ``Event`` for all that derive from ``Event``.
            after: So many such calls succeed first, 0 or more.
            times: So many fail then, 1 or more; None is all.

        Raises:
            NotAnEventError: One of the classes is no event class.
            InvalidArgumentError: The error is no exception, or a number is outside its range.
        """
        self._faults.append(Fault(error, event_classes, after=after, times=times, is_confirmation_lost=False))

    def lose_confirmation(self, error: Exception, *event_classes: type, after: int = 0, times: int | None = 1) -> None:
        """Let calls do what they should and raise ``error`` nevertheless: the caller cannot know that it was done.

        It is what a broken connection leaves behind between a commit and its answer. The arguments are those of
        ``refuse``.

        Raises:
            NotAnEventError: One of the classes is no event class.
            InvalidArgumentError: The error is no exception, or a number is outside its range.
        """
        self._faults.append(Fault(error, event_classes, after=after, times=times, is_confirmation_lost=True))

    def clear(self) -> None:
        """Let nothing fail any more."""
        self._faults.clear()

    def around(self, handler: HandlerT) -> HandlerT:
        """Return ``handler`` so that it fails by this plan, to be given to ``bus.on(...)``; the name stays its own.

        One whose confirmation is lost did its work, and is called again: a test of what a repetition does.
        """

        @functools.wraps(handler)
        async def attempt(event: object, *envelope: object) -> object:
            with self.carried_out([type(event)]):
                return await cast("Callable[..., Awaitable[object]]", handler)(event, *envelope)

        @functools.wraps(handler)
        def attempt_in_thread(event: object, *envelope: object) -> object:
            with ExitStack() as failing:
                failing.enter_context(self.carried_out([type(event)]))
                made = handler(event, *envelope)
                # A plain function may still have made a coroutine, as a decorator without async def does.
                return _awaited(made, failing.pop_all()) if isawaitable(made) else made

        return cast("HandlerT", attempt if is_async(handler) else attempt_in_thread)

    @contextmanager
    def carried_out(self, event_classes: Iterable[type]) -> Generator[None, None, None]:
        """Fail by this plan around a call with events of ``event_classes``. The doubles use this."""
        fault = self.next_of(event_classes)
        if fault is None:
            yield
            return
        if fault.is_confirmation_lost:
            yield
        raise fault.error

    def next_of(self, event_classes: Iterable[type]) -> Fault | None:
        """Count a call with events of ``event_classes``, and return what it fails of, or None."""
        given = list(event_classes)
        for fault in self._faults:
            if fault.strikes(given):
                if fault.is_over:
                    self._faults.remove(fault)
                return fault
        return None


async def _awaited(made: Awaitable[object], failing: ExitStack) -> object:
    with failing:
        return await made


def _checked(event_class: object) -> type:
    if not isinstance(event_class, type):
        raise NotAnEventError(event_class)
    if event_class is not Event:
        schema_of(event_class)
    return event_class
