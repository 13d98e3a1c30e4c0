"""Parcels in lines, one for each key: those of one line are sent one after the other, those of many at once."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from avx_events.core.tasks import TaskScope
from avx_events.patterns.outbox.parcel import Parcel

Line: TypeAlias = deque[Parcel]


class Lines:
    """Sends what it is given, at most so many at once.

    The next parcel of a key is sent when the one before it is settled, so that none overtakes another that is refused.
    Those without a key have no order.
    """

    def __init__(self, send: Callable[[Parcel], Awaitable[None]], *, most: int, scope: TaskScope, name: str) -> None:
        """Begin empty.

        Args:
            send: Returns when a parcel is settled.
            most: How many are sent at once.
            scope: Where the tasks run that send; they end when ``send`` raises, or there is nothing to send.
            name: Of these tasks.
        """
        self._send: Final = send
        self._most: Final = most
        self._scope: Final = scope
        self._name: Final = name
        self._by_key: dict[str, Line] = {}
        self._ready: deque[Line] = deque()
        self._workers = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything was sent."""
        return not self._workers and not self._ready

    def put(self, parcel: Parcel) -> None:
        """Put one at the end of its line."""
        key = parcel.key
        line = self._by_key.get(key) if key else None
        if line is not None:
            line.append(parcel)
            return
        line = deque((parcel,))
        if key:
            self._by_key[key] = line
        self._ready.append(line)
        if self._workers < self._most:
            self._workers += 1
            self._scope.spawn(self._work(), name=self._name)

    def behind(self, parcel: Parcel) -> Sequence[Parcel]:
        """Return those that wait in line behind ``parcel``, which is being sent."""
        line = self._by_key.get(parcel.key, ())
        return [other for other in line if other is not parcel]

    def drop_behind(self, parcel: Parcel) -> None:
        """Forget those that wait in line behind ``parcel``, which is being sent."""
        line = self._by_key.get(parcel.key)
        while line is not None and line[-1] is not parcel:
            line.pop()

    async def _work(self) -> None:
        try:
            while self._ready:
                await self._serve(self._ready.popleft())
        finally:
            self._workers -= 1

    async def _serve(self, line: Line) -> None:
        while True:
            parcel = line[0]
            await self._send(parcel)
            line.popleft()
            if not line:
                break
        if parcel.key:
            del self._by_key[parcel.key]
