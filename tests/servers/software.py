"""Where the programs of the servers are, and how they get onto a machine: ``python -m tests.servers.software``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PROGRAMS: Final = {"redis-server": "redis-server", "nats-server": "nats-server"}
"""Which of Debian's packages a program is in."""

POLICY: Final = Path("/usr/sbin/policy-rc.d")


class MissingServerError(Exception):
    """A program of a server is not on this machine."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not on this machine. `make servers` installs it where it may. Tests that need no server of "
            "their own also take one that runs elsewhere, from AVX_REDIS_URL and AVX_NATS_URL"
        )


def program(name: str) -> str:
    """Return where a program is.

    Raises:
        MissingServerError: It is not on ``PATH``, nor where Debian puts servers.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin")
    if found is None:
        raise MissingServerError(name)
    return found


def install() -> None:
    """Install what is missing, where this user may.

    Raises:
        MissingServerError: A program is still missing.
    """
    missing = [package for name, package in PROGRAMS.items() if not _is_here(name)]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        _apt_get_install(missing)
    for name in PROGRAMS:
        program(name)


def _is_here(name: str) -> bool:
    try:
        program(name)
    except MissingServerError:
        return False
    return True


def _apt_get_install(packages: list[str]) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt_get = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0")
    with _no_service_starts():
        subprocess.run([*apt_get, "update"], env=quiet, check=True)  # noqa: S603 - our own command
        install = [*apt_get, "install", "--yes", "--no-install-recommends", *packages]
        subprocess.run(install, env=quiet, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - likewise


@contextmanager
def _no_service_starts() -> Generator[None]:
    """Keep Debian from starting a service of its own on the default port with the package.

    Source:
        https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
    """
    if POLICY.exists():  # as in the images of containers; whoever put it there has decided
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    try:
        install()
    except (MissingServerError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(os.environ.get("CI") == "true")  # elsewhere the tests that need it are skipped
