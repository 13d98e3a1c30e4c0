"""Installs what the servers of the tests need: ``python -m tests.servers``."""

import os
import subprocess
import sys
from collections.abc import Callable

from tests.servers.kafka import properties
from tests.servers.kafka_jars import fetch_kafka, has_kafka
from tests.servers.software import MissingServerError, install


def prepare_programs() -> None:
    """Install Redis, NATS, PostgreSQL, Java and a browser, what deployments are checked with, and Maven if needed."""
    checks = ("promtool", "sqlite3", "npm")
    install(
        *("redis-server", "nats-server", "postgres", "java", "chromium"), *checks, *(() if has_kafka() else ("mvn",))
    )


def prepare_kafka() -> None:
    """Fetch Kafka's server, unless it is here."""
    if not has_kafka():
        fetch_kafka(properties(0, 0))


def problem_of(step: Callable[[], None]) -> str:
    """Return why a step failed; nothing if it did not."""
    try:
        step()
    except (MissingServerError, subprocess.SubprocessError) as error:
        return f"{error}\n{getattr(error, 'output', '')}\n"
    return ""


if __name__ == "__main__":
    problems = problem_of(prepare_programs) + problem_of(prepare_kafka)
    sys.stderr.write(problems)
    sys.exit(bool(problems) and os.environ.get("CI") == "true")  # elsewhere the tests that need it are skipped
