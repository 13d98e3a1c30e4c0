"""Siblings: the processes that answer on one socket, each of which can tell the figures of all.

A scrape reaches whichever of them takes the connection. That one asks the others, each through a socket of its own in a
folder that only their user may enter, and answers for all: each with its number as the label ``worker``. One that does
not answer within ``ASK_TIMEOUT_S``, since it hangs or is just being replaced, is missing in that scrape, as any process
that cannot be scraped; ``avx_service_workers`` says how many are there. See docs/decisions/0032.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from avx_events.observability.merging import merged_text

ASK_TIMEOUT_S: Final = 7.0
"""Longer than the figures of one may take, and shorter than Prometheus's own ten seconds."""

LABEL: Final = "worker"

_COUNTED: Final = (
    "# HELP avx_service_workers Processes that this scrape was answered for.\n# TYPE avx_service_workers gauge\n"
)


class Siblings:
    """Tells others the figures of this process, and asks for theirs, while it is entered."""

    def __init__(self, folder: Path, number: int, tell: Callable[[], Awaitable[bytes]]) -> None:
        """Be the ``number``-th of those that meet in ``folder``; ``tell`` returns the figures of this one."""
        self._folder: Final = folder
        self._number: Final = number
        self._tell: Final = tell

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._answer, self._folder / str(self._number))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def text(self) -> bytes:
        """Return the figures of all that answer, as one text."""
        numbers = sorted(int(each.name) for each in self._folder.iterdir())
        async with asyncio.TaskGroup() as tasks:
            asked = {str(number): tasks.create_task(self._text_of(number)) for number in numbers}
        told: Mapping[str, bytes] = {number: text for number, task in asked.items() if (text := task.result())}
        return merged_text(told, label=LABEL) + f"{_COUNTED}avx_service_workers {len(told)}\n".encode()

    async def _text_of(self, number: int) -> bytes | None:
        if number == self._number:
            return await self._tell()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / str(number))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await self._tell())
            with suppress(ConnectionError):  # whoever asked has gone
                await writer.drain()
        finally:
            writer.close()
