"""The process that answers what another one asks: ``python -m bench.responder MODULE URL``.

It says ``ready`` when it answers, and ends with its input.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TypeAlias

Answering: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Answers requests for users at the broker of a URL, from when it is entered on."""


async def main(module: str, url: str) -> None:
    """Answer until there is no more to answer."""
    answering: Answering = import_module(module).answering
    async with answering(url):
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
