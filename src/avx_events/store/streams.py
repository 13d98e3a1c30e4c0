"""Which streams there are, without reading their events."""

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Final

import msgspec

from avx_events.core.metadata import EPOCH
from avx_events.store.ports import PAGE_EVENTS, StoreEngine

_MICROSECOND: Final = timedelta(microseconds=1)


class StreamInfo(msgspec.Struct, frozen=True):
    """How far a stream has come.

    Attributes:
        name: Its name.
        version: The version that it is at, from 1.
        last_position: The position of its last event in the whole log.
        last_recorded_at: When that event was recorded, aware, in UTC.
    """

    name: str
    version: int
    last_position: int
    last_recorded_at: datetime


async def streams_of(
    engine: StoreEngine, *, prefix: str, after: str, limit: int | None
) -> AsyncGenerator[StreamInfo, None]:
    """Give up to ``limit`` streams whose names begin with ``prefix``, by name, those after ``after``; page by page.

    Raises:
        AvxEventsError: As ``StoreEngine.streams``.
    """
    left = limit
    while left is None or left > 0:
        wanted = PAGE_EVENTS if left is None else min(left, PAGE_EVENTS)
        page = await engine.streams(prefix=prefix, after=after, limit=wanted)
        for name, version, position, recorded_us in page:
            yield StreamInfo(name, version, position, EPOCH + recorded_us * _MICROSECOND)
        if len(page) < wanted:
            return
        after = page[-1][0]
        left = None if left is None else left - wanted
