"""Carries out what processes wished for: commands in order, deadlines in time. One runner at a time does."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from avx_events.core import cloudevents
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, HandlerKilledError, PermanentError, UsageError
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter
from avx_events.core.tasks import Changes, OwnedTask, TaskScope, is_interrupted
from avx_events.patterns.cqrs import CommandBus
from avx_events.patterns.lease import RENEWALS_IN_A_LEASE, Lease, LeaseLostError
from avx_events.patterns.pause import pause
from avx_events.patterns.process.process_manager import LONGEST_WAIT_S
from avx_events.patterns.process.rows import DueDeadline, Rows, WaitingCommand
from avx_events.patterns.process.steps import Steps, said_of
from avx_events.patterns.shared_time import shared_now_us
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

if TYPE_CHECKING:
    from avx_events.core.metadata import EventEnvelope

log = logging.getLogger("avx_events.process")

_MOST_DEADLINES: Final = 100
# How often what is due is looked for where nobody says that something has changed, in seconds.
_LOOK_S: Final = 1.0


class Dispatcher:
    """Dispatches commands and fires deadlines while the lease is held.

    Attributes:
        dispatched: Commands that were carried out.
        failed: Attempts that failed.
        fired: Deadlines that were reacted to.
        is_at_work: Whether ``run`` runs.
    """

    def __init__(
        self,
        store: EventStore,
        name: str,
        rows: Rows,
        steps: Steps,
        commands: CommandBus,
        *,
        lease: Lease,
        retry: Retry,
        concurrency: int,
        reached: Callable[[], int],
        clock: Clock,
        changes: Changes,
    ) -> None:
        """Dispatch through ``commands``, for so many processes at once.

        Args:
            store: Whose database.
            name: Of the process manager.
            rows: Its rows.
            steps: Its reactions, to deadlines and failures.
            commands: Carries commands out.
            lease: Says whether this runner is the active one.
            retry: How often a command that fails is tried.
            concurrency: Commands that run at once, each of another process.
            reached: Says up to which position all of the log is reacted to.
            clock: Time.
            changes: Told when something was written.
        """
        self._store: Final = store
        self._name: Final = name
        self._rows: Final = rows
        self._steps: Final = steps
        self._commands: Final = commands
        self._lease: Final = lease
        self._retry: Final = retry
        self._concurrency: Final = concurrency
        self._reached: Final = reached
        self._clock: Final = clock
        self._changes: Final = changes
        self._trouble: Final = Trouble(f"process {name!r}: the store", log=log, clock=clock)
        self._scope: Final = TaskScope()
        # Processes whose command runs, or has run and is not written yet; those of the latter, with its id.
        self._running: Final[set[str]] = set()
        self._done: Final[dict[str, str]] = {}
        self._interrupted: list[str] = []
        # Where the log ended when deadlines were seen to be due, and when that was.
        self._horizon: tuple[int, int] | None = None
        self._is_leaving = False
        self.is_at_work = False
        self.dispatched = self.failed = self.fired = 0

    @property
    def running(self) -> int:
        """How many commands run now."""
        return len(self._running - self._done.keys())

    def leave(self) -> None:
        """Begin nothing more; ``run`` returns when what runs is done."""
        self._is_leaving = True
        self._changes.tell()

    async def run(self) -> None:
        """Dispatch and fire until told to leave; cancelled, it cancels what runs, for who comes next.

        Raises:
            LeaseLostError: The lease is over.
            ClosedError: The store is closed.
        """
        attempt = 1
        self.is_at_work = True
        try:
            while self._running or not self._is_leaving:
                heard, began_s = self._changes.told, self._clock.monotonic()
                try:
                    next_s = await self._look()
                except ClosedError:
                    raise
                except AvxEventsError as exc:
                    attempt += 1
                    await self._trouble.wait(exc, attempt, longest_s=self._lease.lease_s / RENEWALS_IN_A_LEASE)
                    if not self._lease.is_held:
                        raise LeaseLostError from exc
                else:
                    attempt = 1
                    self._trouble.end()
                    await self._wait(heard, began_s, next_s)
        finally:
            for task in await self._scope.cancel():
                log.error("%s swallowed its cancellation and still runs", task.get_name())
            await self._give_back()
            self.is_at_work = False

    async def _look(self) -> float:
        """Write what is done, begin what may begin, fire what is due, and return how many seconds nothing else is."""
        before = self._lease.instant()
        done = dict(self._done)
        # What ends while the database answers may still be among the answers.
        busy = self._running - done.keys()
        was_held = self._lease.is_held
        is_worn = self._lease.left_s <= self._lease.lease_s * (1 - 1 / RENEWALS_IN_A_LEASE)
        async with self._store.transaction() as connection:
            now_us = await shared_now_us(connection, self._clock)
            await self._rows.remove_commands(connection, [*done.values()])
            found = await self._waiting(connection, now_us, busy) if was_held else []
            is_asked = is_worn or bool(found)
            is_ours = not is_asked or await self._lease.renew(connection)
            if is_ours:
                await self._rows.count_attempts(connection, [command.command_id for command in found])
            due = () if self._is_leaving else await self._rows.due_deadlines(connection, now_us, _MOST_DEADLINES)
            next_us = await self._rows.next_us(connection, now_us)
        self._settle(done)
        if not is_ours:
            self._lease.lose()
            raise LeaseLostError
        if is_asked:
            self._lease.extend(before)
        if not was_held:
            self._changes.tell()  # what was passed over may begin now
        self._begin(found)
        await self._fire(due, now_us)
        return _LOOK_S if next_us is None else (next_us - now_us) / 1_000_000

    async def _waiting(self, connection: Connection, now_us: int, busy: set[str]) -> list[WaitingCommand]:
        room = self._concurrency - len(busy)
        if room <= 0 or self._is_leaving:
            return []
        # Those of processes whose command runs are among the first ones, and are passed over.
        found = await self._rows.first_commands(connection, now_us, self._concurrency + len(busy))
        return [command for command in found if command.process not in busy][:room]

    def _settle(self, done: Mapping[str, str]) -> None:
        for process in done:
            del self._done[process]
            self._running.discard(process)
        if done and self._is_leaving:
            self._changes.tell()  # it was perhaps the last one

    def _begin(self, found: Sequence[WaitingCommand]) -> None:
        if not self._lease.is_held:  # this process stood still meanwhile
            return
        for command in found:
            self._running.add(command.process)
            task = f"avx-events process {self._name}: command {command.command_id}"
            self._scope.spawn(self._carry_out(command), name=task)

    async def _fire(self, due: Sequence[DueDeadline], now_us: int) -> None:
        """React to deadlines that are due, once all that was in the log by then is reacted to: it may cancel them."""
        if not due:
            self._horizon = None
            return
        if self._horizon is None:
            self._horizon = await self._store.last_position(), now_us
        position, until_us = self._horizon
        if self._reached() < position or not self._lease.is_held:
            return
        self._horizon = None
        # One of each process: it may cancel its others.
        firsts = {deadline.process: deadline for deadline in reversed(due) if deadline.due_us <= until_us}
        async with self._store.transaction() as connection:
            fired = await self._steps.react_to_deadlines(connection, [*firsts.values()], now_us=now_us)
        self.fired += fired
        self._changes.tell()

    async def _wait(self, heard: int, began_s: float, next_s: float) -> None:
        """Return when something has changed, the next thing is due, or the lease is to be renewed.

        All of it counts from the instant at which the last look began: things may have become due during it.
        """
        longest_s = min(_LOOK_S, self._lease.lease_s / RENEWALS_IN_A_LEASE / 2, next_s)
        left_s = began_s + longest_s - self._clock.monotonic()
        if left_s <= 0:
            return
        timer = self._clock.call_later(left_s, self._changes.tell)
        try:
            await self._changes.wait(since=heard)
        finally:
            timer.cancel()

    async def _carry_out(self, waiting: WaitingCommand) -> None:
        try:
            error = await self._attempt(waiting)
            if error is None:
                self._done[waiting.process] = waiting.command_id
                return
            while not await self._is_failure_written(waiting, error):
                await pause(self._clock, _LOOK_S)
        except asyncio.CancelledError:
            self._interrupted.append(waiting.command_id)
            raise
        finally:
            if waiting.process not in self._done:
                self._running.discard(waiting.process)
            self._changes.tell()

    async def _attempt(self, waiting: WaitingCommand) -> BaseException | None:
        if waiting.attempts >= self._retry.attempts:  # each of them ended its process
            return HandlerKilledError(f"command {waiting.command_id}", waiting.attempts)
        try:
            envelope = cloudevents.decode(waiting.document, clock=self._clock)
            await self._commands.dispatch(envelope)
        except Discard as exc:
            log.info("process %r %r: a command is discarded: %s", self._name, waiting.process, exc)
        except BaseException as exc:
            if is_interrupted(exc) and not _is_own_doing():
                raise
            self.failed += 1
            return exc
        self.dispatched += 1
        return None

    async def _give_back(self) -> None:
        """Write what is done, and take back the attempts that were cut off, which say nothing about their commands."""
        done, interrupted = dict(self._done), self._interrupted
        self._interrupted = []
        self._settle(done)
        self._running.clear()
        if not done and not interrupted:
            return
        try:
            async with self._store.transaction() as connection:
                await self._rows.remove_commands(connection, [*done.values()])
                await self._rows.uncount_attempts(connection, interrupted)
        except AvxEventsError as exc:
            log.warning("process %r: %d commands are dispatched again: %s", self._name, len(done), exc)

    async def _is_failure_written(self, waiting: WaitingCommand, error: BaseException) -> bool:
        """Write what came of a command; False where the store does not take it now."""
        try:
            async with self._store.transaction() as connection:
                now_us = await shared_now_us(connection, self._clock)
                # Where another runner has the lease, what comes of the command is for that to say.
                if await self._lease.renew(connection):
                    await self._write_failure(connection, waiting, error, now_us)
        except ClosedError:  # whoever comes next dispatches it again
            return True
        except AvxEventsError as exc:
            log.warning("process %r: the end of a command is not written yet: %s", self._name, exc)
            return False
        return True

    async def _write_failure(
        self, connection: Connection, waiting: WaitingCommand, error: BaseException, now_us: int
    ) -> None:
        text = said_of(error)
        delay_s = self._delay_s(waiting.attempts + 2, error)
        if delay_s is not None:
            log.warning("process %r %r: a command failed and is tried again: %s", self._name, waiting.process, text)
            await self._rows.postpone(connection, waiting.command_id, now_us + round(delay_s * 1_000_000))
            return
        is_reacted_to = await self._steps.react_to_failure(
            connection, waiting.process, self._envelope(waiting), text, now_us=now_us
        )
        if is_reacted_to:
            await self._rows.remove_commands(connection, [waiting.command_id])
        else:
            await self._rows.block(connection, waiting.command_id, text)

    def _envelope(self, waiting: WaitingCommand) -> "EventEnvelope[Any] | None":
        try:
            return cloudevents.decode(waiting.document, clock=self._clock)
        except AvxEventsError:  # its class is gone, or another one
            return None

    def _delay_s(self, next_attempt: int, error: BaseException) -> float | None:
        if isinstance(error, UsageError | PermanentError | Reject):
            return None
        delay_s = self._retry.delay_before(next_attempt, jitter=random.random())  # noqa: S311 - spreads load
        if delay_s is not None and isinstance(error, RetryAfter):
            return min(error.delay_s, LONGEST_WAIT_S)
        return delay_s


def _is_own_doing() -> bool:
    """Tell whether the running task is cancelled by its handler, and by nobody else."""
    task = asyncio.current_task()
    return isinstance(task, OwnedTask) and task.forgive()
