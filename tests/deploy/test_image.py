"""The Dockerfile and compose's file: by a linter, by a schema, and by what is there to be copied and run."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from deploy.parts.edge import BUS_URL
from deploy.parts.worker import INVOICES_URL
from tests.deploy.files import DEPLOY, documents
from tests.docs.pages import ROOT

DOCKERFILE: Final = DEPLOY / "Dockerfile"
TEXT: Final = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text("utf-8"))
LINES: Final = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
LAST_STAGE: Final = LINES[max(n for n, line in enumerate(LINES) if line.startswith("FROM")) :]
[COMPOSE] = documents("compose.yaml")
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
BROKERS: Final = {"redis", "nats", "kafka"}


def modules(command: list[str]) -> list[str]:
    """Return what ``python -m`` runs in a command."""
    return [command[at + 1] for at, word in enumerate(command) if word == "-m"]


def copied() -> set[str]:
    """Return what is copied from the clone."""
    sources: set[str] = set()
    for line in LINES:
        if line.startswith("COPY") and "--from" not in line:
            sources.update(line.split()[1:-1])
    return sources


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(  # noqa: S603 - our own file
        [str(hadolint), str(DOCKERFILE)], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.stdout == ""
    assert done.returncode == 0


def test_what_is_copied_is_there_and_is_all_that_the_builder_sees() -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignore if line.startswith("!")}

    assert "*" in ignore
    assert copied() == let_in
    for source in copied():
        assert (ROOT / source).exists(), source


def test_the_last_stage_is_no_root_and_stops_by_sigterm() -> None:
    assert "USER 10001:10001" in LAST_STAGE
    assert "STOPSIGNAL SIGTERM" in LAST_STAGE
    assert [line for line in LAST_STAGE if line.startswith("HEALTHCHECK")]
    assert [line for line in LAST_STAGE if line.startswith("RUN") and "uninstall" in line]
    assert not [line for line in LAST_STAGE if "pip install" in line or "apt-get" in line]


def test_what_is_installed_are_extras_that_there_are() -> None:
    [extras] = re.findall(r'"\.\[([\w,]+)\]"', TEXT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_the_image_has_what_its_commands_import(tmp_path: Path) -> None:
    [command] = [json.loads(line.removeprefix("CMD ")) for line in LAST_STAGE if line.startswith("CMD")]
    commands = [
        command,
        *(service["command"] for service in SERVICES.values() if "build" in service and "command" in service),
    ]
    wanted = sorted({module for words in commands for module in modules(words)})
    for source in copied() - {"src"}:
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ROOT / source)

    assert wanted == ["deploy.parts.relay", "deploy.parts.worker", "examples.production_service"]
    importing = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = subprocess.run(  # noqa: S603 - our own modules
        [sys.executable, "-c", importing, *wanted],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_has_the_fields_that_its_schema_knows() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"

    jsonschema.validate(COMPOSE, json.loads(schema.read_text("utf-8")))


@pytest.mark.parametrize("profile", sorted(BROKERS))
def test_a_profile_has_its_broker_a_relay_and_workers_and_no_other_broker(profile: str) -> None:
    started = {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}

    assert started == {"service", profile, f"relay-{profile}", f"worker-{profile}", "postgres"}
    for name in started:
        assert SERVICES[name].get("depends_on", {}).keys() <= started
    for part in (f"relay-{profile}", f"worker-{profile}"):
        assert SERVICES[part]["environment"][BUS_URL].startswith(f"{profile}://{profile}:")


def test_workers_have_their_database_and_all_that_keeps_something_a_volume() -> None:
    for name in (f"worker-{broker}" for broker in BROKERS):
        assert SERVICES[name]["environment"][INVOICES_URL].startswith("postgresql://")
    for name in (*BROKERS, "postgres", "service"):
        [volume] = SERVICES[name]["volumes"]
        assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_what_is_accepted_is_on_disk() -> None:
    assert SERVICES["redis"]["command"][1:5] == ["--appendonly", "yes", "--appendfsync", "always"]
    assert SERVICES["redis"]["command"][-1] == "noeviction"
    assert "sync_interval: always" in COMPOSE["configs"]["nats"]["content"]
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_FLUSH_INTERVAL_MESSAGES"] == 1
    assert "fsync=on" in SERVICES["postgres"]["command"]
