"""Processes of their own: those that give a figure, and those that a contender talks to."""

import asyncio
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

DEADLINE_S: Final = 100.0
_ENDS_WITHIN_S: Final = 10.0
_ROOT: Final = Path(__file__).parents[1]


async def figure_of(*arguments: str) -> float:
    """Return what a new interpreter with ``arguments`` prints, a number.

    Raises:
        subprocess.SubprocessError: It failed, or took longer than ``DEADLINE_S``.
    """
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=DEADLINE_S,
    )
    return float(done.stdout)


class Child:
    """A process that is told lines, and says some."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._input, self._output = process.stdin, process.stdout

    def tell(self, line: bytes) -> None:
        self._input.write(line + b"\n")

    async def line(self) -> bytes:
        """Return what it says next, without the end of the line."""
        line = await self._output.readline()
        assert line, "the process has ended"
        return line.removesuffix(b"\n")

    async def close(self) -> None:
        """End its input, on which it ends."""
        self._input.close()
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def child(program: str, module: str) -> Callable[[str], AbstractAsyncContextManager[Child]]:
    """Return what runs ``python -m program module url`` while it is entered."""

    @asynccontextmanager
    async def run(url: str) -> AsyncGenerator[Child, None]:
        command = (sys.executable, "-m", program, module, url)
        process = Child(await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE))
        try:
            yield process
        finally:
            await process.close()

    return run
