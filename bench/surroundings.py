"""What a figure depends on besides the code: the machine, the interpreter, the versions."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.disk import synced_writes_per_second
from bench.tables import rounded


def described(packages: Iterable[str]) -> list[str]:
    """Return the lines that stand above the tables."""
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    return [
        f"avx-events {version('avx-events')}, commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}",
        f"{interpreter} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        f"a disk that makes {rounded(synced_writes_per_second())} writes a second durable, one after the other",
        ", ".join(f"{package} {_version(package)}" for package in ("msgspec", *sorted(set(packages)))),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is missing"


def _commit() -> str:
    """Return what is checked out, and whether files differ from it; ``unknown`` outside of a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run(  # noqa: S603 - no part of it comes from outside
        [git, "describe", "--always", "--dirty=, changed", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.strip() or "unknown"
