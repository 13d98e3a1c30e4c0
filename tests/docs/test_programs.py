"""Every program on a page runs alone, as who pastes it would run it, and prints what the page shows."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Program, pages, programs

ALL = [program for page in pages(ROOT) for program in programs(page)]
PROGRAMS = [pytest.param(program, id=program.place) for program in ALL if not program.is_test_file]
OVER_REDIS = [pytest.param(program, id=program.place) for program in ALL if "redis://localhost:6379" in program.source]
TEST_FILES = [pytest.param(program, id=program.place) for program in ALL if program.is_test_file]

# A program of the reader's has no plugins but those of the package and the ones that he installed.
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


def run(source: str, folder: Path, *module: str) -> "subprocess.CompletedProcess[str]":
    """Run ``source`` as a file in ``folder``, by ``module`` if given; a warning is an error."""
    (folder / "program.py").write_text(source, "utf-8")
    command = [sys.executable, "-W", "error", *module, "program.py"]
    return subprocess.run(  # noqa: S603 - our own pages
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_what_its_page_shows(
    program: Program, tmp_path: Path, at_our_brokers: Callable[[str], str]
) -> None:
    done = run(at_our_brokers(program.source), tmp_path)

    assert (done.returncode, done.stdout) == (0, program.output), done.stderr


@pytest.mark.live
@pytest.mark.parametrize("address", ["nats://localhost:4222", "kafka://localhost:9092"])
@pytest.mark.parametrize("program", OVER_REDIS)
def test_what_runs_over_redis_prints_the_same_over_the_other_brokers(
    program: Program, address: str, tmp_path: Path, at_our_brokers: Callable[[str], str]
) -> None:
    done = run(at_our_brokers(program.source.replace("redis://localhost:6379", address)), tmp_path)

    assert (done.returncode, done.stdout) == (0, program.output), done.stderr


@pytest.mark.parametrize("program", TEST_FILES)
def test_every_test_file_passes(program: Program, tmp_path: Path) -> None:
    done = run(program.source, tmp_path, "-m", "pytest")

    assert done.returncode == 0, done.stdout


def test_a_program_has_the_text_that_follows_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\nprint('a snippet')\n```\n\n```text\nno output of a program\n```\n\n"
        "```python\nasyncio.run(main())\n```\n\n```text\none\n\ntwo\n```\n\n"
        "```python\nasyncio.run(silent())\n```\n\nSo it prints nothing.\n\n```text\nabout something else\n```\n"
    )

    assert programs(page) == [
        Program("page.md:11", "asyncio.run(main())\n", "one\n\ntwo\n"),
        Program("page.md:21", "asyncio.run(silent())\n", ""),
    ]
