"""What a scenario led to, and the checks that a test makes on it; a check that fails is an ``AssertionError``."""

import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from textwrap import indent
from typing import Any, Final, Generic, Self, TypeVar

from avx_events.store.ports import Connection
from avx_events.testing.differences import difference, differing_fields, one_line

# pytest shows the line of the test, and not these.
__tracebackhide__ = True

_LONGEST_LINE: Final = 100

StateT = TypeVar("StateT")
OutcomeT = TypeVar("OutcomeT", bound="Outcome")


class Outcome:
    """What an action gave: events, a result, or an error.

    All checks but ``then_raises`` fail where the action raised and nobody expects it. They can be chained.
    """

    def __init__(self, events: Sequence[Any] = (), *, result: object = None, error: Exception | None = None) -> None:
        """Keep what the action recorded or appended, and what it returned or raised."""
        self._events = list(events)
        self._result = result
        self._error = error
        self._is_error_expected = False

    @property
    def has_unexpected_error(self) -> bool:
        """Whether the action raised what no check has asked for."""
        return self._error is not None and not self._is_error_expected

    def then(self, *events: object) -> Self:
        """Expect exactly ``events``, in this order.

        Raises:
            AssertionError: It gave others; the text shows the fields that differ.
        """
        self.raise_unexpected()
        if self._events != list(events):
            text = f"the events are not those expected (- expected, + actual):\n{difference(events, self._events)}"
            raise AssertionError(text)
        return self

    def then_nothing(self) -> Self:
        """Expect no event.

        Raises:
            AssertionError: There is one.
        """
        self.raise_unexpected()
        if self._events:
            raise AssertionError("\n".join(["no event expected, but there are:", *_listed(self._events)]))
        return self

    def then_returns(self, result: object) -> Self:
        """Expect that the action returned ``result``.

        Raises:
            AssertionError: It returned something else.
        """
        self.raise_unexpected()
        if self._result != result:
            text = difference([result], [self._result])
            raise AssertionError(f"the result is not the one expected (- expected, + actual):\n{text}")
        return self

    def then_raises(self, error_class: type[Exception], *, match: str | None = None) -> Self:
        """Expect that the action raised an ``error_class``. What it gave before can be checked as well.

        Args:
            error_class: Its class, or a base of it.
            match: A regular expression that its text must have somewhere.

        Raises:
            AssertionError: It raised nothing or something else, or the text does not match.
        """
        problem = self._problem_with_error(error_class, match)
        if problem is not None:
            raise AssertionError(problem) from self._error
        self._is_error_expected = True
        return self

    def raise_unexpected(self) -> None:
        """Fail where the action raised what no check has asked for.

        Raises:
            AssertionError: It did; the error is its cause.
        """
        if self.has_unexpected_error:
            raise AssertionError(f"the action raised {type(self._error).__name__}: {self._error}") from self._error

    def _problem_with_error(self, error_class: type[Exception], match: str | None) -> str | None:
        error, wanted = self._error, error_class.__name__
        if error is None:
            return "\n".join([f"{wanted} expected, but nothing was raised; it gave:", *self._given()])
        if not isinstance(error, error_class):
            return f"{wanted} expected, not {type(error).__name__}: {error}"
        if match is not None and not re.search(match, str(error)):
            return f"the text of {type(error).__name__} does not match {match!r}: {error}"
        return None

    def _given(self) -> list[str]:
        return _listed(self._events) or [f"  the result {one_line(self._result)}, and no event"]


class AggregateOutcome(Outcome, Generic[StateT]):
    """What an action on an aggregate gave: the events it recorded, and the state they made."""

    def __init__(
        self,
        aggregate: StateT,
        events: Sequence[Any] = (),
        *,
        result: object = None,
        error: Exception | None = None,
    ) -> None:
        """Keep the ``aggregate`` as it is now, and what the action gave."""
        super().__init__(events, result=result, error=error)
        self.aggregate = aggregate

    def then_state(self, **fields: object) -> Self:
        """Expect these values of the aggregate's fields and properties; others are not looked at.

        Raises:
            AssertionError: One of them has another value, or there is no such field.
        """
        self.raise_unexpected()
        wrong = [
            _about_field(self.aggregate, name, expected)
            for name, expected in fields.items()
            if not hasattr(self.aggregate, name) or getattr(self.aggregate, name) != expected
        ]
        if wrong:
            raise AssertionError(
                "\n".join([f"the state of {type(self.aggregate).__name__} is not as expected:", *wrong])
            )
        return self


class ProjectionOutcome(Outcome):
    """What events made of a projection: rows in the store's database, or an error."""

    def __init__(
        self, transaction: Callable[[], AbstractAsyncContextManager[Connection]], error: Exception | None
    ) -> None:
        """Read rows in a ``transaction``; ``error`` is what a handler raised."""
        super().__init__(error=error)
        self._transaction = transaction

    async def then_rows(self, sql: str, rows: Sequence[tuple[Any, ...]], params: Sequence[object]) -> None:
        """Expect that the query gives ``rows``."""
        self.raise_unexpected()
        async with self._transaction() as connection:
            found = await connection.fetch(sql, *params)
        if found != list(rows):
            text = difference(rows, found)
            raise AssertionError(f"the rows are not those expected (- expected, + actual), of {sql!r}:\n{text}")


Check = Callable[[OutcomeT], Awaitable[object] | object]


class PendingOutcome(Generic[OutcomeT]):
    """The checks on an outcome that is still to come: ``await`` plays the scenario, then makes them in order.

    One that is not awaited checks nothing; Python warns of a coroutine that was never awaited.
    """

    def __init__(self, scene: AbstractAsyncContextManager[OutcomeT]) -> None:
        """Play ``scene``, which gives the outcome and ends after the checks."""
        self._checks: list[Check[OutcomeT]] = []
        # Made now, not in __await__, so that it is missed when nobody awaits it.
        self._play = _play_the_scenario(scene, self._checks)

    def __await__(self) -> Generator[Any, None, None]:
        return self._play.__await__()

    def then_raises(self, error_class: type[Exception], *, match: str | None = None) -> Self:
        """Expect an ``error_class``; see ``Outcome.then_raises``."""
        return self._expect(lambda outcome: outcome.then_raises(error_class, match=match))

    def _expect(self, check: "Check[OutcomeT]") -> Self:
        self._checks.append(check)
        return self


class PendingEvents(PendingOutcome[OutcomeT]):
    """The checks of an action that gives events."""

    def then(self, *events: object) -> Self:
        """Expect exactly ``events``, in this order."""
        return self._expect(lambda outcome: outcome.then(*events))

    def then_nothing(self) -> Self:
        """Expect no event."""
        return self._expect(lambda outcome: outcome.then_nothing())

    def then_returns(self, result: object) -> Self:
        """Expect that the action returned ``result``."""
        return self._expect(lambda outcome: outcome.then_returns(result))


class PendingAggregate(PendingEvents[AggregateOutcome[StateT]]):
    """The checks of an action on an aggregate."""

    def then_state(self, **fields: object) -> Self:
        """Expect these values of the aggregate's fields and properties; others are not looked at."""
        return self._expect(lambda outcome: outcome.then_state(**fields))


class PendingRows(PendingOutcome[ProjectionOutcome]):
    """The checks of a projection."""

    def then_rows(self, sql: str, *rows: tuple[Any, ...], params: Sequence[object] = ()) -> Self:
        """Expect that the query gives exactly ``rows``, in this order: say ``ORDER BY`` where there are several.

        Args:
            sql: A query of the store's database, SQLite's.
            rows: A tuple for each row; none for no row.
            params: For the placeholders of the query.
        """
        return self._expect(lambda outcome: outcome.then_rows(sql, rows, params))


async def _play_the_scenario(scene: AbstractAsyncContextManager[OutcomeT], checks: "Sequence[Check[OutcomeT]]") -> None:
    async with scene as outcome:
        for check in checks:
            made = check(outcome)
            if isinstance(made, Coroutine):
                await made
        outcome.raise_unexpected()


def _listed(events: Sequence[object]) -> list[str]:
    return [f"  {one_line(event)}" for event in events]


def _about_field(aggregate: object, name: str, expected: object) -> str:
    if not hasattr(aggregate, name):
        return f"  {name} is not there, {one_line(expected)} expected"
    actual: object = getattr(aggregate, name)
    line = f"  {name} is {one_line(actual)}, not {one_line(expected)}"
    if len(line) <= _LONGEST_LINE:
        return line
    return f"  {name} is another one (- expected, + actual):\n{indent(differing_fields([expected], [actual]), '    ')}"
