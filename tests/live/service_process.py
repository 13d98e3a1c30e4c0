"""The production service as a process of its own, and a client of it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

ROOT: Final = Path(__file__).parents[2]


class Running:
    """A service that listens, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, greeting: str) -> None:
        self.process = process
        self.client = client
        self.greeting = greeting

    async def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def is_ready(self) -> None:
        """Wait until it says so."""
        async with asyncio.timeout(10):
            while (await self.client.get("/ready")).status_code != 200:
                pass


async def spawn(
    folder: Path, settings: Mapping[str, str | bytes] | None = None, *, before: str = "true"
) -> asyncio.subprocess.Process:
    """Start the service in ``folder``, after a command of the shell; on a free port unless ``settings`` name one."""
    with (folder / "log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f'{before} && exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "examples.production_service",
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AVX__HTTP__BIND_ADDR": "127.0.0.1:0", **(settings or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )


def log_in(folder: Path) -> str:
    """Return what services in ``folder`` have logged."""
    return (folder / "log").read_text()


async def greeting_of(process: asyncio.subprocess.Process, folder: Path) -> str:
    """Return what it prints when it listens."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            return (await process.stdout.readuntil(b"Ctrl+C")).decode()
    except asyncio.IncompleteReadError:
        pytest.fail(f"the service did not start:\n{log_in(folder)}")


@asynccontextmanager
async def running(
    folder: Path, settings: Mapping[str, str | bytes] | None = None, *, before: str = "true"
) -> AsyncGenerator[Running, None]:
    """Run the service in ``folder``; it is killed at the end of the block if it still runs."""
    process = await spawn(folder, settings, before=before)
    try:
        greeting = await greeting_of(process, folder)
        base_url = re.findall(r"listening on\s+(http://\S+)", greeting)[0]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=base_url, timeout=10, limits=limits) as client:
            yield Running(process, client, greeting)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def failed_start(folder: Path, **settings: str | bytes) -> tuple[int, str]:
    """Start a service that cannot run; return its exit code and what it said."""
    process = await spawn(folder, settings)
    try:
        async with asyncio.timeout(20):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, log_in(folder)
