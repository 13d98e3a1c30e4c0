"""The AsyncAPI document of an application is what the official schema of AsyncAPI 3.0 takes."""

import json
import subprocess
import tarfile
from typing import Any

import jsonschema
import pytest

from avx_events.apps.cli.program import run
from tests.deploy.programs import needed

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

SPECS = "@asyncapi/specs@6.11.1"


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema, as AsyncAPI publishes it."""
    folder = tmp_path_factory.mktemp("asyncapi")
    packed = subprocess.run(  # noqa: S603 - our own arguments
        (needed("npm"), "pack", "--silent", SPECS), cwd=folder, capture_output=True, text=True, check=True, timeout=100
    )
    with tarfile.open(folder / packed.stdout.strip()) as package:
        file = package.extractfile("package/schemas/3.0.0-without-$id.json")
        assert file is not None
        found: dict[str, Any] = json.load(file)
        return found


def document_of(application: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(("asyncapi", application)) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def validate(document: dict[str, Any], schema: dict[str, Any]) -> None:
    validator: Any = jsonschema.Draft7Validator(schema)
    validator.validate(document)


def test_the_document_is_valid(schema: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of("tests.unit.apps.cli.shop:app", capsys)

    assert document["asyncapi"] == "3.0.0"
    assert document["channels"]
    assert document["operations"]
    validate(document, schema)


def test_the_schema_finds_what_is_wrong(schema: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of("tests.unit.apps.cli.shop:app", capsys)
    first = next(iter(document["operations"].values()))
    first["action"] = "shout"

    with pytest.raises(jsonschema.ValidationError):
        validate(document, schema)
