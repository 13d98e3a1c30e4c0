"""Kafka's own server: fetched from Maven Central once, and kept in ``.servers/`` with a storage that is still empty."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.servers.software import MissingServerError, program

POM: Final = Path(__file__).with_name("pom.xml")
KEPT: Final = Path(__file__).parents[2] / ".servers" / "kafka"

# A server of the tests lives for seconds: a JVM that starts soon is worth more than one that is fast after an hour.
# Measured on 2 cores: ready after 1.8 s, and after 4.0 s without the last two.
JVM_OPTIONS: Final = (
    "-Xmx512m",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
)

CLUSTER_ID: Final = "avx-events-test-server"
"""22 characters of base 64, as Kafka wants it."""


def has_kafka() -> bool:
    """Whether what ``pom.xml`` names now is here."""
    stamp = KEPT / POM.name
    return stamp.exists() and stamp.read_bytes() == POM.read_bytes()


def kafka_command(name: str, *arguments: object) -> list[str]:
    """Return what runs a main class of Kafka.

    Raises:
        MissingServerError: Kafka's jars or Java are not on this machine.
    """
    if not has_kafka():
        raise MissingServerError("Kafka's server")
    return _java(KEPT, name, *arguments)


def lay_empty_storage(folder: Path) -> None:
    """Make ``folder`` what a server takes for its ``log.dirs``, unless it is there already."""
    if not folder.exists():
        shutil.copytree(KEPT / "storage", folder)


def fetch_kafka(properties: Mapping[str, object]) -> None:
    """Bring the jars that ``pom.xml`` names, and format a storage, which takes a second, for all servers to copy.

    Args:
        properties: Those of a server; its ports and folder do not matter.

    Raises:
        MissingServerError: There is no Maven or no Java on this machine.
        SubprocessError: Maven or Kafka failed or hung; ``output`` has what they say.
    """
    KEPT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent) as new:
        made = Path(new) / "kafka"
        maven = (program("mvn"), "--batch-mode", "--quiet", "--file", POM)
        _run(*maven, "dependency:copy-dependencies", f"-DoutputDirectory={made / 'jars'}")
        config = Path(new) / "server.properties"
        write_properties(config, {**properties, "log.dirs": made / "storage"})
        _run(*_java(made, "kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", config))
        shutil.copy(POM, made)  # last: it says that the rest is whole
        shutil.rmtree(KEPT, ignore_errors=True)
        made.rename(KEPT)


def write_properties(path: Path, properties: Mapping[str, object]) -> None:
    """Write a file of a server's settings."""
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def _java(folder: Path, name: str, *arguments: object) -> list[str]:
    return [program("java"), *JVM_OPTIONS, "-cp", f"{folder / 'jars'}/*", name, *map(str, arguments)]


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    subprocess.run(  # noqa: S603 - our own commands
        words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
