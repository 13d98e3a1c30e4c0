"""Commands of a page, done as who reads it does them, and what they print held against what the page shows.

Ids and instants are those of the run: an id on the page stands for the one that was printed in its place, from then on
in commands, too. Where the page has ``…``, it leaves something out: in a line, or by itself as many lines as there are.
"""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.live.service_process import ROOT

LIMIT_S: Final = 30.0

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STEP: Final = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{3})?Z")
_PART: Final = re.compile(f"({_ID.pattern}|{_INSTANT.pattern}|^…\n|…)", re.MULTILINE)


class Step(NamedTuple):
    """A command, and the lines that the page shows below it."""

    command: str
    output: str


def section(page: str, heading: str) -> str:
    """Return what stands below a heading of the second level; what is above the first of them, for ``""``."""
    below = page.partition(f"\n## {heading}\n")[2] if heading else page
    return below.partition("\n## ")[0]


def steps(text: str) -> list[Step]:
    """Return the commands in the console blocks of ``text``."""
    return [Step(found[1], found[2]) for block in _BLOCK.finditer(text) for found in _STEP.finditer(block[1])]


class Walk:
    """Follows a page in a shell, whose working folder and variables stay from one command to the next."""

    def __init__(self, process: Process, addresses: dict[str, str]) -> None:
        """Follow it where each address on the page is another one here."""
        self._process: Final = process
        self._here: Final = dict(addresses)

    async def follow(self, step: Step) -> None:
        """Do a step; fail where the command does, or where it prints something else than the page shows."""
        printed, code = await self._run(self.here(step.command))
        found = re.fullmatch(self._pattern(step.output), printed)
        if found is None or code:
            pytest.fail(f"$ {step.command}\n\nshown:\n{step.output}\n\nprinted, with code {code}:\n{printed}")
        self._here.update({_id_of(group): seen for group, seen in found.groupdict().items()})

    def here(self, text: str) -> str:
        """Return ``text`` with the ids and addresses of this run in the place of those on the page."""
        for on_page, here in self._here.items():
            text = text.replace(on_page, here)
        return text

    async def _run(self, command: str) -> tuple[str, int]:
        """Return the lines that a command prints, without blanks at their ends, and its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # From nowhere: a command that reads would read the next one.
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\x1e%s\\x1f' $?\n".encode())
        async with asyncio.timeout(LIMIT_S):
            said = (await self._process.stdout.readuntil(b"\x1f")).decode()
        printed, _, code = said.removesuffix("\x1f").rpartition("\x1e")
        return "".join(f"{line.rstrip()}\n" for line in printed.splitlines()), int(code)

    def _pattern(self, output: str) -> str:
        """Return the regular expression of what is printed where the page shows ``output``."""
        new: set[str] = set()
        return "".join(self._part(part, new) for part in _PART.split(output))

    def _part(self, part: str, new: set[str]) -> str:
        """Return the expression of one part; ids that are met for the first time are added to ``new``."""
        if part.startswith("…"):
            return "(?:.*\n)*" if part.endswith("\n") else ".*"
        if _INSTANT.fullmatch(part):
            return _INSTANT.pattern
        if not _ID.fullmatch(part) or part in self._here:
            return re.escape(self.here(part))
        if part in new:
            return f"(?P={_group_of(part)})"
        new.add(part)
        return f"(?P<{_group_of(part)}>{_ID.pattern})"


def _group_of(id_on_page: str) -> str:
    return f"id_{id_on_page.replace('-', '_')}"


def _id_of(group: str) -> str:
    return group.removeprefix("id_").replace("_", "-")


@asynccontextmanager
async def walk_in(folder: Path, addresses: dict[str, str]) -> AsyncGenerator[Walk]:
    """Open a shell in ``folder``, as in the folder of the clone after ``make setup``.

    Args:
        folder: Where it begins; what programs write is written there.
        addresses: Where servers are, by where the page says that they are.
    """
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".curlrc").write_text("silent\nshow-error\n")  # no meter, which it shows where nobody looks
    process = await asyncio.create_subprocess_exec(
        "bash",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CURL_HOME": str(folder)},
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        yield Walk(process, addresses)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
