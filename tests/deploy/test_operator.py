"""What the Prometheus operator reads is what its own resource definitions take, by models that are made of these.

Kubernetes' schemas do not have them. The package with the models brings a plugin into every run of pytest that can find
it, so it is installed into a folder of this test's own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any, Final

import pytest

from tests.deploy.files import documents

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

PACKAGES: Final = ("cloudcoil==0.6.0", "cloudcoil-models-prometheus-operator==0.80.1.0")
INSTALLER: Final = ("uv", "pip") if which("uv") else (sys.executable, "-m", "pip")
MONITORS: Final = documents("kubernetes/servicemonitor.yaml")
PROGRAM: Final = """
import json, sys
from cloudcoil.models.prometheus_operator import v1
from pydantic import ValidationError
document = json.load(sys.stdin)
try:
    getattr(v1, document["kind"]).model_validate(document, extra="forbid")
except ValidationError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the models; what they need besides is in the environment of the tests."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(  # noqa: S603 - our own arguments
        [*INSTALLER, "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES], check=True, timeout=100
    )
    return folder


def problems_of(document: dict[str, Any], models: Path) -> str:
    """Return what is wrong with a manifest; nothing where all is well."""
    done = subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(document),
        env={**os.environ, "PYTHONPATH": str(models)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", [pytest.param(document, id=document["kind"]) for document in MONITORS])
def test_a_manifest_has_the_fields_that_the_operator_knows(document: dict[str, Any], models: Path) -> None:
    assert problems_of(document, models) == ""


@pytest.mark.parametrize(
    "mistake", [{"intervall": "15s"}, {"interval": "15 seconds"}, {"relabelings": [{"action": "retain"}]}]
)
def test_the_check_finds_what_the_operator_would_not_take(mistake: dict[str, Any], models: Path) -> None:
    [monitor] = [document for document in MONITORS if document["kind"] == "ServiceMonitor"]
    [endpoint] = monitor["spec"]["endpoints"]
    mistaken = {**monitor, "spec": {**monitor["spec"], "endpoints": [endpoint | mistake]}}

    assert f"spec.endpoints.0.{next(iter(mistake))}" in problems_of(mistaken, models)
