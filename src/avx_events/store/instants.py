"""Instants as users give them, and how far a log or a stream had come at one of them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from avx_events.core.errors import InvalidArgumentError
from avx_events.store.ports import StoreEngine
from avx_events.store.stored_event import microseconds_of

# Gives place and instant of the first record after a place, or None where there is none.
_NextAfter: TypeAlias = Callable[[int], Awaitable[tuple[int, int] | None]]


def instant_us(name: str, instant: object) -> int | None:
    """Return ``instant``, given as ``name``, in Unix microseconds; None for None.

    Raises:
        InvalidArgumentError: It is no datetime with a time zone.
    """
    if instant is None:
        return None
    if not isinstance(instant, datetime) or instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidArgumentError(name, instant, expected="a datetime with a time zone, as datetime.now(UTC)")
    return microseconds_of(instant)


async def position_at(engine: StoreEngine, until_us: int) -> int:
    """Return the position of the newest record of the log until ``until_us``, inclusive; 0 where there is none.

    Raises:
        AvxEventsError: As ``StoreEngine.read_all``.
    """

    async def next_after(position: int) -> tuple[int, int] | None:
        page = await engine.read_all(after=position, limit=1)
        return (page.records[0][0], page.records[0][3]) if page.records else None

    return await _place_at(until_us, newest=await engine.last_position(), next_after=next_after)


async def version_at(engine: StoreEngine, stream: str, until_us: int) -> int:
    """Return the version of the newest record of ``stream`` until ``until_us``, inclusive; 0 where there is none.

    Raises:
        AvxEventsError: As ``StoreEngine.stream_pages``.
    """

    async def next_after(version: int) -> tuple[int, int] | None:
        found: tuple[int, int] | None = None
        async for page in engine.stream_pages(stream, after=version, until_version=version + 1):
            for record in page:
                found = (record[2], record[3])
        return found

    return await _place_at(until_us, newest=await engine.version_of(stream), next_after=next_after)


async def _place_at(until_us: int, *, newest: int, next_after: _NextAfter) -> int:
    # Instants rise with places: some twenty looks find one among a million.
    reached, beyond = 0, newest
    while reached < beyond:
        middle = (reached + beyond) // 2
        found = await next_after(middle)
        if found is None or found[1] > until_us:
            beyond = middle
        else:
            reached = found[0]
    return reached
