"""What can never be published becomes a dead letter, which the same relay can publish once that is mended."""

from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Protocol

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, id_of
from avx_events.bus.error_text import line_of, traceback_of
from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, NoDeadLetterQueueError, NoHandlerError
from avx_events.core.metadata import EPOCH, EventEnvelope
from avx_events.patterns.outbox.parcel import Parcel

_MICROSECOND: Final = timedelta(microseconds=1)


class Publishing(Protocol):
    """A bus, as far as a relay needs one: ``EventBus`` and ``TopicBus``, in memory or connected."""

    async def publish(self, event: Any, /) -> object:
        """Publish an envelope as it is."""
        ...


def letter_of(parcel: Parcel, error: BaseException, *, relay: str, attempts: int, clock: Clock) -> DeadLetter:
    """Return the letter of ``parcel``: the same one, by its id, however often it is made."""
    now = _instant(clock)
    return DeadLetter(
        id=_letter_id(parcel, relay),
        handler=relay,
        reason="rejected" if parcel.error is None else "undecodable",
        error=line_of(error),
        error_type=type(error).__name__,
        traceback=traceback_of(error),
        attempts=attempts,
        first_failed_at=now,
        dead_at=now,
        envelope=parcel.envelope,
        raw=parcel.raw,
    )


async def redrive(letter: DeadLetter | str, queue: DeadLetterQueue | None, bus: Publishing, *, relay: str) -> bool:
    """Publish the event of ``letter``, which then leaves ``queue``; False where that is being done already.

    Raises:
        NoDeadLetterQueueError: The relay has no queue.
        NoHandlerError: It is another one's letter.
        InvalidArgumentError: It is no letter, or has no event that can be published.
        DeadLetterNotFoundError: The queue does not hold it.
        Exception: What the bus raised; the letter stays.
    """
    if queue is None:
        raise NoDeadLetterQueueError(relay)
    claimed = await queue.claim(id_of(letter))
    if claimed is None:
        return False
    try:
        await bus.publish(_envelope_of(claimed, relay))
    except BaseException:
        await queue.release(claimed.id)
        raise
    await queue.resolve(claimed.id)
    return True


def _envelope_of(letter: DeadLetter, relay: str) -> EventEnvelope[Any]:
    if letter.handler != relay:
        raise NoHandlerError(letter.handler, known=[relay])
    if letter.envelope is None:
        raise InvalidArgumentError("letter", letter.id, expected="one with an envelope, this one is undecodable")
    return letter.envelope


def _letter_id(parcel: Parcel, relay: str) -> str:
    """Return an id that sorts by time as those of a bus do, and is the event's and this relay's for good."""
    digest = blake2b(f"{relay}\0{parcel.place}\0{parcel.event_id}".encode(), digest_size=10).hexdigest()
    millisecond = f"{max(parcel.made_us, 0) // 1000:012x}"
    return f"{millisecond[:8]}-{millisecond[8:12]}-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"


def _instant(clock: Clock) -> datetime:
    return EPOCH + clock.time_ns() // 1000 * _MICROSECOND
