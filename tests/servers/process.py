"""One server process that a test stops, kills, starts again and freezes."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from tests.servers.children import ENDED, STOPPED, children_of, have_got_to, send

IsReady: TypeAlias = Callable[[socket.socket], bool]
"""Asks the server on a new connection, in its own protocol, whether it serves clients; an ``OSError`` means no, too."""

PAUSE_S: Final = 0.01
"""How long a server that is not ready is left alone before it is asked again."""

# The kernel ends a server when the thread that started it ends: that thread must live as long as this process does.
_starter: Final = ThreadPoolExecutor(1, thread_name_prefix="starts servers")


class ServerFailedError(Exception):
    """A server did not do what it was told. The message has the end of its log."""

    def __init__(self, server: "Server", problem: str) -> None:
        log = server.log.read_text(errors="replace") if server.log.exists() else ""
        super().__init__(f"{server.url} {problem}; it wrote:\n{log[-4000:]}")


class Server:
    """A server on a port and in a folder of its own, both of which it keeps however often it ends and starts.

    ``with Server(...) as server:`` runs it and kills it at the end. All methods block: a test on an event loop that has
    something else to do meanwhile calls them with ``asyncio.to_thread``. However this process ends, the server ends,
    too. What it starts itself is frozen and killed with it.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        url: str,
        port: int,
        folder: Path,
        is_ready: IsReady,
        stops_at: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Describe a server; ``start`` runs it.

        Args:
            command: The program and its arguments.
            url: What clients connect to.
            port: Where it listens on 127.0.0.1.
            folder: Where it runs. Its data are here, and its ``server.log``.
            is_ready: Asks it whether it serves clients.
            stops_at: The signal that asks it to end in good order.
        """
        self.url = url
        self.port = port
        self.log = folder / "server.log"
        self._command = [*_ends_with_us(), *map(str, command)]
        self._folder = folder
        self._is_ready = is_ready
        self._stops_at = stops_at
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process that runs, or ran last; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def is_running(self) -> bool:
        """Whether there is a process, which may be paused or not be ready."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 30) -> None:
        """Start the process and wait until it serves clients.

        Raises:
            ServerFailedError: It runs already, it ended, or it was not ready in time.
        """
        if self.is_running:
            raise ServerFailedError(self, "runs already")
        self._process = _starter.submit(self._new_process).result()
        self.wait_until_ready(timeout_s=timeout_s)

    def wait_until_ready(self, *, timeout_s: float = 30) -> None:
        """Wait for an answer that says that it serves clients.

        Raises:
            ServerFailedError: It ended, or ``timeout_s`` seconds are over.
        """
        deadline = time.monotonic() + timeout_s
        while not self._answers(timeout_s=min(1, timeout_s)):
            if not self.is_running:
                raise ServerFailedError(self, "has ended")
            if time.monotonic() > deadline:
                raise ServerFailedError(self, f"was not ready after {timeout_s} s")
            time.sleep(PAUSE_S)

    def stop(self, *, timeout_s: float = 10) -> None:
        """Ask it to end in good order, and wait until it has.

        Raises:
            ServerFailedError: It had not ended after ``timeout_s`` seconds, and was killed.
        """
        self._send(self._stops_at)
        self.resume()
        try:
            self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailedError(self, f"did not stop within {timeout_s} s") from None

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does; nothing happens where it has ended.

        Raises:
            ServerFailedError: A process that it had started did not end.
        """
        if self.is_running:
            children = self._freeze()
            send(children, signal.SIGKILL)
            self._send(signal.SIGKILL)
            self._running().wait()
            self._await(children, ENDED)

    def restart(self, *, timeout_s: float = 30) -> None:
        """Stop it if it runs, and start it again on the same port with the same data."""
        if self.is_running:
            self.stop()
        self.start(timeout_s=timeout_s)

    def pause(self) -> None:
        """Freeze it: its connections stay, the kernel accepts new ones, and nobody answers.

        Raises:
            ServerFailedError: It does not run, or a process that it has started did not stop.
        """
        if not self.is_running:
            raise ServerFailedError(self, "has ended" if self.pid else "was not started")
        children = self._freeze()
        send(children, signal.SIGSTOP)
        self._await(children, STOPPED)

    def resume(self) -> None:
        """Let it go on after a pause."""
        send(children_of(self._running().pid), signal.SIGCONT)
        self._send(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _new_process(self) -> subprocess.Popen[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                self._command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self, *, timeout_s: float) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
                return self._is_ready(connection)
        except OSError:
            return False

    def _freeze(self) -> list[int]:
        """Stop the process, and return those that it has started; until it goes on, it starts no others."""
        self._send(signal.SIGSTOP)
        with suppress(ChildProcessError):  # it has just ended by itself
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return children_of(self.pid)

    def _await(self, children: Sequence[int], states: str) -> None:
        if not have_got_to(states, children):
            raise ServerFailedError(self, f"has processes that do not get to the states {states}: {children}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailedError(self, "was not started")
        return self._process

    def _send(self, number: signal.Signals) -> None:
        self._running().send_signal(number)


def _ends_with_us() -> list[str]:
    """Return what begins a command whose process the kernel is to kill when this one ends (Linux only)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
