"""A place for databases that is on a disk, and how fast that disk makes writes durable."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from time import perf_counter
from typing import Final

# Where it is there it is a disk; the system's own choice, /tmp, is often memory, whose fsync does nothing.
_PERSISTENT: Final = Path("/var/tmp")  # noqa: S108 - only the folder that TemporaryDirectory makes in it is used
_PROBES: Final = 200
_PROBE_BYTES: Final = 4096


@contextmanager
def folder_on_disk() -> Generator[Path, None, None]:
    """Give an empty folder that is gone afterwards."""
    with TemporaryDirectory(prefix="avx-bench-", dir=_parent()) as folder:
        yield Path(folder)


def synced_writes_per_second() -> float:
    """Return how many appends of 4 KiB a second are on the disk, each before the next: the bound of single appends."""
    with TemporaryFile(prefix="avx-bench-", dir=_parent(), buffering=0) as file:
        started = perf_counter()
        for _ in range(_PROBES):
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
        return _PROBES / (perf_counter() - started)


def _parent() -> Path | None:
    return _PERSISTENT if _PERSISTENT.is_dir() and os.access(_PERSISTENT, os.W_OK) else None
