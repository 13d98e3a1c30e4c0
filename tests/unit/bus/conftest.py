"""A bus works on every event loop, also on one whose insides are not asyncio's."""

import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each asynchronous test of this folder on each of these."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
