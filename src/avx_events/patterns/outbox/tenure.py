"""One time in which a relay is the active one: from taking its lease to giving it up or losing it.

Everything on its way is in one of these places: read and in its line, being published, settled (accepted by the bus or
the dead letter queue) and not kept, kept. At most ``in_flight`` parcels are in the first three: it is what a crash
publishes again.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Final

import msgspec

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, ClosedError, RelayFailedError, UsageError
from avx_events.core.tasks import Changes, TaskScope, is_interrupted, wake
from avx_events.patterns.lease import RENEWALS_IN_A_LEASE, Lease, LeaseLostError
from avx_events.patterns.outbox.lines import Lines
from avx_events.patterns.outbox.parcel import Feed, Parcel
from avx_events.patterns.outbox.undeliverable import Publishing, letter_of
from avx_events.patterns.outbox.verdict import verdict_of
from avx_events.patterns.trouble import Trouble
from avx_events.store.event_store import EventStore

log = logging.getLogger("avx_events.outbox")

# The share of what may be in flight that is kept at once, where more is on its way.
_SHARE_KEPT: Final = 4
_MOMENT_S: Final = 1e-6


class Counts(msgspec.Struct):
    """What a relay did, over all its tenures."""

    published: int = 0
    repeated: int = 0
    dead_letters: int = 0
    held_keys: int = 0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """From where to where a relay publishes, and how.

    Attributes:
        name: What logs and dead letters call it.
        store: Whose database it reads.
        bus: Where it publishes.
        letters: Where goes what can never be published; None where it stops, or holds its key, instead.
        in_flight: How many parcels may be on their way.
        drain_timeout_s: How many seconds what is on its way has to be accepted when the relay is left.
        clock: Time.
    """

    name: str
    store: EventStore
    bus: Publishing
    letters: DeadLetterQueue | None
    in_flight: int
    drain_timeout_s: float
    clock: Clock


class Tenure:
    """Publishes while the lease is held."""

    def __init__(self, route: Route, feed: Feed, lease: Lease, counts: Counts, changes: Changes) -> None:
        """Begin nothing yet; ``changes`` are told when something is kept."""
        self._route: Final = route
        self._feed: Final = feed
        self._lease: Final = lease
        self._counts: Final = counts
        self._kept_changes: Final = changes
        self._changes: Final = Changes()
        self._scope: Final = TaskScope(self._end)
        self._lines: Final = Lines(self._send, most=route.in_flight, scope=self._scope, name=self._task("publish"))
        self._bus_trouble: Final = Trouble(f"{route.name}: the bus", log=log, clock=route.clock)
        self._store_trouble: Final = Trouble(f"{route.name}: the store", log=log, clock=route.clock)
        self._letter_trouble: Final = Trouble(f"{route.name}: the dead letter queue", log=log, clock=route.clock)
        self._over: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._error: BaseException | None = None
        self._unsettled: set[int] = set()
        self._unkept = 0
        self._on_their_way = 0
        self._refused = 0
        self._newest_begun = 0

    @property
    def on_their_way(self) -> int:
        """How many events the bus has been given and has not answered to."""
        return self._on_their_way

    async def run(self) -> None:
        """Publish until the store closes, ``finish`` is called, or it cannot go on.

        Raises:
            LeaseLostError: The lease is over.
            RelayFailedError: An event can never be published, or the bus publishes nothing any more.
            Exception: What nobody has planned.
        """
        self._scope.spawn(self._read(), name=self._task("read"))
        self._scope.spawn(self._keep_on(), name=self._task("keep"))
        try:
            await self._over
        finally:
            self._end(None)
            if isinstance(self._error, LeaseLostError):
                self._lease.lose()
            elif self._lease.is_held:
                await self._drain()
            for task in await self._scope.cancel():
                log.error("%s swallowed its cancellation and still runs", task.get_name())
            if self._lease.is_held:
                await self._leave()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Publish nothing more; ``run`` returns when what is on its way is accepted, or its time is up."""
        self._end(None)

    # Reading

    async def _read(self) -> None:
        try:
            async with aclosing(self._feed.parcels()) as parcels:
                async for parcel in parcels:
                    self._unkept += 1
                    self._unsettled.add(parcel.place)
                    self._lines.put(parcel)
                    while self._unkept >= self._route.in_flight:
                        await self._changes.wait()
        except BaseException as exc:
            if is_interrupted(exc):
                raise
            self._end(exc)
        else:
            self._end(None)  # the store is closed

    # Publishing

    async def _send(self, parcel: Parcel) -> None:
        """Publish ``parcel`` until it is settled; never returns once nothing is to be published any more."""
        attempt = 1
        while True:
            await self._check_may_send(parcel)
            error = await self._publish(parcel)
            if error is None:
                self._bus_trouble.end()
                self._counts.published += 1
                self._settle(parcel)
                return
            verdict = verdict_of(error)
            if verdict == "never":
                await self._give_up(parcel, error, attempt)
                return
            if verdict == "stop":
                self._fail(parcel, error)
                continue
            attempt += 1
            self._counts.repeated += 1
            self._refused += 1
            await self._bus_trouble.wait(error, attempt)
            self._refused -= 1

    async def _check_may_send(self, parcel: Parcel) -> None:
        if not self._over.done() and not self._lease.is_held:
            self._end(LeaseLostError())
        if self._over.done() and not (self._is_gap(parcel.place) and self._lease.is_held):
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    def _is_gap(self, place: int) -> bool:
        """Tell whether later ones were published already, which a log's position cannot say without this one."""
        return self._error is None and place < self._newest_begun

    async def _publish(self, parcel: Parcel) -> BaseException | None:
        if parcel.envelope is None:
            return parcel.error
        self._on_their_way += 1
        self._newest_begun = max(self._newest_begun, parcel.place)
        try:
            await self._route.bus.publish(parcel.envelope)
        except BaseException as exc:  # whatever a bus raises is judged
            if is_interrupted(exc):
                raise
            return exc
        finally:
            self._on_their_way -= 1
            if self._over.done():
                self._changes.tell()
        return None

    async def _give_up(self, parcel: Parcel, error: BaseException, attempts: int) -> None:
        route = self._route
        if route.letters is None:
            self._hold(parcel, error)
            return
        letter = letter_of(parcel, error, relay=route.name, attempts=attempts, clock=route.clock)
        attempt = 1
        while True:
            try:
                await route.letters.add(letter)
                break
            except UsageError as exc:  # it is closed
                self._fail(parcel, exc)
                await self._check_may_send(parcel)
            except AvxEventsError as exc:
                attempt += 1
                await self._letter_trouble.wait(exc, attempt)
        self._letter_trouble.end()
        self._counts.dead_letters += 1
        log.error("%s: %s is a dead letter: %s", route.name, self._where(parcel), letter.error)
        self._settle(parcel)

    def _hold(self, parcel: Parcel, error: BaseException) -> None:
        others = self._lines.behind(parcel)
        if not self._feed.hold(parcel, others):
            self._fail(parcel, error)
            return
        self._lines.drop_behind(parcel)
        self._counts.held_keys += 1
        log.error(
            "%s: %s can never be published and stays, with all of its key %r behind it: %s: %s",
            self._route.name,
            self._where(parcel),
            parcel.key,
            type(error).__name__,
            error,
        )
        self._unsettled.difference_update(each.place for each in (parcel, *others))
        self._unkept -= 1 + len(others)
        self._changes.tell()

    def _fail(self, parcel: Parcel, error: BaseException) -> None:
        failure = RelayFailedError(
            self._route.name, problem=f"at {self._where(parcel)}: {type(error).__name__}: {error}"
        )
        failure.__cause__ = error
        self._end(failure)

    def _settle(self, parcel: Parcel) -> None:
        parcel.is_settled = True
        self._feed.settle(parcel)
        self._unsettled.discard(parcel.place)
        if self._over.done() or self._is_worth_keeping():
            self._changes.tell()

    def _where(self, parcel: Parcel) -> str:
        return f"{parcel.event_type!r} {parcel.event_id} ({self._feed.what} {parcel.place})"

    # Keeping

    async def _keep_on(self) -> None:
        """Write down what is settled, and renew the lease in the same transaction."""
        attempt = 1
        try:
            while True:
                await self._wait_to_keep()
                try:
                    await self._keep()
                except ClosedError:
                    self._end(None)
                    return
                except AvxEventsError as exc:
                    attempt += 1
                    await self._store_trouble.wait(exc, attempt, longest_s=self._lease.lease_s / RENEWALS_IN_A_LEASE)
                    if not self._lease.is_held:
                        raise LeaseLostError from exc
                else:
                    attempt = 1
                    self._store_trouble.end()
        except BaseException as exc:
            if is_interrupted(exc):
                raise
            self._end(exc)

    async def _wait_to_keep(self) -> None:
        clock = self._route.clock
        due = clock.monotonic() + self._lease.left_s - self._lease.lease_s * (1 - 1 / RENEWALS_IN_A_LEASE)
        while not self._is_worth_keeping() and (left_s := due - clock.monotonic()) > _MOMENT_S:
            timer = clock.call_later(left_s, self._changes.tell)
            try:
                await self._changes.wait()
            finally:
                timer.cancel()

    def _is_worth_keeping(self) -> bool:
        settled = self._feed.settled
        return settled > 0 and (not self._unsettled or settled >= self._route.in_flight // _SHARE_KEPT)

    async def _keep(self) -> None:
        before = self._lease.instant()
        async with self._route.store.transaction() as connection:
            is_ours = await self._lease.renew(connection)
            await self._feed.keep(connection)
        self._unkept -= self._feed.kept()
        self._changes.tell()
        self._kept_changes.tell()
        if not is_ours:
            raise LeaseLostError
        self._lease.extend(before)

    # The end

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._route.drain_timeout_s):
                while self._on_their_way or (not self._refused and any(map(self._is_gap, self._unsettled))):
                    await self._changes.wait()
        except TimeoutError:
            log.warning("%s: %d events were not confirmed in time", self._route.name, self._on_their_way)

    async def _leave(self) -> None:
        """Keep what is settled, and let another process be the active one at once."""
        try:
            async with self._route.store.transaction() as connection:
                await self._feed.keep(connection)
                await self._lease.free(connection)
        except AvxEventsError as exc:
            log.warning("%s: what was published last is published again: %s", self._route.name, exc)
            return
        self._feed.kept()
        self._kept_changes.tell()

    def _end(self, error: BaseException | None) -> None:
        if not self._over.done():
            self._error = error
            wake(self._over)

    def _task(self, what: str) -> str:
        return f"avx-events {self._route.name}: {what}"
