"""The processes that a server starts, as PostgreSQL does for each client (found on Linux only; elsewhere none)."""

import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

STOPPED: Final = "TZX"
"""The states of processes that do nothing: stopped by a signal, or ended.

Source:
    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
"""

ENDED: Final = "ZX"

PAUSE_S: Final = 0.001
"""How long processes that have not yet got to a state are left alone."""


def children_of(parent: int) -> list[int]:
    """Return the ids of the processes that ``parent`` has started; if it is stopped, they stay its own."""
    there = [entry.name for entry in Path("/proc").glob("[0-9]*")]
    return [int(pid) for pid in there if _state_and_parent(pid)[1] == str(parent)]


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def have_got_to(states: str, pids: Collection[int], *, timeout_s: float = 10) -> bool:
    """Wait until each process is in one of the states, or gone; return whether they were in time."""
    deadline = time.monotonic() + timeout_s
    while not all(_state_and_parent(str(pid))[0] in states for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


def _state_and_parent(pid: str) -> tuple[str, str]:
    try:
        stat = Path("/proc", pid, "stat").read_bytes()
    except OSError:  # it has gone
        return "X", ""
    state, parent, *_ = stat.rpartition(b")")[2].decode().split()  # the name before may have spaces and parentheses
    return state, parent
