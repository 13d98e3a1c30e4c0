"""Waiting for what other tasks do, without guessing how long it takes."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Let other tasks run until ``condition`` holds.

    Raises:
        TimeoutError: It did not within ``timeout_s`` seconds.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - any condition at all, looked at after every turn of the loop
            await asyncio.sleep(0)
