"""Where the programs of the servers are, and how they get onto a machine that has Debian's packages."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "redis-server": "redis-server",
    "nats-server": "nats-server",
    "postgres": "postgresql",
    "java": "default-jre-headless",
    "mvn": "maven",
    "promtool": "prometheus",
    "sqlite3": "sqlite3",
    "chromium": "chromium",
    "npm": "npm",
}
"""Which of Debian's packages a program is in."""

PLACES: Final = ("/usr/local/sbin", "/usr/sbin")
"""Where servers are that are not on ``PATH``."""

POLICY: Final = Path("/usr/sbin/policy-rc.d")
CLUSTERS: Final = Path("/etc/postgresql-common/createcluster.d/avx-events.conf")


class MissingServerError(Exception):
    """A program of a server is not on this machine."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not on this machine. `make servers` installs it where it may. Tests that need no server of "
            "their own also take what `docker compose up --wait` starts, or any other, from AVX_REDIS_URL, "
            "AVX_NATS_URL, AVX_KAFKA_URL or AVX_POSTGRES_URL: docs/how-to/run-the-tests-against-brokers.md"
        )


def program(name: str) -> str:
    """Return where a program is.

    Raises:
        MissingServerError: It is not on ``PATH``, nor where Debian puts servers.
    """
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join((*PLACES, *_places_of_postgres())))
    if found is None:
        raise MissingServerError(name)
    return found


def install(*names: str) -> None:
    """Install those programs that are missing, where this user may.

    Raises:
        MissingServerError: One is still missing.
        SubprocessError: Debian's package manager failed or hung; ``output`` has what it says.
    """
    missing = [PACKAGES[name] for name in names if not _is_here(name)]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        _apt_get_install(missing)
    for name in names:
        program(name)


def _places_of_postgres() -> list[str]:
    """Return where Debian has the programs of each version of PostgreSQL, the newest first."""
    places = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    return [str(place) for place in sorted(places, key=lambda place: float(place.parent.name), reverse=True)]


def _is_here(name: str) -> bool:
    try:
        program(name)
    except MissingServerError:
        return False
    return True


def _apt_get_install(packages: list[str]) -> None:
    apt_get = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120")
    with _no_service_starts(), _no_cluster_is_made():
        _run(*apt_get, "update")
        _run(*apt_get, "install", "--yes", "--no-install-recommends", *packages)


def _run(*command: str) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    output = subprocess.PIPE
    subprocess.run(  # noqa: S603 - our own commands
        command, env=quiet, check=True, stdout=output, stderr=subprocess.STDOUT, text=True, timeout=600
    )


@contextmanager
def _no_service_starts() -> Generator[None]:
    """Keep Debian from starting a service of its own on the default port with the package.

    Source:
        https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
    """
    with _for_now(POLICY, "#!/bin/sh\nexit 101\n"):
        yield


@contextmanager
def _no_cluster_is_made() -> Generator[None]:
    """Keep Debian from making databases of its own with PostgreSQL's package, which takes seconds.

    Source:
        https://manpages.debian.org/bookworm/postgresql-common/pg_createcluster.1.en.html
    """
    with _for_now(CLUSTERS, "create_main_cluster = false\n"):
        yield


@contextmanager
def _for_now(file: Path, text: str) -> Generator[None]:
    if file.exists():  # as the policy in the images of containers; whoever put it there has decided
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    try:
        yield
    finally:
        file.unlink()
