"""The files of ``deploy``, read."""

import json
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"


def documents(pattern: str) -> list[dict[str, Any]]:
    """Return all documents of the YAML files of ``deploy`` that match."""
    found = [
        document for path in sorted(DEPLOY.glob(pattern)) for document in yaml.safe_load_all(path.read_text("utf-8"))
    ]
    assert found
    return found


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard."""
    read: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    return read
