"""How a transport gives a request to somebody where that takes more than one call."""

import asyncio
from collections.abc import Awaitable, Callable

from avx_events.bus.remote.ports import OnFailed
from avx_events.core.errors import AvxEventsError


async def in_time(ask: Callable[[], Awaitable[None]], timeout_s: float, on_failed: OnFailed) -> None:
    """Do ``ask``, for no longer than its requester waits, and tell ``on_failed`` what it raises."""
    try:
        async with asyncio.timeout(timeout_s):
            await ask()
    except AvxEventsError as exc:
        on_failed(exc)
    except TimeoutError:  # nobody waits any more
        return
