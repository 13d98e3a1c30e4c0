"""A pull subscriber in a group: an event that was read is done when its reader asks for the next one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, cast

from avx_events.bus.dispatcher import Dispatcher
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.work import Work
from avx_events.core.arguments import whole
from avx_events.core.metadata import EventEnvelope

EventT = TypeVar("EventT")


class GroupSubscriber(Subscriber[EventT]):
    """The reading end of a subscription in a group, as ``Subscriber`` in all that it gives.

    An event is acknowledged when the task that read it asks for the next one, or when the subscriber is closed in good
    order: not while an exception is on its way. Until then the broker keeps it for whoever comes next.
    """

    __slots__ = ("_taken",)

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        owner: object,
        on_idle: Callable[[], None],
        on_close: Callable[["Subscriber[EventT]"], None],
        on_stopped: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Read what ``dispatcher`` has; see ``Subscriber``."""
        super().__init__(dispatcher, owner=owner, on_idle=on_idle, on_close=on_close, on_stopped=on_stopped)
        self._deliveries.is_read_on = self._is_read_by_others
        self._taken: dict[asyncio.Task[Any] | None, list[Work]] = {}

    async def recv(self) -> EventT | None:
        """Return the next event, waiting for one, and acknowledge the one that this task read before.

        Returns:
            None once the bus is closed.

        Raises:
            WrongLoopError: It would have to wait, and the bus belongs to another event loop.
        """
        taken = await self._take(1)
        return cast("EventT", taken[0].envelope.event) if taken else None

    async def __aiter__(self) -> AsyncGenerator[EventT, None]:
        while taken := await self._take(1):
            yield taken[0].envelope.event

    async def recv_envelope(self) -> EventEnvelope[EventT] | None:
        """Return the next event in its envelope, as ``recv`` does.

        Raises:
            WrongLoopError: As for ``recv``.
        """
        taken = await self._take(1)
        return taken[0].envelope if taken else None

    async def recv_many(self, limit: int = 100) -> list[EventT]:
        """Wait for one event, and return it with what is there behind it; all are acknowledged at the next call.

        Args:
            limit: At most so many, 1 or more.

        Returns:
            1 to ``limit`` events; none once the bus is closed.

        Raises:
            InvalidArgumentError: The limit is below 1.
            WrongLoopError: As for ``recv``.
        """
        return [work.envelope.event for work in await self._take(whole("limit", limit, least=1))]

    async def close(self) -> None:
        """Take no more events, and acknowledge those that were read; the others are left to the group.

        Harmless when repeated.
        """
        self.acknowledge_read()
        await super().close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._taken.clear()
        await self.close()

    def acknowledge_read(self) -> None:
        """Acknowledge what was read, but not where the reader still works on it or failed."""
        for task in [task for task in self._taken if not (_is_another(task) or _has_failed(task))]:
            self._acknowledge(task)

    def _is_read_by_others(self) -> bool:
        """Tell whether another task that still runs has read an event, and may be working on it."""
        return any(_is_another(task) for task in self._taken)

    async def _take(self, limit: int) -> list[Work]:
        task = asyncio.current_task()
        self._acknowledge(task)
        while True:
            first = await self._first()
            if first is not None:
                taken = self._taken[task] = [first]
                while len(taken) < limit and (work := self._next()) is not None:
                    taken.append(work)
                return taken
            if self._subscription.is_closed and self._dispatcher.is_empty():
                return []
            await self._subscription.wait()

    async def _first(self) -> Work | None:
        """Return what is there to read, if there is something."""
        while (work := self._dispatcher.take()) is not None:
            try:
                if work.burial is not None:
                    await self._dispatcher.bury(work)
                    continue
                is_ours = not work.must_count or await work.count(may_wait=False)
            except BaseException:  # this reader was cancelled: the next one has it
                self._dispatcher.give_back(work)
                raise
            if is_ours:
                self._dispatcher.leave_lane(work)  # who reads keeps the order itself
                return work
            self._dispatcher.drop(work)
        return None

    def _next(self) -> Work | None:
        """Return what else is there and can be read at once."""
        work = self._dispatcher.take()
        if work is None:
            return None
        if work.burial is not None or work.must_count:
            self._dispatcher.give_back(work)
            return None
        self._dispatcher.leave_lane(work)
        return work

    def _acknowledge(self, task: "asyncio.Task[Any] | None") -> None:
        for work in self._taken.pop(task, ()):
            work.done()
        self._deliveries.look_idle()


def _has_failed(task: "asyncio.Task[Any] | None") -> bool:
    return task is not None and task.done() and (task.cancelled() or task.exception() is not None)


def _is_another(task: "asyncio.Task[Any] | None") -> bool:
    return task is not None and not task.done() and task is not asyncio.current_task()
