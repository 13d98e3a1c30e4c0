"""What the event bus and the topic bus have in common: their life, their dead letters, their figures."""

from types import TracebackType
from typing import Self

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.engine import Engine
from avx_events.bus.statistics import BusStatistics
from avx_events.core.errors import NoDeadLetterQueueError


class DeliveringBus:
    """A bus that delivers events to handlers and subscribers; ``EventBus`` and ``TopicBus`` are the two.

    They differ in how a subscription says what it wants: a base class, and not functions of an engine, so that code can
    be written for both.
    """

    __slots__ = ("_engine", "_published")

    _engine: Engine
    _published: int

    @property
    def dead_letter_queue(self) -> DeadLetterQueue:
        """The queue that the bus was given.

        Raises:
            NoDeadLetterQueueError: It was given none.
        """
        queue = self._engine.dead_letters
        if queue is None:
            raise NoDeadLetterQueueError(self._engine.life.name)
        return queue

    async def start(self) -> None:
        """Run the handlers. Harmless when repeated.

        Raises:
            ClosedError: The bus was closed.
            WrongLoopError: The bus belongs to another event loop.
        """
        self._engine.life.start()

    async def close(self) -> None:
        """Stop in good order; harmless when repeated.

        Publishers from outside are refused at once. Handlers finish what is queued, retries and what they themselves
        publish included, for up to ``drain_timeout_s`` seconds; what is not done then becomes a dead letter with the
        reason ``stopped``. Pull subscribers read what is queued for them, and then the end.

        Raises:
            HandlerWaitError: One of its own handlers calls it.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._engine.life.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def settled(self) -> None:
        """Wait until every event, and all that handlers published because of it, is handled.

        Delivery blocks that are open are waited for, pull subscribers that nobody reads are not.

        Raises:
            HandlerWaitError: A handler or delivery block of this bus calls it.
            NotStartedError: There are handlers that nobody runs.
            EngineFailedError: The bus delivers nothing any more.
            WrongLoopError: The bus belongs to another event loop.
        """
        await self._engine.life.settled()

    async def republish(self, letter: DeadLetter | str) -> bool:
        """Give a dead letter, or the one of an id, back to the handler that failed, and to no other.

        Returns once it is in line; the letter leaves the queue when the handler succeeds, and is updated when it fails.

        Returns:
            False where the letter is being redriven already.

        Raises:
            DeadLetterNotFoundError: The queue does not hold it.
            NoHandlerError: The bus has no handler of its name.
            NoDeadLetterQueueError: The bus has no dead letter queue.
            InvalidArgumentError: It is no letter, or its bytes could not be decoded: there is no event to handle.
            NotStartedError: The bus was not started.
            ClosedError: The bus is closed.
            EngineFailedError: The bus failed, and does nothing any more.
            WrongLoopError: The bus belongs to another event loop.
        """
        return await self._engine.redrive(letter)

    def statistics(self) -> BusStatistics:
        """Return what was published, delivered, handled, retried, dead-lettered and dropped, and what waits."""
        return self._engine.statistics(self._count_in_line())

    def _count_in_line(self) -> int:
        """Return how many events found room and were put in line, past the engine's door."""
        return self._published
