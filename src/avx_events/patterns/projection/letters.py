"""Dead letters of projections: what a live one could not handle, kept before its checkpoint moves past it."""

import asyncio
import hashlib
import logging
import random
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final, Literal

import msgspec

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.error_text import line_of, traceback_of
from avx_events.core.clock import Clock
from avx_events.core.errors import HandlerTimeoutError
from avx_events.core.metadata import EPOCH
from avx_events.core.policy import Reject, Retry
from avx_events.patterns.pause import pause
from avx_events.patterns.projection.handling import Handled
from avx_events.patterns.projection.projection import Projection
from avx_events.store.stored_event import StoredEvent

log = logging.getLogger("avx_events.projection")

# How long a queue may take to keep a letter, in seconds: the projection waits meanwhile.
_QUEUE_LIMIT_S: Final = 10.0
_MICROSECOND: Final = timedelta(microseconds=1)


def letter_of(
    projection: Projection,
    failed: Handled,
    error: BaseException,
    *,
    attempts: int,
    first_failed_at: datetime,
    dead_at: datetime,
) -> DeadLetter:
    """Return the letter of an event that ``projection`` failed at for good.

    Its id is the same whenever the same version fails at the same event, so that a process that dies between the letter
    and the checkpoint leaves one letter and not two. Letters sort by the places of their events in the log.
    """
    return DeadLetter(
        id=_id_of(projection, failed.stored),
        handler=f"{projection.name}.{failed.method}",
        reason=_reason_of(error),
        envelope=failed.stored,
        error=line_of(error),
        error_type=type(error).__name__,
        traceback=traceback_of(error),
        attempts=attempts,
        first_failed_at=first_failed_at,
        dead_at=dead_at,
    )


def failed_again(letter: DeadLetter, error: BaseException, *, dead_at: datetime) -> DeadLetter:
    """Return ``letter`` after a redrive that failed of ``error``."""
    return msgspec.structs.replace(
        letter,
        reason=_reason_of(error),
        error=line_of(error),
        error_type=type(error).__name__,
        traceback=traceback_of(error),
        attempts=letter.attempts + 1,
        redrives=letter.redrives + 1,
        dead_at=dead_at,
    )


def projection_of(letter: DeadLetter) -> str:
    """Return the name of the projection whose letter it is, if it is one of a projection."""
    return letter.handler.rpartition(".")[0]


async def keep(queue: DeadLetterQueue, letter: DeadLetter, *, retry: Retry, clock: Clock) -> None:
    """Put ``letter`` into ``queue``, in as many attempts as ``retry`` allows.

    Raises:
        Exception: What the queue failed of at last.
    """
    for attempt in count(2):
        try:
            await _add(queue, letter)
        except Exception as exc:
            delay_s = retry.delay_before(attempt, jitter=random.random())  # noqa: S311 - spreads load
            if delay_s is None:
                raise
            log.warning("dead letter %s could not be kept, again in %.2f s: %s", letter.id, delay_s, line_of(exc))
            await pause(clock, delay_s)
        else:
            return


def now(clock: Clock) -> datetime:
    """Return the time of ``clock``, aware UTC."""
    return EPOCH + clock.time_ns() // 1000 * _MICROSECOND


async def _add(queue: DeadLetterQueue, letter: DeadLetter) -> None:
    deadline = asyncio.timeout(_QUEUE_LIMIT_S)
    try:
        async with deadline:
            await queue.add(letter)
    except TimeoutError as exc:
        if deadline.expired():
            raise HandlerTimeoutError("the dead letter queue", _QUEUE_LIMIT_S) from exc
        raise


def _reason_of(error: BaseException) -> Literal["failed", "rejected"]:
    return "rejected" if isinstance(error, Reject) else "failed"


def _id_of(projection: Projection, stored: StoredEvent[Any]) -> str:
    """Return a UUIDv7 of the event's time and position, and of a digest of what the letter is about.

    Source:
        RFC 9562, section 5.7, and section 6.2 method 3 for the microseconds.
    """
    milliseconds, microseconds = divmod(stored.recorded_us, 1000)
    named = f"{projection.name}\0{projection.version}\0{stored.metadata.event_id}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:8]
    position = stored.position & 0x3FFFFFFF
    time = f"{milliseconds:012x}"
    return f"{time[:8]}-{time[8:]}-7{microseconds:03x}-{0x8000 | position >> 16:04x}-{position & 0xFFFF:04x}{digest}"
