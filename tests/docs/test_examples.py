"""Every ``examples/*.py`` runs as its reader would run it, and prints what the file beside this test says.

What differs from run to run, ids, durations and the place of a broker, stands in the expected output as ``<id>``,
``<time>`` and ``<url>``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.brokers import kept_in_kafka, kept_in_nats, kept_in_redis

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in ROOT.glob("examples/*.py")}
OUTPUTS = {path.stem: path for path in (Path(__file__).parent / "example_outputs").glob("*.txt")}

# Those that need a broker, and the fixtures that say where one is.
ON_BROKERS = {"distributed_orders": ["redis_url", "nats_url", "kafka_url"]}

TIMEOUT_S = 30


def run(program: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``program`` in ``folder``, which is also where its temporary files go; warnings are errors."""
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1", "TMPDIR": str(folder)}
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(  # noqa: S603 - our own program
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )


def normalised(output: str) -> str:
    """Return ``output`` without what differs from run to run."""
    output = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>", output)
    output = re.sub(r"\b[0-9]+\.[0-9] ms\b", "<time>", output)
    return re.sub(r"\b\w+://[\w.:]+[0-9]", "<url>", output)


LEFT_BY_EXAMPLES = {"redis_url": kept_in_redis, "nats_url": kept_in_nats, "kafka_url": kept_in_kafka}


def test_every_example_has_an_expected_output_and_every_output_an_example() -> None:
    assert EXAMPLES
    assert OUTPUTS.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - ON_BROKERS.keys()))
def test_an_example_prints_what_is_expected_of_it_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    done = run(EXAMPLES[name], tmp_path)

    assert done.stderr == ""
    assert normalised(done.stdout) == OUTPUTS[name].read_text("utf-8")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.live
@pytest.mark.parametrize(
    ("name", "broker"), [(name, broker) for name, brokers in ON_BROKERS.items() for broker in brokers]
)
def test_an_example_prints_the_same_on_every_broker_and_leaves_nothing_there(
    name: str, broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(broker)

    done = run(EXAMPLES[name], tmp_path, url)

    assert done.stderr == ""
    assert normalised(done.stdout) == OUTPUTS[name].read_text("utf-8")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert LEFT_BY_EXAMPLES[broker](url, "example-*") == []


def test_an_example_says_in_one_line_that_no_broker_answers(tmp_path: Path) -> None:
    done = run(EXAMPLES["distributed_orders"], tmp_path, "redis://127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr.startswith("redis://127.0.0.1:1 is not available: ")
    assert done.stderr.count("\n") == 1
