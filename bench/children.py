"""Figures that only a process of its own can give."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Final

DEADLINE_S: Final = 100.0
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
