"""``pip install 'avx-events[service]'`` is enough to run the service."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Final

from tests.docs.pages import ROOT

EXTRAS: Final[dict[str, list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
PROGRAM: Final = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import examples.production_service.__main__, examples.production_service.worker
from avx_events.observability import Settings
from examples.production_service.http.app import http_app
from examples.production_service.service import running_service
import asyncio

async def main():
    async with running_service(Settings.load({"AVX_EVENTS__STORE_URL": "sqlite://"})) as service:
        http_app(service)
        print(len(await service.metrics.text()) > 0)

asyncio.run(main())
"""


def packages_of(extra: str) -> set[str]:
    """Return the names of the packages that an extra has, those of the extras in it too."""
    found: set[str] = set()
    for requirement in EXTRAS[extra]:
        if inner := re.match(r"avx-events\[(.+)\]", requirement):
            found.update(*(packages_of(name) for name in inner[1].split(",")))
        else:
            found.add(re.split(r"[\[<>=]", requirement)[0].lower())
    return found


def test_the_service_starts_without_what_other_extras_have() -> None:
    others = packages_of("all") - packages_of("service")
    missing = {
        module
        for module, names in packages_distributions().items()
        if {name.lower().replace("_", "-") for name in names} & others
    }

    done = subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-c", PROGRAM, *sorted(missing)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert missing >= {"opentelemetry", "redis", "nats", "asyncpg", "jinja2", "pydantic"}
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
