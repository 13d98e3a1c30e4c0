"""Every ``examples/*.py`` runs as its reader would run it, and prints what the file beside this test says.

What differs from run to run, ids and durations, stands in the expected output as ``<id>`` and ``<time>``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in ROOT.glob("examples/*.py")}
OUTPUTS = {path.stem: path for path in (Path(__file__).parent / "example_outputs").glob("*.txt")}

TIMEOUT_S = 30


def run(program: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run ``program`` in ``folder``, which is also where its temporary files go; warnings are errors."""
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1", "TMPDIR": str(folder)}
    command = [sys.executable, str(program)]
    return subprocess.run(  # noqa: S603 - our own program
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )


def normalised(output: str) -> str:
    """Return ``output`` without what differs from run to run."""
    output = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>", output)
    return re.sub(r"\b[0-9]+\.[0-9] ms\b", "<time>", output)


def test_every_example_has_an_expected_output_and_every_output_an_example() -> None:
    assert EXAMPLES
    assert OUTPUTS.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_prints_what_is_expected_of_it_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    done = run(EXAMPLES[name], tmp_path)

    assert done.stderr == ""
    assert normalised(done.stdout) == OUTPUTS[name].read_text("utf-8")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
