"""Workers: several processes on one listening socket, kept at their number until a signal stops them all.

| a worker | then |
|---|---|
| ends before all have once served, with a setting that cannot be used | all stop, and the exit code is 2 |
| ends otherwise | it is logged, and another takes its place after a pause, which grows while they end early |
| is told to stop, as all are | it drains as a service of one process does |

A worker whose owner was killed stops by itself: its standard input ends.
"""

import asyncio
import logging
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from avx_events import Retry

SETTLED_S: Final = 10.0
"""A worker that lived so long did not end early."""

_PAUSES: Final = Retry(attempts=2**31, initial_s=0.1, max_s=5.0)
_UNUSABLE: Final = 2

log = logging.getLogger(__name__)


class Workers:
    """The processes that serve on one socket."""

    def __init__(self, listener: socket.socket, *, count: int, folder: Path, announce: Callable[[], None]) -> None:
        """Keep ``count`` of them on ``listener``.

        Args:
            listener: Where they serve.
            count: How many.
            folder: Where they tell each other their figures.
            announce: Called when all have begun to serve.
        """
        self._listener: Final = listener
        self._count: Final = count
        self._folder: Final = folder
        self._announce: Final = announce
        self._running: Final[set[Process]] = set()
        self._have_served: Final[set[int]] = set()
        self._is_stopping: Final = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Keep them until SIGTERM or SIGINT comes and all have ended; return the exit code."""
        for told in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(told, self._stop)
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self._count + 1):
                tasks.create_task(self._keep(number), name=f"worker {number}")
        return self._code

    def _stop(self) -> None:
        log.info("stopping")
        self._is_stopping.set()
        for process in self._running:
            _tell(process)

    async def _keep(self, number: int) -> None:
        early = 0
        while not self._is_stopping.is_set():
            began_at = asyncio.get_running_loop().time()
            code = await self._live(number)
            if self._is_stopping.is_set():
                self._code = self._code or int(code not in {0, -signal.SIGTERM})
                return
            if code == _UNUSABLE and len(self._have_served) < self._count:
                self._code = _UNUSABLE
                self._stop()
                return
            early = early + 1 if asyncio.get_running_loop().time() - began_at < SETTLED_S else 1
            pause_s = _PAUSES.delay_before(early + 1, jitter=1.0) or 0.0
            log.error("worker %d ended with code %d; another takes its place in %.1f s", number, code, pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_stopping.wait()

    async def _live(self, number: int) -> int:
        """Run one worker until it ends, and return its exit code."""
        descriptor = self._listener.fileno()
        # In a session of its own, Ctrl+C reaches this process alone, and each worker is told once.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.production_service.worker"),
            *(str(descriptor), str(number), str(self._folder)),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,
        )
        self._running.add(process)
        try:
            if self._is_stopping.is_set():
                _tell(process)
            if process.stdout is not None and await process.stdout.readline():
                log.info("worker %d serves as process %d", number, process.pid)
                self._note_served(number)
            return await process.wait()
        finally:
            self._running.discard(process)

    def _note_served(self, number: int) -> None:
        if number not in self._have_served:
            self._have_served.add(number)
            if len(self._have_served) == self._count:
                self._announce()


def _tell(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
