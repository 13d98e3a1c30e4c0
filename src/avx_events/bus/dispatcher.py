"""What one handler's events go through, whoever runs it: order by key, attempts, pauses, dead letters.

| state of an event | where it is | counts as |
|---|---|---|
| new | ``subscription.queue`` | queued |
| behind another of its key | ``lanes[key]`` | queued, held |
| waiting for its next attempt, or for the dead letter queue | ``parked`` | queued, held |
| may run now, its key is its own | ``ready`` | queued, held |
| in a handler or a delivery block | with its worker, or in ``open`` | in flight |
| done | counted as handled, discarded or dead-lettered | |

Nothing here knows where the events come from, nor who runs the handler.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, Reason
from avx_events.bus.error_text import line_of, traceback_of
from avx_events.bus.statistics import SubscriptionStatistics
from avx_events.bus.subscription import AnyEnvelope, Subscription
from avx_events.bus.work import Drop, TryAgain, Work, decide
from avx_events.core.clock import Clock, Timer
from avx_events.core.errors import StoppedError
from avx_events.core.ids import new_id
from avx_events.core.metadata import EPOCH
from avx_events.core.policy import Retry
from avx_events.core.tasks import TaskScope, is_interrupted

if TYPE_CHECKING:
    from avx_events.bus.observer import Observer

log = logging.getLogger("avx_events")

KeyFunction = Callable[[Any], Hashable]
QueueAction = Callable[[DeadLetterQueue], Awaitable[None]]

# How long a dead letter waits for its queue to take it, after the queue failed.
_BURIAL_PAUSE_S: Final = 1.0
# How long the queue may take to add or to resolve a dead letter, in a bus that runs.
_QUEUE_LIMIT_S: Final = 10.0
# How long a bus that stops waits for the queue to take a dead letter; after that, this one and all others are logged.
_LAST_BURIAL_S: Final = 2.0
_MICROSECOND: Final = timedelta(microseconds=1)


class Dispatcher:
    """Gives out the events of one subscription so that those of one key never overlap, and settles them.

    Attributes:
        name: The handler's name, which its dead letters carry.
        subscription: Where its events come from.
        ready: What may run now.
        lanes: The keys that are taken, each with what waits behind it (None until something does).
        gives_works: Whether all that comes has a history with the handler, or is about to get one: it is from a broker.
        handled: How many events succeeded.
        observer: Is told of what its events go through; None is nobody.
    """

    __slots__ = (
        "_clock",
        "_dead_letters",
        "_errands",
        "_group",
        "_key",
        "_queue_hangs",
        "_retry",
        "dead_lettered",
        "discarded",
        "gives_works",
        "handled",
        "lanes",
        "name",
        "observer",
        "parked",
        "ready",
        "retried",
        "subscription",
    )

    def __init__(
        self,
        subscription: Subscription,
        *,
        retry: Retry,
        key: KeyFunction | None,
        dead_letters: DeadLetterQueue | None,
        errands: TaskScope,
        clock: Clock,
        group: str = "",
    ) -> None:
        """Begin with nothing done.

        Args:
            subscription: Whose events.
            retry: What follows a failed attempt.
            key: Gives the key of an event; None is the aggregate id.
            dead_letters: Where those go that failed for good; None is the log.
            errands: Runs what must not be cut short.
            clock: Times the pauses.
            group: Of the handler, for its dead letters.
        """
        self.name = subscription.name
        self.subscription = subscription
        self._retry = retry
        self._key = key
        self._dead_letters = dead_letters
        self._errands = errands
        self._clock = clock
        self._group = group
        self._queue_hangs = False
        self.ready: deque[Work] = deque()
        self.lanes: dict[Hashable, deque[Work] | None] = {}
        self.parked: dict[Work, Timer] = {}
        self.gives_works = False
        self.observer: Observer | None = None
        self.handled = 0
        self.retried = 0
        self.discarded = 0
        self.dead_lettered = 0

    def take(self) -> Work | None:
        """Return what may run next, its key taken; None when there is nothing now."""
        while self.ready:
            work = self.take_ready()
            if work.may_begin():
                return work
            self.drop(work)
        subscription = self.subscription
        queue, found = subscription.queue, None
        while queue and found is None:
            item = queue.popleft()
            work = item if isinstance(item, Work) else Work(item)
            if not work.may_begin():
                work.dropped()
            elif self._enter_lane(work):
                found = work
        if len(queue) <= subscription.wake_at:
            subscription.admit_waiting()
        return found

    def take_ready(self) -> Work:
        """Return the first of ``ready``."""
        self.subscription.hold(-1)
        return self.ready.popleft()

    async def put_back(self, work: Work) -> None:
        """Settle what was ready for a reader that handles no attempts: its event goes to the front of the queue."""
        if work.burial is not None:
            await self.bury(work)
            return
        if work.letter is not None:
            await self._resolve(work.letter)
        self.subscription.queue.appendleft(work.envelope)
        self.leave_lane(work)

    def drop(self, work: Work) -> None:
        """Leave ``work``, which was taken, to whoever is given it next."""
        work.dropped()
        self.leave_lane(work)

    def redrive(self, letter: DeadLetter, envelope: AnyEnvelope) -> None:
        """Put a dead letter's event in line again, whatever the capacity."""
        work = Work(envelope, letter=letter)
        if self._enter_lane(work):
            self._make_ready(work)

    def give_back(self, work: Work) -> None:
        """Put what was taken and not attempted in line again, before everything else; its key stays its own."""
        self.subscription.hold(1)
        self.ready.appendleft(work)
        self.subscription.wake()

    async def succeed(self, work: Work) -> None:
        """Settle an event whose handler succeeded."""
        self.handled += 1
        try:
            if work.letter is not None:
                await self._resolve(work.letter)
        finally:
            self._finish(work)

    async def fail(self, work: Work, error: BaseException) -> None:
        """Settle a failed attempt: plan the next, drop the event, or make it a dead letter."""
        if work.first_failed_at is None:
            work.first_failed_at = self._now()
        decision = decide(self._retry, attempts=work.attempts, error=error, jitter=random.random())  # noqa: S311 - spreads load
        if isinstance(decision, TryAgain) and self.subscription.is_closed:
            if work.is_kept_elsewhere:
                work.paused()
                self.drop(work)
            else:
                await self._give_up(work, error, "stopped")
        elif isinstance(decision, TryAgain):
            self.retried += 1
            log.info(
                "%s failed on %s (%s), next attempt in %.3f s",
                self.name,
                _described(work.envelope),
                line_of(error),
                decision.delay_s,
            )
            work.paused()
            self._park(work, decision.delay_s)
        elif isinstance(decision, Drop):
            log.info("%s dropped %s: %s", self.name, _described(work.envelope), line_of(error))
            if work.letter is not None:
                await self._resolve(work.letter)
            self.discarded += 1
            self._finish(work)
        else:
            await self._give_up(work, error, decision.reason)

    async def bury(self, work: Work) -> None:
        """Hand a dead letter to its queue, or to the log where there is none; try again later where that fails."""
        letter = work.burial
        if letter is None:
            return
        if self._dead_letters is None:
            _log_letter(letter, "no dead letter queue")
        else:
            problem = await _problem_of(self._dead_letters, lambda queue: queue.add(letter), limit_s=_QUEUE_LIMIT_S)
            if problem is not None:  # whatever it is, the event stays here until the queue has it
                log.error("the dead letter queue did not take %s: %s", letter.id, line_of(problem))
                self._park(work, _BURIAL_PAUSE_S)
                return
            log.warning("%s gave up %s: %s", self.name, _described(work.envelope), letter.error)
        self.dead_lettered += 1
        self._finish(work)

    def withdraw(self, is_meant: Callable[[Work], bool]) -> None:
        """Drop what has not begun and ``is_meant``; what is being handled goes on."""
        queue = self.subscription.queue
        items = list(queue)
        queue.clear()
        for item in items:
            if isinstance(item, Work) and is_meant(item):
                item.dropped()
            else:
                queue.append(item)
        first = [work for work in (*self.parked, *self.ready) if is_meant(work)]
        behind = [work for lane in self.lanes.values() for work in _taken_from(lane or deque(), is_meant)]
        self.subscription.hold(-len(first) - len(behind))
        for work in behind:
            work.dropped()
        for work in first:
            timer = self.parked.pop(work, None)
            if timer is None:
                self.ready.remove(work)
            else:
                timer.cancel()
            self.drop(work)

    def take_waiting(self) -> list[Work]:
        """Return and remove what waits for an attempt that will not come; new events stay in their queue."""
        for timer in self.parked.values():
            timer.cancel()
        behind = [work for lane in self.lanes.values() if lane for work in lane]
        waiting = [*self.parked, *self.ready, *behind]
        self.parked.clear()
        self.ready.clear()
        self.lanes.clear()
        self.subscription.hold(-self.subscription.held)
        return waiting

    def take_failed(self) -> list[Work]:
        """Return and remove what failed before, and dead letters that were to be redriven; what is new stays."""
        for timer in self.parked.values():
            timer.cancel()
        first = [*self.parked, *_taken_from(self.ready, _has_failed)]
        behind = [work for lane in self.lanes.values() if lane for work in _taken_from(lane, _has_failed)]
        self.parked.clear()
        self.subscription.hold(-len(first) - len(behind))
        for work in first:
            self.leave_lane(work)
        return first + behind

    async def stop(self, left: Iterable[Work | AnyEnvelope]) -> None:
        """Make dead letters of what is not done, and will not be; log those that the queue does not take in time.

        What a broker keeps is left to it.
        """
        works = [item if isinstance(item, Work) else Work(item) for item in left]
        for number, work in enumerate(works):
            try:
                await self._stop_one(work)
            except asyncio.CancelledError:  # the loop ends, and nothing can be waited for any more
                for lost in works[number:]:
                    if lost.letter is None and not lost.is_kept_elsewhere:
                        _log_letter(self._burial_of(lost), "the event loop ended")
                raise

    def leave_lane(self, work: Work) -> None:
        """Let the next of the same key run."""
        key = work.key
        if key is None:
            return
        lane = self.lanes.pop(key, None)
        if not lane:
            return
        self.lanes[key] = lane
        following = lane.popleft()  # it stays held
        if following.pause_s is None:
            self.ready.append(following)
            self.subscription.wake()
        else:
            self._wait_for_retry(following, following.pause_s)

    def mark_used_up(self, work: Work, error: BaseException) -> None:
        """Make ``work``, which cannot be handled at all, a dead letter when its turn comes."""
        work.burial = self._letter(work, error, "failed")

    def mark_undecodable(self, work: Work, error: BaseException, *, raw: bytes) -> None:
        """Make ``work``, whose bytes are no event, a dead letter when its turn comes."""
        letter = self._letter(work, error, "undecodable")
        work.burial = msgspec.structs.replace(letter, envelope=None, raw=raw)

    @property
    def attempts(self) -> int:
        """How many attempts an event has."""
        return self._retry.attempts

    def is_empty(self) -> bool:
        """Tell whether nothing waits here."""
        return not (self.subscription.queue or self.subscription.held)

    def statistics(self, *, in_flight: int) -> SubscriptionStatistics:
        """Return the counts; those in flight are known to who runs the handler."""
        return msgspec.structs.replace(
            self.subscription.statistics(),
            handled=self.handled,
            retried=self.retried,
            discarded=self.discarded,
            dead_lettered=self.dead_lettered,
            in_flight=in_flight,
        )

    def key_of(self, work: Work) -> Hashable:
        """Return what the order of ``work`` is kept by; None where it has none.

        Raises:
            TypeError: The key function gave something that cannot be compared with other keys.
            BaseException: Whatever the key function raises.
        """
        if self._key is None:
            return work.own_key or work.envelope.metadata.aggregate_id or None
        key = self._key(work.envelope.event)
        hash(key)
        return None if key == "" else key

    def _enter_lane(self, work: Work) -> bool:
        """Return whether ``work`` may run; otherwise it waits behind another of its key."""
        try:
            key = work.key = self.key_of(work)
        except BaseException as exc:  # noqa: BLE001 - the key is a part of the handler: its attempts fail of it
            work.key_error = exc
            return True
        if key is None:
            return True
        if key not in self.lanes:
            self.lanes[key] = None
            return True
        lane = self.lanes[key]
        if lane is None:
            lane = self.lanes[key] = deque()
        lane.append(work)
        self.subscription.hold(1)
        return False

    def _park(self, work: Work, delay_s: float) -> None:
        # A single worker takes keys only when something waits, so the key may be anybody's, or nobody's yet.
        work.pause_s = delay_s
        if work.key is not None or work.key_error is not None or self._enter_lane(work):
            self.subscription.hold(1)
            self._wait_for_retry(work, delay_s)

    def _wait_for_retry(self, work: Work, delay_s: float) -> None:
        work.pause_s = None
        self.parked[work] = self._clock.call_later(delay_s, lambda: self._due(work))

    def _due(self, work: Work) -> None:
        if self.parked.pop(work, None) is not None:
            self.subscription.hold(-1)
            self._make_ready(work)

    def _finish(self, work: Work) -> None:
        work.done()
        self.leave_lane(work)

    def _make_ready(self, work: Work) -> None:
        self.subscription.hold(1)
        self.ready.append(work)
        self.subscription.wake()

    async def _give_up(self, work: Work, error: BaseException, reason: Reason) -> None:
        work.burial = self._letter(work, error, reason)
        await self.bury(work)

    async def _stop_one(self, work: Work) -> None:
        letter = work.letter
        if work.is_kept_elsewhere:
            work.dropped()
            return
        if work.burial is None and letter is not None:
            problem = await self._finally(lambda queue: queue.release(letter.id))  # it is in the queue as it was
            if problem is not None:
                log.error("dead letter %s may not be redriven again: %s", letter.id, problem)
            return
        burial = self._burial_of(work)
        problem = await self._finally(lambda queue: queue.add(burial))
        if problem is not None:
            _log_letter(burial, problem)
        self.dead_lettered += 1

    def _burial_of(self, work: Work) -> DeadLetter:
        if work.burial is None:
            work.burial = self._letter(work, StoppedError(self.name), "stopped")
        return work.burial

    async def _finally(self, action: QueueAction) -> str | None:
        """Return why the queue did not do ``action``, or None. Nobody will try again: the log is the last place."""
        if self._dead_letters is None:
            return "no dead letter queue"
        if self._queue_hangs:
            return "the dead letter queue did not answer before"
        problem = await _problem_of(self._dead_letters, action, limit_s=_LAST_BURIAL_S)
        if isinstance(problem, TimeoutError):
            self._queue_hangs = True
            return f"the dead letter queue did not answer within {_LAST_BURIAL_S:g} s"
        return None if problem is None else f"the dead letter queue failed: {line_of(problem)}"

    def _letter(self, work: Work, error: BaseException, reason: Reason) -> DeadLetter:
        now, before = self._now(), work.letter
        return DeadLetter(
            id=new_id(self._clock.time_ns()) if before is None else before.id,
            handler=self.name,
            group=self._group,
            reason=reason,
            envelope=work.envelope,
            error=line_of(error),
            error_type=type(error).__name__,
            traceback=traceback_of(error),
            attempts=work.attempts + (0 if before is None else before.attempts),
            redrives=0 if before is None else before.redrives + 1,
            first_failed_at=before.first_failed_at if before is not None else work.first_failed_at or now,
            dead_at=now,
        )

    async def _resolve(self, letter: DeadLetter) -> None:
        """Let ``letter``, whose work is done, leave its queue, also where whoever waits for that is cancelled."""
        if self._dead_letters is not None:
            resolving = self._resolve_in(self._dead_letters, letter)
            await asyncio.shield(self._errands.spawn(resolving, name=f"avx-events {self.name}: resolve"))

    async def _resolve_in(self, queue: DeadLetterQueue, letter: DeadLetter) -> None:
        problem = await _problem_of(queue, lambda queue: queue.resolve(letter.id), limit_s=_QUEUE_LIMIT_S)
        if problem is not None:  # the work is done; the letter stays and says so no worse than before
            log.error("dead letter %s was redriven, but stays in its queue: %s", letter.id, line_of(problem))

    def _now(self) -> datetime:
        return EPOCH + self._clock.time_ns() // 1000 * _MICROSECOND


async def _problem_of(queue: DeadLetterQueue, action: QueueAction, *, limit_s: float) -> BaseException | None:
    """Return what ``queue`` failed of at ``action``, which may take ``limit_s`` seconds; None where it did it.

    Raises:
        asyncio.CancelledError: The running task is cancelled; a cancellation of the queue's own is a failure of it.
    """
    try:
        async with asyncio.timeout(limit_s):
            await action(queue)
    except (Exception, asyncio.CancelledError) as exc:
        if is_interrupted(exc):
            raise
        return exc
    return None


def _has_failed(work: Work) -> bool:
    return work.has_failed


def _taken_from(waiting: deque[Work], is_meant: Callable[[Work], bool]) -> list[Work]:
    taken = [work for work in waiting if is_meant(work)]
    for work in taken:
        waiting.remove(work)
    return taken


def _described(envelope: AnyEnvelope) -> str:
    """Return what a line of the log calls an event: its type, its key, its id."""
    metadata = envelope.metadata
    key = f" {metadata.aggregate_id!r}" if metadata.aggregate_id else ""
    return f"{metadata.event_type}{key} ({metadata.event_id})"


def _log_letter(letter: DeadLetter, why: str) -> None:
    log.error("%s gave up an event (%s): %r\n%s", letter.handler, why, letter, letter.traceback)
