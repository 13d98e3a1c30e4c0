"""Waits that belong to a clock, so that a test can own them."""

import asyncio

from avx_events.core.clock import Clock
from avx_events.core.tasks import wake


async def pause(clock: Clock, delay_s: float) -> None:
    """Wait ``delay_s`` seconds of ``clock``; cancelled, it leaves no timer behind."""
    if delay_s <= 0:
        return
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(delay_s, lambda: wake(done))
    try:
        await done
    finally:
        timer.cancel()
