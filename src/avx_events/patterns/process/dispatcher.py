"""Carries out what processes wished for: commands in order, deadlines in time. One runner at a time does."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from avx_events.core import cloudevents
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, PermanentError, UsageError
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter
from avx_events.core.tasks import TaskScope, is_interrupted
from avx_events.patterns.cqrs import CommandBus
from avx_events.patterns.outbox.lease import Lease
from avx_events.patterns.outbox.shared_time import shared_now_us
from avx_events.patterns.outbox.trouble import Trouble
from avx_events.patterns.pause import pause
from avx_events.patterns.process.bell import Bell
from avx_events.patterns.process.rows import Rows, WaitingCommand
from avx_events.patterns.process.steps import Steps
from avx_events.store.event_store import EventStore

if TYPE_CHECKING:
    from avx_events.core.metadata import EventEnvelope

log = logging.getLogger("avx_events.process")

RENEWALS_IN_A_LEASE: Final = 3
_MOST_DEADLINES: Final = 100
# How often what is due is looked for where nobody says that something has changed, in seconds.
_LOOK_S: Final = 1.0


class LeaseLostError(Exception):
    """Another runner may be the active one now. Nobody outside sees it."""


class Dispatcher:
    """Dispatches commands and fires deadlines while the lease is held.

    Attributes:
        dispatched: Commands that were carried out.
        failed: Attempts that failed.
        fired: Deadlines that were reacted to.
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
        clock: Clock,
        bell: Bell,
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
            clock: Time.
            bell: Rings when something was written.
        """
        self._store: Final = store
        self._name: Final = name
        self._rows: Final = rows
        self._steps: Final = steps
        self._commands: Final = commands
        self._lease: Final = lease
        self._retry: Final = retry
        self._concurrency: Final = concurrency
        self._clock: Final = clock
        self._bell: Final = bell
        self._trouble: Final = Trouble(f"process {name!r}: the store", clock=clock)
        self._scope: Final = TaskScope()
        self._running: Final[set[str]] = set()
        self.dispatched = self.failed = self.fired = 0

    @property
    def running(self) -> int:
        """How many commands run now."""
        return len(self._running)

    async def run(self) -> None:
        """Dispatch and fire until cancelled; what runs then is cancelled too, and dispatched again by who comes next.

        Raises:
            LeaseLostError: The lease is over.
            ClosedError: The store is closed.
        """
        attempt = 1
        try:
            while True:
                heard = self._bell.rung
                try:
                    await self._renew()
                    next_us, now_us = await self._fire_and_dispatch()
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
                    await self._wait(heard, next_us, now_us)
        finally:
            for task in await self._scope.cancel():
                log.error("%s swallowed its cancellation and still runs", task.get_name())
            self._running.clear()

    async def drain(self, *, timeout_s: float) -> None:
        """Wait for the commands that run, up to ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._running:
                    await self._bell.wait(self._bell.rung)
        except TimeoutError:
            log.warning("process %r: %d commands were not done in time", self._name, len(self._running))

    async def _renew(self) -> None:
        if self._lease.left_s > self._lease.lease_s * (1 - 1 / RENEWALS_IN_A_LEASE):
            return
        before = self._lease.instant()
        async with self._store.transaction() as connection:
            is_ours = await self._lease.renew(connection)
        if not is_ours:
            self._lease.lose()
            raise LeaseLostError
        self._lease.extend(before)

    async def _fire_and_dispatch(self) -> tuple[int | None, int]:
        async with self._store.transaction() as connection:
            now_us = await shared_now_us(connection, self._clock)
            due = await self._rows.due_deadlines(connection, now_us, _MOST_DEADLINES)
        for deadline in due:
            async with self._store.transaction() as connection:
                if await self._rows.take_deadline(connection, deadline):
                    await self._steps.react_to_deadline(connection, deadline, now_us=now_us)
                    self.fired += 1
            self._bell.ring()
        async with self._store.transaction() as connection:
            begun = await self._claim(connection, now_us)
            next_us = await self._rows.next_us(connection)
        for command in begun:
            self._running.add(command.process)
            task = f"avx-events process {self._name}: command {command.command_id}"
            self._scope.spawn(self._carry_out(command), name=task)
        return next_us, now_us

    async def _claim(self, connection: Any, now_us: int) -> Sequence[WaitingCommand]:
        room = self._concurrency - len(self._running)
        if room <= 0 or not self._lease.is_held:
            return ()
        # Those of processes whose command runs are among the first ones, and are passed over.
        found = await self._rows.first_commands(connection, now_us, self._concurrency + len(self._running))
        begun = [command for command in found if command.process not in self._running][:room]
        await self._rows.count_attempts(connection, [command.command_id for command in begun])
        return begun

    async def _wait(self, heard: int, next_us: int | None, now_us: int) -> None:
        """Return when something has changed, the next thing is due, or the lease is to be renewed."""
        longest_s = min(_LOOK_S, self._lease.lease_s / RENEWALS_IN_A_LEASE / 2)
        if next_us is not None and not (next_us <= now_us and self._running):
            longest_s = min(longest_s, max(next_us - now_us, 0) / 1_000_000)
        timer = self._clock.call_later(longest_s, self._bell.ring)
        try:
            await self._bell.wait(heard)
        finally:
            timer.cancel()

    async def _carry_out(self, waiting: WaitingCommand) -> None:
        try:
            error = await self._attempt(waiting)
            while not await self._is_written(waiting, error):
                await pause(self._clock, _LOOK_S)
        finally:
            self._running.discard(waiting.process)
            self._bell.ring()

    async def _attempt(self, waiting: WaitingCommand) -> BaseException | None:
        if waiting.attempts >= self._retry.attempts:  # each of them ended its process
            return _KilledError(waiting.attempts)
        try:
            envelope = cloudevents.decode(waiting.document, clock=self._clock)
            await self._commands.dispatch(envelope)
        except Discard as exc:
            log.info("process %r %r: a command is discarded: %s", self._name, waiting.process, exc)
        except BaseException as exc:
            if is_interrupted(exc):
                raise
            self.failed += 1
            return exc
        self.dispatched += 1
        return None

    async def _is_written(self, waiting: WaitingCommand, error: BaseException | None) -> bool:
        """Write what came of a command; False where the store does not take it now."""
        try:
            async with self._store.transaction() as connection:
                now_us = await shared_now_us(connection, self._clock)
                if error is None:
                    await self._rows.remove_command(connection, waiting.command_id)
                else:
                    await self._write_failure(connection, waiting, error, now_us)
        except UsageError:  # the store is closed: whoever comes next dispatches it again
            return True
        except AvxEventsError as exc:
            log.warning("process %r: the end of a command is not written yet: %s", self._name, exc)
            return False
        return True

    async def _write_failure(self, connection: Any, waiting: WaitingCommand, error: BaseException, now_us: int) -> None:
        delay_s = self._delay_s(waiting.attempts + 2, error)
        if delay_s is not None:
            log.warning("process %r %r: a command failed and is tried again: %s", self._name, waiting.process, error)
            await self._rows.postpone(connection, waiting.command_id, now_us + round(delay_s * 1_000_000))
            return
        text = f"{type(error).__name__}: {error}"
        try:
            envelope: EventEnvelope[Any] | None = cloudevents.decode(waiting.document, clock=self._clock)
        except AvxEventsError:  # its class is gone, or another one
            envelope = None
        if envelope is not None and await self._steps.react_to_failure(
            connection, waiting.process, envelope, text, now_us=now_us
        ):
            await self._rows.remove_command(connection, waiting.command_id)
            return
        await self._rows.block(connection, waiting.command_id, text)
        await self._steps.fail(connection, waiting.process, f"command {waiting.command_id}: {text}", now_us=now_us)

    def _delay_s(self, next_attempt: int, error: BaseException) -> float | None:
        if isinstance(error, UsageError | PermanentError | Reject | _KilledError):
            return None
        delay_s = self._retry.delay_before(next_attempt, jitter=random.random())  # noqa: S311 - spreads load
        if delay_s is not None and isinstance(error, RetryAfter):
            return error.delay_s
        return delay_s


class _KilledError(Exception):
    """A command was begun as often as it may be, and each time its process ended with it."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"its process was ended in each of {attempts} attempts")
