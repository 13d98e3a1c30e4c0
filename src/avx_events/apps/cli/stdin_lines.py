"""The lines of stdin, read so that the event loop goes on meanwhile: heartbeats are sent, and Ctrl-C is heard."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any, Final

from avx_events.core.errors import InvalidArgumentError

_CHUNK_BYTES: Final = 65_536
# No event is as large, so that what has no line ends is not read into memory for ever.
_LONGEST_BYTES: Final = 64 * 1024 * 1024


def check_stdin() -> None:
    """Refuse a stdin that is closed, as after ``<&-``.

    Raises:
        InvalidArgumentError: It is.
    """
    stdin: Any = sys.stdin
    if stdin is None:
        raise InvalidArgumentError("stdin", stdin, expected="open, or the data given as an argument")


async def lines_of_stdin() -> AsyncGenerator[bytes, None]:
    """Give the lines of stdin that are not empty, as they come, without what surrounds them.

    Raises:
        InvalidArgumentError: A line has more than 64 MiB.
    """
    fd = sys.stdin.fileno()
    begun = bytearray()
    while chunk := await _read(fd):
        begun += chunk
        if b"\n" in chunk:
            *lines, rest = begun.split(b"\n")
            for line in map(bytes.strip, map(bytes, lines)):
                if line:
                    yield line
            begun = rest
        if len(begun) > _LONGEST_BYTES:
            raise InvalidArgumentError("stdin", bytes(begun[:100]), expected="lines of 64 MiB at most")
    if last := bytes(begun).strip():
        yield last


async def _read(fd: int) -> bytes:
    """Return what there is next; empty at the end."""
    loop, is_there = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, is_there.set)
    except (PermissionError, NotImplementedError):  # of a file, which nobody waits for; or on Windows
        await asyncio.sleep(0)  # so that a long file lets others have their turn
        return os.read(fd, _CHUNK_BYTES)
    try:
        await is_there.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _CHUNK_BYTES)
