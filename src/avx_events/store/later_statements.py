"""Statements that a transaction puts off, so that many of them go to the database together."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TypeAlias

from avx_events.core.errors import LaterStatementError, StatementError

MOST_LATER: Final = 500
"""Statements that are put off at the most; they are sent with the one that makes them so many."""

Group: TypeAlias = tuple[str, list[tuple[object, ...]]]
"""A statement, and the parameters of each time that it is to run."""


class LaterStatements:
    """What one transaction has put off.

    Attributes:
        is_waiting: Whether ``take`` has something to give or to raise.
    """

    __slots__ = ("_count", "_groups", "_refused", "is_waiting")

    def __init__(self) -> None:
        """Begin with none."""
        self._groups: list[Group] = []
        self._count = 0
        self._refused: tuple[str, str, int] | None = None
        self.is_waiting = False

    def add(self, sql: str, params: tuple[object, ...]) -> bool:
        """Put a statement off; return whether all of them are to be sent now."""
        groups = self._groups
        if groups and groups[-1][0] == sql:
            groups[-1][1].append(params)
        else:
            groups.append((sql, [params]))
        self.is_waiting = True
        self._count += 1
        return self._count >= MOST_LATER

    def take(self) -> list[Group]:
        """Return what is to be sent, in its order, statements with the same text in a row as one group.

        Raises:
            LaterStatementError: One was not done before, and the transaction must not be committed without it.
        """
        if self._refused is not None:
            raise LaterStatementError(*self._refused)
        groups, self._groups, self._count, self.is_waiting = self._groups, [], 0, False
        return groups

    @contextmanager
    def sending(self, group: Group) -> Generator[None, None, None]:
        """Send ``group`` within the block; where that fails or is cancelled, ``take`` says so from then on.

        Raises:
            LaterStatementError: The block raised a ``StatementError``.
        """
        sql, rows = group
        try:
            yield
        except LaterStatementError:  # a block within has seen to it
            raise
        except BaseException as exc:
            problem = exc.problem if isinstance(exc, StatementError) else f"{exc}" or type(exc).__name__
            self._refused, self.is_waiting = (sql, problem, len(rows)), True
            if isinstance(exc, StatementError):
                raise LaterStatementError(*self._refused) from exc
            raise
