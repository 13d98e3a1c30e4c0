"""The next one is made while the one before is used: the log is read while a transaction waits for the disk."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from avx_events.core.tasks import TaskScope, is_interrupted

ItemT = TypeVar("ItemT")


async def one_ahead(items: AsyncGenerator[ItemT, None]) -> AsyncGenerator[ItemT, None]:
    """Give what ``items`` gives, at most two of them made before they are asked for; ``items`` is closed at the end.

    Raises:
        BaseException: What ``items`` raised, in its place among them.
    """
    made: asyncio.Queue[tuple[ItemT, ...] | BaseException] = asyncio.Queue(1)
    scope = TaskScope()

    async def make() -> None:
        async with aclosing(items):
            try:
                async for item in items:
                    await made.put((item,))
            except BaseException as exc:  # raised where it is waited for
                if is_interrupted(exc):
                    raise
                await made.put(exc)
            else:
                await made.put(())

    scope.spawn(make(), name="avx-events projection: read ahead")
    try:
        while found := await made.get():
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        await scope.cancel()
